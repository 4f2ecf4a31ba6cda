//! The trail goes on in a new segment when one is full. Its first record says how the trail stands, so that a reader can begin there:
//! the signed root of all before it, the roots of the complete subtrees that make it up, and how many calls wait for their outcome.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::disk::{self, Segment};
use super::merkle::Hash;
use super::walk::{Found, Lines, segment_name, segments};
use super::writer::{Position, State, Writer, write};
use super::{FORMAT, text};
use crate::config::Durability;

/// Between two attempts to begin a segment, while the one before can still be written.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// The first record of a segment that follows a full one: a signed checkpoint of all records before this one, and what else a reader who
/// begins here has to know of them.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "checkpoint")]
struct Beginning<'a> {
    note: &'a str,
    format: u32,
    /// The roots of the complete subtrees, the largest first, in base64.
    peaks: Vec<String>,
    /// Forwarded calls without an outcome at this moment.
    open_count: usize,
}

/// The segment that is written to.
pub(super) struct Current {
    /// Its first record.
    pub(super) first: u64,
    /// When it is full for its age.
    full_at: Option<Instant>,
    bytes_max: u64,
    age_max: Duration,
    retry: Instant,
    /// What kept it from going on in a new one at last.
    told: Option<io::ErrorKind>,
}

impl Current {
    /// Of one that began so long ago.
    pub(super) fn new(first: u64, age: Duration, (bytes_max, age_max): (u64, Duration)) -> Self {
        let now = Instant::now();
        let full_at = now.checked_add(age_max.saturating_sub(age));
        Self { first, full_at, bytes_max, age_max, retry: now, told: None }
    }

    pub(super) fn begins(&mut self, first: u64) {
        *self = Self::new(first, Duration::ZERO, (self.bytes_max, self.age_max));
    }

    fn is_full(&self, position: &Position, now: Instant) -> bool {
        let is_old = self.full_at.is_some_and(|full_at| full_at <= now);
        let has_more = position.tree.size() > self.first + 1;
        has_more && self.retry <= now && (position.bytes >= self.bytes_max || is_old)
    }
}

/// How old a segment is, by the host's clock.
pub(super) fn age(path: &Path) -> io::Result<Duration> {
    let age = Timestamp::now().duration_since(began(path)?);
    Ok(Duration::try_from(age).unwrap_or(Duration::ZERO))
}

/// When the first record that is left of a trail was written.
pub(super) fn first_began(dir: &Path) -> io::Result<Timestamp> {
    segments(dir)?.first().map_or_else(|| Ok(Timestamp::now()), |(_, path)| began(path))
}

/// When a segment's first record was written; now, if it has none.
pub(super) fn began(path: &Path) -> io::Result<Timestamp> {
    #[derive(Deserialize)]
    struct First {
        time: Timestamp,
    }
    let mut lines = Lines::open(path)?;
    let Some(Found::Line(line)) = lines.next()? else { return Ok(Timestamp::now()) };
    let First { time } = serde_json::from_slice(line)?;
    Ok(time)
}

impl Writer {
    /// Goes on in a new segment, if this one is full. That it cannot be made is no reason to refuse calls: the one before is as good as it was.
    pub(super) fn rotate_if_due(&mut self) {
        let now = Instant::now();
        if !self.current.is_full(&self.position, now) {
            return;
        }
        self.sync();
        let State::Good(full) = &self.state else { return };
        let full = Arc::clone(full);
        if self.durability == Durability::Os
            && let Err(error) = full.sync()
        {
            return self.fail(&error, Vec::new());
        }
        let first = self.position.tree.size();
        let path = self.dir.join(segment_name(first));
        match self.begin(&path) {
            Ok((segment, position)) => {
                self.current.begins(first);
                self.path = path;
                self.state = State::Good(segment);
                self.advance(position, true);
                self.embedded = (self.position.tree.size(), now);
                self.archive.full_up_to(first);
            }
            Err(error) => {
                self.current.retry = now + RETRY_EVERY;
                // Tried each second, told once.
                if self.current.told.replace(error.kind()) != Some(error.kind()) {
                    tracing::warn!(%error, segment = %path.display(), "the audit trail cannot go on in a new file yet");
                }
                if let Err(error) = std::fs::remove_file(&path)
                    && error.kind() != io::ErrorKind::NotFound
                {
                    // Two files with the same record.
                    self.fail(&error, Vec::new());
                }
            }
        }
    }

    /// The body of the first record of a segment.
    pub(super) fn beginning(&self) -> Result<Vec<u8>, serde_json::Error> {
        let tree = &self.position.tree;
        let note = self.key.checkpoint(tree.size(), tree.root());
        text::encode(&Beginning {
            note: &note,
            format: FORMAT,
            peaks: tree.peaks().iter().map(|peak: &Hash| BASE64.encode(peak)).collect(),
            open_count: self.open_count,
        })
    }

    /// A new segment on disk, with its first record.
    fn begin(&self, path: &Path) -> io::Result<(Arc<dyn Segment>, Position)> {
        let body = self.beginning()?;
        let segment = self.disk.create(path)?;
        let position = Position { bytes: 0, ..self.position.clone() };
        let position = write(segment.as_ref(), true, &position, std::iter::once(body.as_slice()))?;
        disk::sync_dir(&self.dir)?;
        Ok((segment, position))
    }
}
