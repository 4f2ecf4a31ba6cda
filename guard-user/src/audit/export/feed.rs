//! The records of a trail from a number on, as far as they are signed.

use std::borrow::Cow;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::entry::Link;
use crate::audit::keys::Keys;
use crate::audit::merkle::{Hash, Tree};
use crate::audit::note::{Checkpoint, NoteError, VerifierKey};
use crate::audit::prove::ProveError;
use crate::audit::pruned;
use crate::audit::walk::{Found, Lines, NO_PREV, beginning, segments};
use crate::audit::{CHECKPOINT_FILE, KEYS_FILE, packed};

/// Records between two signed checkpoints; a guard signs at least each thousand and what is written with it.
const UNSIGNED_RECORDS_MAX: usize = 65_536;

/// Why the feed does not go on.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}: it is not as it was written; `mcp-guard audit verify` tells what is wrong", .path.display())]
    Damaged { path: PathBuf, error: io::Error },
    #[error(transparent)]
    Checkpoint(#[from] ProveError),
    #[error("record {seq} cannot be read; `mcp-guard audit verify` tells what is wrong")]
    NoRecord { seq: u64 },
    #[error(
        "record {seq} is missing from the trail, and a signed checkpoint covers it; `mcp-guard audit verify` tells what is wrong"
    )]
    Missing { seq: u64 },
    #[error(
        "record {seq} or one before it was changed; nothing from {first} on is exported. `mcp-guard audit verify` tells what is wrong"
    )]
    Changed { first: u64, seq: u64 },
    #[error(
        "one of the records {first} to {last} was changed after it was exported, or is gone; `mcp-guard audit verify` tells what is wrong"
    )]
    Behind { first: u64, last: u64 },
    #[error(
        "the trail begins with record {first}, and {exported} records were exported before: what is between was pruned. To go on behind it, move \
         the cursor away"
    )]
    Pruned { first: u64, exported: u64 },
    #[error(
        "the records before {first} are gone, and no signed record says that they were pruned; `mcp-guard audit verify` tells more"
    )]
    NoBeginning { first: u64 },
    #[error(
        "the trail has {have} signed records, and {exported} were exported before: it was put back to an older state. `mcp-guard audit verify \
         --since` with a copied checkpoint tells more"
    )]
    Shrunk { have: u64, exported: u64 },
    #[error(
        "record {seq} does not follow on the one that was exported before it: the trail was put back, or changed, and went on otherwise"
    )]
    Forked { seq: u64 },
}

impl FeedError {
    /// Of a file of the trail.
    pub(super) fn of(path: &Path, error: io::Error) -> Self {
        let path = path.to_owned();
        // What was packed ends where it says, and all else of the trail is text.
        let is_damage = packed::is_damage(&error) || error.kind() == io::ErrorKind::UnexpectedEof;
        if is_damage { Self::Damaged { path, error } } else { Self::Read { path, error } }
    }

    /// Whether the trail itself is not what it was.
    pub fn is_of_the_trail(&self) -> bool {
        !matches!(self, Self::Read { .. } | Self::Checkpoint(ProveError::Read { .. }))
    }
}

/// What a record of the guard's own signs.
#[derive(Deserialize)]
struct Signing<'a> {
    kind: &'a str,
    #[serde(borrow)]
    note: Option<Cow<'a, str>>,
}

/// Where it is in the files of a trail.
pub(super) struct Feed {
    dir: PathBuf,
    keys: Keys,
    /// All records that were read, which are ahead of those that were exported.
    tree: Tree,
    /// `prev` of the next record.
    prev: Hash,
    /// How many there were when it was opened.
    opened_at: u64,
    /// The file of the last record, and its length up to there.
    file: Option<(PathBuf, u64)>,
    /// Read, and not signed by what was read.
    held: Option<(Link, String)>,
}

impl Feed {
    /// Of what follows on these records, the last of which has this hash.
    pub(super) fn open(dir: &Path, key: VerifierKey, tree: Tree, prev: Hash) -> Result<Self, FeedError> {
        let opened_at = tree.size();
        let keys = Keys::new(key);
        let mut feed = Self { dir: dir.to_owned(), keys, tree, prev, opened_at, file: None, held: None };
        let signed = feed.signed()?;
        feed.goes_on(&signed)?;
        Ok(feed)
    }

    /// What comes before the first record that is there: nothing, unless it was pruned.
    pub(super) fn beginning(dir: &Path, key: &VerifierKey) -> Result<(Tree, Hash), FeedError> {
        let mut feed = Self::open(dir, key.clone(), Tree::default(), NO_PREV)?;
        let at = |error| FeedError::of(dir, error);
        let found = segments(dir).map_err(at)?;
        let Some((first, path)) = found.first().filter(|(first, _)| *first > 0) else {
            return Ok((feed.tree, feed.prev));
        };
        if !pruned::beginning(dir, feed.signed()?.size).map_err(at)?.1 {
            return Err(FeedError::NoBeginning { first: *first });
        }
        beginning(*first, path, &feed.keys).map_err(|error| FeedError::of(path, error))
    }

