//! Takes whole segments from the front of a trail, by rule and never in silence: a record that says so is signed before the first file goes.
#![expect(clippy::ref_option_ref, reason = "serde's derive passes fields by reference")]

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::error::AuditError;
use super::export::{Cursor, CursorError};
use super::keys::Keys;
use super::retention::Retention;
use super::walk::{beginning, segments};
use super::{disk, packed, rotate, text};

/// How long the signature that covers the record may take; one follows within a quarter of a second.
pub(super) const SIGNED_WITHIN: Duration = Duration::from_secs(20);

/// What may go.
#[derive(Debug, Clone, Default)]
pub struct Pruning {
    /// Records from before this time.
    pub before: Option<Timestamp>,
    /// What is more than this, in bytes on disk.
    pub bytes: Option<u64>,
    /// What these have not exported stays.
    pub cursors: Vec<PathBuf>,
    pub who: Pruner,
}

/// Who wants it.
#[derive(Debug, Clone, Default)]
pub enum Pruner {
    #[default]
    Policy,
    Operator {
        uid: u32,
        /// Why records go that were not exported; none: they do not.
        force: Option<String>,
    },
}

/// What goes, or has gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Removal {
    /// The first record that stays.
    pub to: u64,
    /// Records that go.
    pub records: u64,
    pub files: usize,
    /// On disk.
    pub bytes: u64,
    /// Records that go and were not exported.
    pub unexported: u64,
    /// Records that would go as well, but are not exported.
    pub held: u64,
    /// Of the record that says so; none: nothing was done yet.
    pub seq: Option<u64>,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{0}")]
    Cursor(#[from] CursorError),
    #[error(
        "{}: there is no such cursor, so nothing has been exported with it, and nothing may go. Name another in `audit.export_cursors`, begin the export, \
         or say --force REASON", .0.display()
    )]
    NoCursor(PathBuf),
    #[error("its record could not be written: {0}; nothing was removed")]
    Record(#[from] AuditError),
    #[error("its record was not signed within {} s; what it says is removed once it is, at the next start at the latest", SIGNED_WITHIN.as_secs())]
    NotSigned,
    #[error("it was not done to its end; `mcp-guard audit verify` tells how the trail stands")]
    NotDone,
}

/// The record of it.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "pruned")]
struct Told<'a> {
    to: u64,
    cause: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    uid: Option<u32>,
    #[serde(serialize_with = "text::sentence_opt", skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    records: u64,
    files: usize,
    bytes: u64,
    unexported: u64,
}

/// One file of a trail.
#[derive(Debug, Clone, Copy)]
struct Segment {
    first: u64,
    /// When its first record was written; those before are not later.
    begins: Timestamp,
    /// On disk.
    bytes: u64,
    /// A trail may begin with it.
    is_beginning: bool,
}

impl Pruning {
    pub const NOTHING_SAID: &str =
        "say --before TIME, or write audit.keep_days or audit.keep_bytes into guard.yaml";

    /// As the configuration has it. `None`: nothing ever goes.
    pub fn by_policy(retention: &Retention, now: Timestamp) -> Option<Self> {
        let before = retention.keep.map(|keep| {
            let keep = SignedDuration::try_from(keep).unwrap_or(SignedDuration::MAX);
            now.checked_sub(keep).unwrap_or(Timestamp::MIN)
        });
        let (bytes, cursors) = (retention.keep_bytes, retention.cursors.clone());
        let is_any = before.is_some() || bytes.is_some();
        is_any.then_some(Self { before, bytes, cursors, who: Pruner::Policy })
    }

    /// As an operator has it. `None`: neither they nor the configuration say what may go.
    pub fn by_operator(
        retention: &Retention,
        before: Option<Timestamp>,
        (uid, force): (u32, Option<String>),
    ) -> Option<Self> {
        let who = Pruner::Operator { uid, force };
        match before {
            Some(_) => Some(Self { before, bytes: None, cursors: retention.cursors.clone(), who }),
            None => Self::by_policy(retention, Timestamp::now()).map(|by_policy| Self { who, ..by_policy }),
        }
    }

