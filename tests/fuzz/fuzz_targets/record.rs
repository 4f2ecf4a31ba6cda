//! Lines of the audit trail: the guard's reader and the offline verifier's take the same ones.
#![no_main]

use guard_fuzz::audit;
use guard_fuzz::verifier::{self, Said};
use libfuzzer_sys::fuzz_target;

/// Of the C2SP note format's own example.
const KEY: &str = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW";
const FIRST: &str = r#"{"seq":0,"prev":"0000000000000000000000000000000000000000000000000000000000000000","time":"2026-01-01T00:00:00.000000Z","kind":"genesis","format":1,"origin":"PeterNeumann"}"#;

fn compare(line: &[u8]) {
    let (ours, theirs) = (audit::is_second(KEY, FIRST, line), verifier::second(FIRST, line));
    match (&ours, &theirs) {
        (Ok(()), Err(why)) => panic!("the offline verifier refuses what the guard takes: {why}"),
        (Err(why), Ok(Said::Alone)) => panic!("the guard refuses what the offline verifier takes: {why}"),
        // What it says of records before it, either may find wrong.
        _ => {}
    }
}

fuzz_target!(|bytes: &[u8]| {
    compare(bytes);
    // No made-up bytes are the hash of the line before.
    let head = format!(r#"{{"seq":1,"prev":"{}","time":""#, verifier::prev(FIRST));
    compare(&[head.as_bytes(), bytes].concat());
});
