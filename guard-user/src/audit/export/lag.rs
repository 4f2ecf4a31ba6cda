//! How far an export is behind the trail.

use std::io;
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Cursor;
use crate::audit::log::AuditLog;
use crate::audit::packed;
use crate::audit::walk::{Found, Lines, segments};

/// What is nearer than this is read line by line.
const NEAR_BYTES: u64 = 256 * 1024;

/// What waits behind one cursor, as of the last look.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Lag {
    pub cursor: PathBuf,
    /// Signed records that it has not behind it; none: nobody can tell.
    pub records: Option<u64>,
    /// When the first of them was written; none: there is none, or nobody can tell.
    pub oldest: Option<Timestamp>,
    /// Why nobody can tell.
    pub problem: Option<String>,
}

impl Lag {
    /// How old the first record that waits is; 0: none waits, or it is of the future.
    pub fn seconds(&self, now: Timestamp) -> Option<u64> {
        let oldest = match self.records? {
            0 => return Some(0),
            _ => self.oldest?,
        };
        Some(u64::try_from(now.duration_since(oldest).as_secs()).unwrap_or(0))
    }
}

impl AuditLog {
    /// Reads the cursors, and of the trail what it needs for that.
    pub fn look_at_exports(&self, cursors: &[PathBuf]) {
        let lags = cursors.iter().map(|cursor| self.lag(cursor)).collect();
        *self.health().lags() = lags;
    }

    /// As of the last look.
    pub fn exports(&self) -> Vec<Lag> {
        self.health().lags().clone()
    }

    fn lag(&self, cursor: &Path) -> Lag {
        let told = |records, oldest, problem| Lag { cursor: cursor.to_owned(), records, oldest, problem };
        let exported = match Cursor::records(cursor, self.verifier_key()) {
            Ok(Some(exported)) => exported,
            Ok(None) => {
                return told(None, None, Some("there is no such cursor: nothing was exported".into()));
            }
            Err(error) => return told(None, None, Some(error.to_string())),
        };
        let Some(records) = self.signed().checked_sub(exported) else {
            return told(
                None,
                None,
                Some(format!("it has {exported} records behind it, and the trail has fewer")),
            );
        };
        match oldest(&self.files().dir, exported) {
            _ if records == 0 => told(Some(0), None, None),
            Ok(oldest) => told(Some(records), oldest, None),
            Err(error) => told(Some(records), None, Some(error.to_string())),
        }
    }
}

/// When record `seq` of the trail in `dir` was written, or the first that is left after it.
pub(super) fn oldest(dir: &Path, seq: u64) -> io::Result<Option<Timestamp>> {
    let found = segments(dir)?;
    let Some((_, path)) = found.iter().rfind(|(first, _)| *first <= seq).or(found.first()) else {
        return Ok(None);
    };
    Ok(next(&mut lines_from(path, seq)?)?.map(|line| line.time))
}

/// The lines of a segment from record `seq` on, or from the first that is left after it.
pub(super) fn lines_from(path: &Path, seq: u64) -> io::Result<Lines> {
    // Between a line that is not behind it and one that is.
    let (mut from, mut to) = (0, packed::length(path)?);
    while to.saturating_sub(from) > NEAR_BYTES {
        let middle = from + (to - from) / 2;
        let mut lines = Lines::open(path)?;
        lines.skip_to(middle)?;
        let at = lines.end;
        match next(&mut lines)? {
            Some(line) if line.seq <= seq => from = at,
            _ => to = middle,
        }
    }
    let mut lines = Lines::open(path)?;
    lines.start_at(from)?;
    let mut at = from;
    while next(&mut lines)?.is_some_and(|line| line.seq < seq) {
        at = lines.end;
    }
    // Anew: it has read one more.
    let mut lines = Lines::open(path)?;
    lines.start_at(at)?;
    Ok(lines)
}

#[derive(Deserialize)]
struct Line {
    seq: u64,
    time: Timestamp,
}

fn next(lines: &mut Lines) -> io::Result<Option<Line>> {
    match lines.next()? {
        Some(Found::Line(line)) => Ok(Some(serde_json::from_slice(line)?)),
        Some(Found::Torn) | None => Ok(None),
    }
}
