//! The records of a trail from a number on, as far as they are signed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::entry::Link;
use crate::audit::CHECKPOINT_FILE;
use crate::audit::merkle::Hash;
use crate::audit::note::VerifierKey;
use crate::audit::prove::ProveError;
use crate::audit::walk::{Found, Lines, segments};

/// Why the feed does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("record {seq} cannot be read; `mcp-guard audit verify` tells what is wrong")]
    NoRecord { seq: u64 },
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Checkpoint(#[from] ProveError),
    #[error(
        "record {seq} is missing from the trail, and a signed checkpoint covers it; `mcp-guard audit verify` tells what is wrong"
    )]
    Missing { seq: u64 },
    #[error(
        "the trail has {have} signed records, and {exported} were exported before: it was put back to an older state, or the cursor is another \
         trail's"
    )]
    Shrunk { have: u64, exported: u64 },
    #[error(
        "record {seq} does not follow on the one that was exported before it: the trail was put back and went on otherwise"
    )]
    Forked { seq: u64 },
}

impl FeedError {
    /// Whether the trail itself is not what it was.
    pub fn is_of_the_trail(&self) -> bool {
        matches!(
            self,
            Self::NoRecord { .. } | Self::Missing { .. } | Self::Shrunk { .. } | Self::Forked { .. }
        )
    }
}

/// Where it is in the files of a trail.
pub(super) struct Feed {
    dir: PathBuf,
    key: VerifierKey,
    /// The next record.
    next: u64,
    /// `prev` that the next record must have.
    prev: Option<Hash>,
    /// The file of the last record, and its length up to there.
    file: Option<(PathBuf, u64)>,
}

impl Feed {
    /// Of what follows on `last`; `None`: from the first record that there is.
    pub(super) fn open(dir: &Path, key: VerifierKey, last: Option<Link>) -> Result<Self, FeedError> {
        let feed = Self {
            dir: dir.to_owned(),
            key,
            next: last.map_or(0, |link| link.seq + 1),
            prev: last.map(|link| link.hash),
            file: None,
        };
        let have = feed.signed()?;
        if feed.next > have {
            return Err(FeedError::Shrunk { have, exported: feed.next });
        }
        Ok(feed)
    }

    /// The next record.
    pub(super) fn next_seq(&self) -> u64 {
        self.next
    }

    /// How many records are signed by now.
    pub(super) fn signed(&self) -> Result<u64, FeedError> {
        let path = self.dir.join(CHECKPOINT_FILE);
        let note =
            fs::read_to_string(&path).map_err(|error| FeedError::Read { path: path.clone(), error })?;
        let checkpoint =
            self.key.open_checkpoint(&note).map_err(|error| ProveError::Checkpoint { path, error })?;
        Ok(checkpoint.size)
    }

    /// Hands each record below `end` to `take`, with its line.
    pub(super) fn read(&mut self, end: u64, mut take: impl FnMut(Link, &str)) -> Result<(), FeedError> {
        while self.next < end {
            let (path, mut lines) = self.place()?;
            let failed = |error| FeedError::Read { path: path.clone(), error };
            let first = self.next;
            while self.next < end
                && let Some(Found::Line(line)) = lines.next().map_err(failed)?
            {
                let line = std::str::from_utf8(line).map_err(|error| failed(io::Error::other(error)))?;
                if let Some(prev) = self.prev
                    && !line.contains(&format!(r#","prev":"{}","#, hex::encode(prev)))
                {
                    return Err(FeedError::Forked { seq: self.next });
                }
                let at = Link::of(self.next, line);
                take(at, line);
                self.prev = Some(at.hash);
                self.next += 1;
            }
            if self.next == first {
                return Err(FeedError::Missing { seq: self.next });
            }
            // What was read ahead may be cut off again and go on in another file: only what is signed stays.
            self.file = Some((path, lines.end));
        }
        Ok(())
    }

    /// The file that has the next record, at its line.
    fn place(&self) -> Result<(PathBuf, Lines), FeedError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| FeedError::Read { path, error }
        };
        let found = segments(&self.dir).map_err(at(&self.dir))?;
        let (first, path) = found
            .into_iter()
            .rfind(|(first, _)| *first <= self.next)
            .ok_or(FeedError::Missing { seq: self.next })?;
        let mut lines = Lines::open(&path).map_err(at(&path))?;
        if let Some((_, end)) = self.file.as_ref().filter(|(last, _)| *last == path) {
            lines.start_at(*end).map_err(at(&path))?;
            return Ok((path, lines));
        }
        for _ in first..self.next {
            if lines.next().map_err(at(&path))?.is_none() {
                return Err(FeedError::Missing { seq: self.next });
            }
        }
        Ok((path, lines))
    }

    /// One record, wherever it is. `None`: it is not in the trail any more.
    pub(super) fn line(&self, seq: u64) -> Option<String> {
        let (first, path) = segments(&self.dir).ok()?.into_iter().rfind(|(first, _)| *first <= seq)?;
        let mut lines = Lines::open(&path).ok()?;
        for _ in first..seq {
            lines.next().ok()??;
        }
        match lines.next().ok()?? {
            Found::Line(line) => String::from_utf8(line.to_owned()).ok(),
            Found::Torn => None,
        }
    }
}
