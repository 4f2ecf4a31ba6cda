//! Golden files of messages: cases of a text and what is said about it.
//!
//! ```text
//! === what is wrong
//! the file's text
//! ---
//! the message, line by line
//! ```
//! Run the test with `BLESS=1` to write what is said now, then read the difference.

use std::fmt::Write;
use std::path::Path;

/// Compares what `say` says about each case in `file` with what stands there; returns the number of cases.
pub(crate) fn compare(file: &str, say: impl Fn(&str) -> String) -> usize {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
    let golden = std::fs::read_to_string(&path).unwrap();
    let mut now = String::new();
    let mut count = 0;
    for case in golden.split("=== ").skip(1) {
        let (title, rest) = case.split_once('\n').unwrap();
        let (text, _) = rest.split_once("\n---\n").unwrap();
        writeln!(now, "=== {title}\n{text}\n---\n{}", say(text)).unwrap();
        count += 1;
    }
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(&path, &now).unwrap();
    }
    for (now, before) in now.split("=== ").zip(golden.split("=== ")) {
        assert_eq!(now, before, "BLESS=1 writes what is said now to {file}");
    }
    count
}