    fn is_forced(&self) -> bool {
        matches!(self.who, Pruner::Operator { force: Some(_), .. })
    }

    /// What would go of the trail in `dir`.
    pub fn plan(&self, dir: &Path, keys: &Keys) -> Result<Option<Removal>, PruneError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| PruneError::Io { path, error }
        };
        let mut all = Vec::new();
        for (first, path) in segments(dir).map_err(at(dir))? {
            let begins = rotate::began(&path).map_err(at(&path))?;
            let bytes = packed::metadata(&path).map_err(at(&path))?.len();
            let is_beginning = first > 0 && beginning(first, &path, keys).is_ok();
            all.push(Segment { first, begins, bytes, is_beginning });
        }
        let exported = self.exported(keys)?;
        let wanted = cut(&all, (self.before, self.bytes), u64::MAX);
        let limit = if self.is_forced() { u64::MAX } else { exported };
        let Some(index) = cut(&all, (self.before, self.bytes), limit) else {
            return Ok(wanted.map(|at| pruned(&all, 0, (exported, at))));
        };
        Ok(Some(pruned(&all, index, (exported, wanted.unwrap_or(index)))))
    }

    /// Records that all cursors have behind them.
    fn exported(&self, keys: &Keys) -> Result<u64, PruneError> {
        let mut least = u64::MAX;
        for path in &self.cursors {
            let exported = match Cursor::records(path, keys.root()) {
                Ok(Some(records)) => records,
                // What is forced is told with the number of what is lost.
                Ok(None) | Err(_) if self.is_forced() => 0,
                Ok(None) => return Err(PruneError::NoCursor(path.clone())),
                Err(error) => return Err(error.into()),
            };
            least = least.min(exported);
        }
        Ok(least)
    }

    /// The body of the record.
    pub(super) fn record(&self, done: &Removal) -> Result<Vec<u8>, serde_json::Error> {
        let (cause, uid, reason) = match &self.who {
            Pruner::Policy => ("policy", None, None),
            Pruner::Operator { uid, force } => ("operator", Some(*uid), force.as_deref()),
        };
        let Removal { to, records, files, bytes, unexported, .. } = *done;
        text::encode(&Told { to, cause, uid, reason, records, files, bytes, unexported })
    }
}

/// The first segment that stays; none: all stay. `limit`: the first record that must.
fn cut(all: &[Segment], (before, bytes): (Option<Timestamp>, Option<u64>), limit: u64) -> Option<usize> {
    let mut left: u64 = all.iter().map(|segment| segment.bytes).fold(0, u64::saturating_add);
    let mut found = None;
    for (at, (gone, next)) in (1..).zip(all.iter().zip(all.get(1..)?)) {
        let is_old = before.is_some_and(|before| next.begins <= before);
        // At least so much stays.
        let is_much = bytes.is_some_and(|bytes| left.saturating_sub(gone.bytes) >= bytes);
        // Not past one that no trail can begin with, such as a gap of former builds: whoever is cut off there leaves just that.
        if !(is_old || is_much) || next.first > limit || !next.is_beginning {
            break;
        }
        left = left.saturating_sub(gone.bytes);
        found = Some(at);
    }
    found
}

fn pruned(all: &[Segment], index: usize, (exported, wanted): (u64, usize)) -> Removal {
    let first = |at: usize| all.get(at).map_or(0, |segment| segment.first);
    let to = first(index);
    Removal {
        to,
        records: to - first(0),
        files: index,
        bytes: all.iter().take(index).map(|segment| segment.bytes).fold(0, u64::saturating_add),
        unexported: to.saturating_sub(exported.max(first(0))),
        held: first(wanted).saturating_sub(to),
        seq: None,
    }
}

