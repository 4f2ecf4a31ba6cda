//! HTTP/1.1 framing: the verdict is the same however the bytes are cut, and one that is refused stays so.
#![no_main]

use guard_fuzz::http::framing::{FramingError, Inspector};
use guard_fuzz::pieces;
use libfuzzer_sys::fuzz_target;

const HEAD_BYTES_MAX: usize = 512;

/// The verdict, and the inspector as it is then.
fn verdict(cut: &[&[u8]]) -> (Result<(), FramingError>, Inspector) {
    let mut inspector = Inspector::new(HEAD_BYTES_MAX);
    for piece in cut {
        let verdict = inspector.inspect(piece);
        assert_eq!(verdict.err(), inspector.fault());
        if verdict.is_err() {
            assert_eq!(inspector.inspect(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), verdict, "it is forgiven");
            return (verdict, inspector);
        }
    }
    (Ok(()), inspector)
}

fuzz_target!(|input: &[u8]| {
    let Some((seed, bytes)) = input.split_first() else { return };
    let (whole, after) = verdict(&[bytes]);
    let (cut, after_cut) = verdict(&pieces(bytes, *seed));
    assert_eq!(whole, cut, "the verdict depends on the cuts");
    let (single, _) = verdict(&bytes.chunks(1).collect::<Vec<_>>());
    assert_eq!(whole, single, "the verdict depends on the cuts");
    if whole.is_ok() {
        assert_eq!(
            (after.is_in_head(), after.is_in_body()),
            (after_cut.is_in_head(), after_cut.is_in_body())
        );
    }
    // What is refused now is refused with more behind it.
    if whole.is_err() {
        assert!(verdict(&[bytes, b"\r\n\r\n"]).0.is_err());
    }
});
