//! How much of the audit trail stands in one file, and how much of it is kept.

use super::{Key, Places};
use crate::config::{Audit, Problems};

/// Smaller files would be many.
const SEGMENT_BYTES_MIN: u64 = 1024 * 1024;
/// Some hundred records, of calls under way and of the guard's own.
const RESERVE_BYTES_MIN: u64 = 1024 * 1024;
const SEGMENT_SECONDS_MIN: u64 = 60;
/// What reads the trail checks one signature for each key.
const KEY_EPOCH_SECONDS_MIN: u64 = 60;

pub(super) fn check(audit: &Audit, places: &Places<'_>, problems: &mut Problems) {
    let least = [
        ("segment_bytes", audit.segment_bytes, SEGMENT_BYTES_MIN, "67108864"),
        ("segment_seconds", audit.segment_seconds, SEGMENT_SECONDS_MIN, "86400"),
        ("key_epoch_seconds", audit.key_epoch_seconds, KEY_EPOCH_SECONDS_MIN, "21600"),
    ];
    for (name, value, least, default) in least {
        if value < least {
            let what = format!(
                "{name} is {value}, and the least is {least}: there would be a {what} for a few records",
                what = if name == "key_epoch_seconds" { "key" } else { "file" }
            );
            let problem = places.problem(&[Key("audit"), Key(name)], what);
            problems.push(
                problem.with_hint(format!(
                    "write a greater number, or remove the line for the default, {default}"
                )),
            );
        }
    }
    if (1..RESERVE_BYTES_MIN).contains(&audit.reserve_bytes) {
        let what = format!(
            "reserve_bytes is {}, and the least is {RESERVE_BYTES_MIN}: a full disk would have it used up at once",
            audit.reserve_bytes
        );
        let problem = places.problem(&[Key("audit"), Key("reserve_bytes")], what);
        problems
            .push(problem.with_hint(
                "write a greater number, 0 for none, or remove the line for the default, 4194304",
            ));
    }
    for (name, value) in [("keep_days", audit.keep_days), ("keep_bytes", audit.keep_bytes)] {
        if value == Some(0) {
            let problem = places
                .problem(&[Key("audit"), Key(name)], format!("{name} is 0: only the last file would stay"));
            problems.push(problem.with_hint("write a number from 1 on, or remove the line to keep all"));
        }
    }
}
