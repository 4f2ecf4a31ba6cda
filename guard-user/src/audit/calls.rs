//! The calls of a trail, checked as they are read, for what is learned from them.

use std::io;
use std::path::Path;

use serde::Deserialize;

use super::verify::{Verdict, verify_with};
use super::walk::{Found, Lines, segments};
use super::{packed, pruned};

/// A call as its record tells it.
#[derive(Debug, Deserialize)]
pub struct Call {
    /// RFC 3339 in UTC, to the microsecond.
    pub time: String,
    pub agent: Option<String>,
    pub profile: Option<String>,
    pub server: String,
    pub rpc_method: Option<String>,
    pub target: Option<Target>,
    pub intent: Option<String>,
    /// `allow`, `deny` or `hold`
    pub decision: String,
}

/// What it is about.
#[derive(Debug, Deserialize)]
pub struct Target {
    pub kind: String,
    pub name: String,
}

/// How far the trail can be trusted, and how far it reaches.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Reading {
    pub records: u64,
    /// Times of the first and the last record.
    pub begins: Option<String>,
    pub ends: Option<String>,
    /// Every record, link and signature was checked.
    pub verified: bool,
    /// Why not.
    pub fault: Option<String>,
}

#[derive(Deserialize)]
struct Head<'a> {
    time: &'a str,
    kind: &'a str,
}

/// Hands every call of the trail in `dir` to `each`, oldest first, and tells `progress` how many bytes of how many were read. A trail that
/// was changed, or that cannot be read, is an error; one that lacks its beginning or its end is read as far as it goes.
pub fn calls(
    dir: &Path,
    each: &mut dyn FnMut(Call),
    progress: &mut dyn FnMut(u64, u64),
) -> io::Result<Reading> {
    let found = segments(dir)?;
    let mut total = 0_u64;
    for (_, path) in &found {
        total = total.saturating_add(packed::length(path)?);
    }
    let mut reading = Reading { records: 0, begins: None, ends: None, verified: false, fault: None };
    let mut bytes = 0_u64;
    let mut line = |line: &[u8]| {
        bytes = bytes.saturating_add(u64::try_from(line.len()).unwrap_or(u64::MAX)).saturating_add(1);
        progress(bytes, total);
        reading.records += 1;
        let Ok(head) = serde_json::from_slice::<Head<'_>>(line) else { return };
        reading.begins.get_or_insert_with(|| head.time.to_owned());
        reading.ends = Some(head.time.to_owned());
        if head.kind == "call"
            && let Ok(call) = serde_json::from_slice(line)
        {
            each(call);
        }
    };
    if !pruned::beginning(dir, u64::MAX)?.1 {
        // Nothing signed says what the record before was.
        for (_, path) in &found {
            let mut lines = Lines::open(path)?;
            while let Some(Found::Line(bytes)) = lines.next()? {
                line(bytes);
            }
        }
        reading.fault = Some("its first files are not here".into());
        return Ok(reading);
    }
    let report = verify_with(dir, None, None, &mut line);
    reading.verified = report.verdict == Verdict::Sound;
    reading.fault =
        report.fault.map(|fault| format!("{}, line {}: {}", fault.file.display(), fault.line, fault.reason));
    match (report.verdict, &reading.fault) {
        (Verdict::Tampered | Verdict::Unreadable, Some(fault)) => Err(io::Error::other(fault.clone())),
        _ => Ok(reading),
    }
}
