//! What looking into results costs, in MB/s on one core, where there is nothing to be found: all detectors, as a rule that masks
//! all kinds asks for. Beside it plain readers of the same bytes, in the same run.
//!
//! ```text
//! cargo run --release --example inspect_cost
//! ```

mod texts;

use std::hint::black_box;
use std::time::Duration;

use mcp_guard::inspect::{self, Kinds};
use mcp_guard::rpc::reply;
use regex::bytes::{RegexSet, RegexSetBuilder};
use serde::de::IgnoredAny;
use texts::Sort;

const ROUNDS: usize = 9;
/// What a round takes at least.
const ROUND: Duration = Duration::from_millis(12);
const SIZES: [(&str, usize); 3] = [("1 KiB", 1 << 10), ("64 KiB", 1 << 16), ("4 MiB", 1 << 22)];

/// Much the same by a library of patterns: no check digits, no escapes, no other spaces.
const PATTERNS: [&str; 8] = [
    r"[A-Za-z0-9._%+'-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63}){0,8}\.[A-Za-z]{2,24}",
    r"\+[1-9][0-9 ()./-]{8,20}",
    r"\b[3-6][0-9]{3}[ .-]?[0-9]{4}[ .-]?[0-9]{4}[ .-]?[0-9]{1,7}\b",
    r"\b[A-Za-z]{2}[0-9]{2}[ -]?[A-Za-z0-9]{4}[ -]?[A-Za-z0-9]{4}[ -]?[A-Za-z0-9]{3,22}\b",
    r"\b[0-9]{3}-[0-9]{2}-[0-9]{4}\b",
    r"\b(?:[0-9]{8}-?[A-Za-z]|[XYZ][0-9]{7}[A-Z]|[0-9]{11})\b",
    r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{22}|glpat-[A-Za-z0-9_-]{20}|xox[bpars]-[A-Za-z0-9-]{10}|[rs]k_live_[A-Za-z0-9]{16}|AIza[A-Za-z0-9_-]{35}|npm_[A-Za-z0-9]{36}|hf_[A-Za-z0-9]{30}",
    r"eyJ[A-Za-z0-9_-]{7,512}\.eyJ[A-Za-z0-9_-]{1,512}\.[A-Za-z0-9_-]*|-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----",
];

/// One that reads a text to its end.
type Reader<'r> = (&'static str, Box<dyn Fn(&[u8]) -> bool + 'r>);

fn main() {
    let patterns: RegexSet = RegexSetBuilder::new(PATTERNS).unicode(false).build().expect("patterns");
    let readers: [Reader<'_>; 6] = [
        ("detect", Box::new(|text| inspect::look(text, Kinds::ALL, true).is_empty())),
        ("read", Box::new(|text| reply::look(text).is_ok())),
        ("both", Box::new(|text| reply::look(text).is_ok() && is_masked_as_it_is(text))),
        ("serde_json", Box::new(|text| serde_json::from_slice::<IgnoredAny>(text).is_ok())),
        (
            "regex set",
            Box::new(|text| {
                // To the end, whatever it takes for a find.
                black_box(patterns.matches(text).len());
                true
            }),
        ),
        ("memchr", Box::new(|text| memchr::memchr(0, text).is_none())),
    ];
    println!(
        "MB/s of one core's time. detect: what inspection adds; read: what the guard reads of any answer; both: all of it."
    );
    print!("{:<16} {:<7}", "", "");
    for (name, _) in &readers {
        print!(" {name:>10}");
    }
    println!(" {:>12} {:>10}", "detect:serde", "slowest");
    for sort in Sort::ALL {
        for (size, bytes) in SIZES {
            let text = texts::result(sort, bytes, holds_nothing);
            assert!(inspect::look(&text, Kinds::ALL, true).is_empty(), "{}", sort.name());
            let speeds = measure(&readers, &text);
            print!("{:<16} {size:<7}", sort.name());
            for (median, _) in &speeds {
                print!(" {median:>10.0}");
            }
            println!(" {:>12.1} {:>10.0}", speeds[0].0 / speeds[3].0, speeds[0].1);
        }
    }
}

/// What the guard does with a message that was read, when a rule masks.
fn is_masked_as_it_is(text: &[u8]) -> bool {
    let is_text = !text.contains(&0) && std::str::from_utf8(text).is_ok();
    is_text && inspect::look(text, Kinds::ALL, true).is_empty()
}

/// Ids that are another kind of number by chance are left out.
fn holds_nothing(piece: &str) -> bool {
    inspect::look_plain(piece.repeat(2).as_bytes(), Kinds::ALL).is_empty()
}

/// For each reader the median and the worst of some rounds, in MB/s. Readers take turns, so that a busy moment hits all alike.
fn measure(readers: &[Reader<'_>], text: &[u8]) -> Vec<(f64, f64)> {
    let times: Vec<u32> = readers.iter().map(|(_, reader)| times(reader, text)).collect();
    let mut speeds = vec![Vec::with_capacity(ROUNDS); readers.len()];
    for _ in 0..ROUNDS {
        for (((_, reader), times), speeds) in readers.iter().zip(&times).zip(&mut speeds) {
            let took = take(reader, text, *times);
            let bytes = f64::from(u32::try_from(text.len()).expect("a few MiB")) * f64::from(*times);
            speeds.push(bytes / took.as_secs_f64() / 1e6);
        }
    }
    let told = |mut speeds: Vec<f64>| {
        speeds.sort_unstable_by(f64::total_cmp);
        (speeds[ROUNDS / 2], speeds[0])
    };
    speeds.into_iter().map(told).collect()
}

/// How often it reads in a round.
fn times(reader: &dyn Fn(&[u8]) -> bool, text: &[u8]) -> u32 {
    let mut times = 1;
    while take(reader, text, times) < ROUND {
        times *= 2;
    }
    times
}

fn take(reader: &dyn Fn(&[u8]) -> bool, text: &[u8], times: u32) -> Duration {
    let begun = used();
    for _ in 0..times {
        assert!(black_box(reader(black_box(text))));
    }
    used().saturating_sub(begun)
}

/// The processor's time of this thread: other work on the core does not count.
fn used() -> Duration {
    let used = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(used).expect("a time")
}
