//! Which velocity windows counted the calls of a trail, for a guard that starts.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use memchr::memmem;
use serde::Deserialize;

use super::walk::{Found, Lines, segments};
use crate::types::AgentName;
use crate::velocity::Recounted;

/// Where to begin to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Since {
    Record(u64),
    /// The first segment that was written to within this time.
    Ago(Duration),
}

#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    kind: &'a str,
    #[serde(borrow)]
    agent: Option<Cow<'a, str>>,
    counted: Option<Recounted>,
}

/// Where to begin among the segments of a trail.
pub(super) fn first_segment(segments: &[(u64, PathBuf)], since: Since) -> usize {
    let mut from = 0;
    for (index, (first, path)) in segments.iter().enumerate() {
        let is_before = match since {
            // Later segments begin at or before the record.
            Since::Record(seq) => {
                segments.get(index + 1).is_some_and(|(next, _)| *next <= seq) && *first <= seq
            }
            Since::Ago(span) => {
                let oldest = SystemTime::now().checked_sub(span);
                oldest.is_some_and(|oldest| {
                    fs::metadata(path).and_then(|meta| meta.modified()).is_ok_and(|written| written < oldest)
                })
            }
        };
        if !is_before {
            break;
        }
        from = index + 1;
    }
    from
}

/// Hands each record of `dir` that was counted to `each`, in the order of the trail. The trail was checked when it was opened;
/// a line that cannot be read is an error all the same. Returns how many records it looked at.
pub fn counted(dir: &Path, since: Since, mut each: impl FnMut(&AgentName, &Recounted)) -> io::Result<u64> {
    let segments = segments(dir)?;
    let from = first_segment(&segments, since);
    let finder = memmem::Finder::new(br#""counted":"#);
    let mut looked_at = 0;
    for (_, path) in segments.iter().skip(from) {
        let mut lines = Lines::open(path)?;
        while let Some(Found::Line(bytes)) = lines.next()? {
            looked_at += 1;
            // Most records have none. What an attacker writes into a name is told apart below.
            if finder.find(bytes).is_none() {
                continue;
            }
            let line: Line<'_> = serde_json::from_slice(bytes)
                .map_err(|error| io::Error::other(format!("{}: {error}", path.display())))?;
            let is_new = match since {
                Since::Record(seq) => line.seq >= seq,
                Since::Ago(_) => true,
            };
            if let (true, "call", Some(agent), Some(counted)) =
                (is_new, line.kind, &line.agent, &line.counted)
                && let Ok(agent) = AgentName::parse(agent)
            {
                each(&agent, counted);
            }
        }
    }
    Ok(looked_at)
}