    /// What is signed by now.
    pub(super) fn signed(&mut self) -> Result<Checkpoint, FeedError> {
        let path = self.dir.join(CHECKPOINT_FILE);
        let note = fs::read_to_string(&path).map_err(|error| FeedError::of(&path, error))?;
        let mut opened = self.keys.open_checkpoint(&note);
        if matches!(opened, Err(NoteError::NotSigned(_))) {
            // The guard has gone on to another key.
            self.keys = Keys::beside(&self.dir, self.keys.root().clone())
                .map_err(|error| FeedError::of(&self.dir.join(KEYS_FILE), error))?;
            opened = self.keys.open_checkpoint(&note);
        }
        Ok(opened.map_err(|error| ProveError::Checkpoint { path, error })?)
    }

    /// Whether what was read is among what is signed.
    fn goes_on(&self, signed: &Checkpoint) -> Result<(), FeedError> {
        let read = self.tree.size();
        match signed.size {
            have if have < read => Err(FeedError::Shrunk { have, exported: read }),
            have if have == read && signed.root != self.tree.root() => {
                Err(FeedError::Forked { seq: read.saturating_sub(1) })
            }
            _ => Ok(()),
        }
    }

    /// The next records, as far as one signature covers them; none if there are none yet.
    pub(super) fn read(&mut self) -> Result<Vec<(Link, String)>, FeedError> {
        let signed = self.signed()?;
        self.goes_on(&signed)?;
        let first = self.tree.size();
        let mut read: Vec<_> = self.held.take().into_iter().collect();
        while self.tree.size() < signed.size {
            let (path, mut lines) = self.place()?;
            let failed = |error| FeedError::of(&path, error);
            let before = self.tree.size();
            let mut is_signed = false;
            while self.tree.size() < signed.size && !is_signed {
                let Some(Found::Line(line)) = lines.next().map_err(failed)? else { break };
                let seq = self.tree.size();
                let line = std::str::from_utf8(line).map_err(|_no_text| FeedError::Changed { first, seq })?;
                is_signed = self.is_signed_by(line, first)? && !read.is_empty();
                let at = self.take(line, first)?;
                if is_signed {
                    self.held = Some((at, line.to_owned()));
                } else {
                    read.push((at, line.to_owned()));
                }
                if read.len() > UNSIGNED_RECORDS_MAX {
                    return Err(FeedError::Changed { first, seq: at.seq });
                }
            }
            if self.tree.size() == before {
                return Err(FeedError::Missing { seq: before });
            }
            // What was read ahead may be cut off again and go on in another file: only what is signed stays.
            self.file = Some((path, lines.end));
            if is_signed {
                return Ok(read);
            }
        }
        if self.tree.size() == signed.size && self.tree.root() != signed.root {
            return Err(FeedError::Changed { first, seq: signed.size.saturating_sub(1) });
        }
        Ok(read)
    }

    /// Whether the line is a checkpoint, of all records before it.
    fn is_signed_by(&self, line: &str, first: u64) -> Result<bool, FeedError> {
        if !line.contains(r#""kind":"checkpoint""#) {
            return Ok(false);
        }
        let Ok(Signing { kind: "checkpoint", note: Some(note) }) = serde_json::from_str(line) else {
            return Ok(false);
        };
        let checkpoint = self.keys.open_checkpoint(&note).ok();
        let is_right = |it: &Checkpoint| it.size == self.tree.size() && it.root == self.tree.root();
        match checkpoint.filter(is_right) {
            Some(_) => Ok(true),
            None => Err(FeedError::Changed { first, seq: self.tree.size() }),
        }
    }

    /// The next record, if the line is that.
    fn take(&mut self, line: &str, first: u64) -> Result<Link, FeedError> {
        let seq = self.tree.size();
        let begins = format!(r#"{{"seq":{seq},"prev":"{}","#, hex::encode(self.prev));
        if !line.starts_with(&begins) {
            let is_first = seq == self.opened_at && seq > 0;
            return Err(if is_first { FeedError::Forked { seq } } else { FeedError::Changed { first, seq } });
        }
        let at = Link::of(seq, line);
        self.prev = at.hash;
        self.tree.push(at.hash);
        Ok(at)
    }

    /// The file that has the next record, at its line.
    fn place(&self) -> Result<(PathBuf, Lines), FeedError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |error| FeedError::of(&path, error)
        };
        let found = segments(&self.dir).map_err(at(&self.dir))?;
        let exported = self.tree.size();
        let missing = match found.first() {
            Some((first, _)) if *first > exported => FeedError::Pruned { first: *first, exported },
            _ => FeedError::Missing { seq: exported },
        };
        let (first, path) = found.into_iter().rfind(|(first, _)| *first <= exported).ok_or(missing)?;
        let mut lines = Lines::open(&path).map_err(at(&path))?;
        if let Some((_, end)) = self.file.as_ref().filter(|(last, _)| *last == path) {
            lines.start_at(*end).map_err(at(&path))?;
            return Ok((path, lines));
        }
        for _ in first..self.tree.size() {
            if lines.next().map_err(at(&path))?.is_none() {
                return Err(FeedError::Missing { seq: self.tree.size() });
            }
        }
        Ok((path, lines))
    }
}