/// Removes what stands before record `to`, the oldest first, so that whatever is left begins where a trail may. Nothing unless some segment begins
/// with `to`. `alone` is held for each file; `stops` ends it between two.
pub(super) fn remove(dir: &Path, to: u64, alone: &Mutex<()>, stops: &AtomicBool) -> io::Result<()> {
    let found = segments(dir)?;
    if !found.iter().any(|(first, _)| *first == to) {
        return Ok(());
    }
    for (first, path) in found.iter().filter(|(first, _)| *first < to) {
        let _one_at_a_time = alone.lock().unwrap_or_else(PoisonError::into_inner);
        if stops.load(Ordering::Relaxed) {
            return Ok(());
        }
        let plain = dir.join(super::walk::segment_name(*first));
        let packed = packed::name(&plain);
        for path in [path.clone(), plain, disk::beside(&packed, ".next"), packed] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        disk::sync_dir(dir)?;
        super::query::forget(dir, *first);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(lengths: &[(u64, u64, bool)]) -> Vec<Segment> {
        let mut first = 0;
        let segment = |(at, (records, bytes, is_beginning)): (i64, &(u64, u64, bool))| {
            let begins = Timestamp::from_second(at * 100).unwrap();
            let segment = Segment { first, begins, bytes: *bytes, is_beginning: *is_beginning && first > 0 };
            first += records;
            segment
        };
        (0..).zip(lengths).map(segment).collect()
    }

    #[test]
    fn what_is_old_or_too_much_goes_and_the_last_file_never() {
        let trail = all(&[(10, 100, false), (10, 100, true), (10, 100, true), (10, 100, true)]);
        let at = |second: i64| (Some(Timestamp::from_second(second).unwrap()), None);
        assert_eq!(cut(&trail, (None, None), u64::MAX), None);
        assert_eq!(cut(&trail, at(99), u64::MAX), None);
        // The second file begins at 100 s: nothing of the first is later.
        assert_eq!(cut(&trail, at(100), u64::MAX), Some(1));
        assert_eq!(cut(&trail, at(1_000_000), u64::MAX), Some(3));
        assert_eq!(cut(&trail, at(1_000_000), 25), Some(2));
        assert_eq!(cut(&trail, at(1_000_000), 9), None);
        assert_eq!(cut(&trail, (None, Some(400)), u64::MAX), None);
        assert_eq!(cut(&trail, (None, Some(301)), u64::MAX), None, "the rest would be less than that");
        assert_eq!(cut(&trail, (None, Some(300)), u64::MAX), Some(1));
        assert_eq!(cut(&trail, (None, Some(101)), u64::MAX), Some(2));
        assert_eq!(cut(&trail, (None, Some(0)), u64::MAX), Some(3));
        let gapped = all(&[(10, 100, false), (10, 100, false), (10, 100, true), (10, 100, false)]);
        assert_eq!(cut(&gapped, at(100), u64::MAX), None);
        assert_eq!(
            cut(&gapped, at(1_000_000), u64::MAX),
            None,
            "what is left after the first would begin nowhere"
        );
        let later = all(&[(10, 100, false), (10, 100, true), (10, 100, false), (10, 100, true)]);
        assert_eq!(cut(&later, at(1_000_000), u64::MAX), Some(1));
        assert_eq!(cut(&[], at(1), u64::MAX), None);
    }

    proptest! {
        #[test]
        fn nothing_goes_that_is_not_exported_or_that_a_trail_cannot_begin_without(
            lengths in prop::collection::vec((1..50_u64, 1..1_000_u64, any::<bool>()), 0..12), before in 0..1_500_i64, keep in 0..8_000_u64, exported in 0..500_u64,
        ) {
            let trail = all(&lengths);
            let want = (Some(Timestamp::from_second(before).unwrap()), Some(keep));
            if let Some(index) = cut(&trail, want, exported) {
                prop_assert!(index > 0 && index < trail.len());
                prop_assert!(trail[index].is_beginning && trail[index].first <= exported);
                let told = pruned(&trail, index, (exported, index));
                prop_assert_eq!((told.to, told.files, told.unexported, told.held), (trail[index].first, index, 0, 0));
            }
        }
    }
}
