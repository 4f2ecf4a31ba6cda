//! SPECIFICATION.md makes numbered promises; each names the tests that keep it, and those tests exist.
//!
//! The form is one list item a promise, which may go over several lines:
//!
//! ```text
//! - **P-12** The port is refused at once when no guard lives.
//!   Tests: `tests/steering.rs::a_dead_guard_leaves_the_port_closed`, `guard-user/src/kernel/pins.rs::...`
//! ```

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

#[derive(Debug, PartialEq, Eq)]
struct Promise {
    number: u32,
    /// Path below the checkout, and the name of the function.
    tests: Vec<(String, String)>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this package is in the checkout").to_owned()
}

fn promises(text: &str) -> Result<Vec<Promise>, String> {
    text.split("\n- **P-").skip(1).map(promise).collect()
}

fn promise(item: &str) -> Result<Promise, String> {
    let (number, rest) = item.split_once("**").ok_or_else(|| format!("no `**` after the number: {item}"))?;
    let number = number.parse().map_err(|error| format!("{number:?} is no number: {error}"))?;
    // The item ends at the first empty line.
    let rest = rest.split("\n\n").next().unwrap_or(rest);
    let (_, tests) = rest.split_once("Tests:").ok_or_else(|| format!("P-{number} names no tests"))?;
    // Between the first and second backtick, the third and fourth, and so on.
    let tests: Vec<_> =
        tests.split('`').skip(1).step_by(2).map(|name| named(number, name)).collect::<Result<_, _>>()?;
    if tests.is_empty() {
        return Err(format!("P-{number} names no tests"));
    }
    Ok(Promise { number, tests })
}

fn named(number: u32, name: &str) -> Result<(String, String), String> {
    let (file, function) =
        name.split_once("::").ok_or_else(|| format!("P-{number}: {name:?} is not `file::test`"))?;
    Ok((file.to_owned(), function.to_owned()))
}

/// Whether the text has a test function of that name: `#[test]`, `#[tokio::test]`, or one inside `proptest!`.
fn has_test(text: &str, function: &str) -> bool {
    let head = format!("fn {function}(");
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let Some(at) = lines.iter().position(|line| line.trim_start_matches("async ").starts_with(&head)) else {
        return false;
    };
    // Up over attributes and comments.
    let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#[") || line.starts_with("//"));
    above.copied().any(|line| line.starts_with("#[") && (line.contains("test]") || line.contains("test(")))
}

#[test]
fn every_promise_names_tests_and_every_named_test_exists() {
    let text =
        fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md is in the checkout");
    let promises = promises(&text).expect("SPECIFICATION.md has the form that the top of this file shows");
    assert!(!promises.is_empty(), "no promise was found");
    let mut broken = Vec::new();
    for Promise { number, tests } in &promises {
        for (file, function) in tests {
            match fs::read_to_string(root().join(file)) {
                Err(error) => broken.push(format!("P-{number}: {file}: {error}")),
                Ok(text) if !has_test(&text, function) => {
                    broken.push(format!("P-{number}: {file} has no test `{function}`"));
                }
                Ok(_) => {}
            }
        }
    }
    assert!(broken.is_empty(), "promises without their tests:\n{}", broken.join("\n"));
}

#[test]
fn every_promise_has_a_number_of_its_own() {
    let text =
        fs::read_to_string(root().join("SPECIFICATION.md")).expect("SPECIFICATION.md is in the checkout");
    let mut seen = BTreeSet::new();
    for Promise { number, .. } in promises(&text).expect("SPECIFICATION.md has the right form") {
        assert!(seen.insert(number), "P-{number} stands twice");
    }
}

#[test]
fn a_promise_without_tests_or_with_a_wrong_name_is_refused() {
    let read = |item: &str| promises(&format!("# x\n\n- **P-{item}"));
    assert_eq!(
        read("7** It holds.\n  Tests: `a.rs::b`,\n  `c.rs::d`\n\nMore text with `code`.").unwrap(),
        [Promise { number: 7, tests: vec![("a.rs".into(), "b".into()), ("c.rs".into(), "d".into())] }]
    );
    assert!(read("7** It holds.\n").unwrap_err().contains("names no tests"));
    assert!(read("7** It holds.\n  Tests: none yet\n").unwrap_err().contains("names no tests"));
    assert!(read("7** It holds.\n  Tests: `b`\n").unwrap_err().contains("is not `file::test`"));
    assert!(read("x** It holds.\n").unwrap_err().contains("is no number"));
}

#[test]
fn a_function_that_is_no_test_keeps_no_promise() {
    assert!(has_test("    #[test]\n    fn a() {}\n", "a"));
    assert!(has_test("#[tokio::test(flavor = \"multi_thread\")]\nasync fn a() {}\n", "a"));
    assert!(!has_test("#[test]\nfn b() {}\n\nfn a() {}\n", "a"));
    assert!(!has_test("#[test]\nfn ab() {}\n", "a"));
}
