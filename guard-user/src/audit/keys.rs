//! The keys of a trail, one after the other. Each one's last signature vouches for the records before and for the next key; then it is destroyed.
//! So who takes the key of today cannot sign the records of yesterday anew, and whoever holds the first key can check all.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;
use serde::Deserialize;

use super::KEYS_FILE;
use super::note::{Checkpoint, NoteError, VerifierKey};
use super::walk::is_written_so;

/// All keys of a trail. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    root: VerifierKey,
    later: Vec<Arc<Epoch>>,
}

/// A key that another one handed over to.
#[derive(Debug, PartialEq, Eq)]
struct Epoch {
    /// The record that says so; this key signs checkpoints of more records than are before it.
    seq: u64,
    key: VerifierKey,
    /// What the key before it signed last.
    last: Checkpoint,
    /// The record, without its newline.
    line: String,
    began: Timestamp,
}

/// What counts in a record of the kind `key`.
#[derive(Deserialize)]
struct Line {
    seq: u64,
    prev: String,
    kind: String,
    epoch: u64,
    note: String,
    time: String,
}

impl Keys {
    /// Of a trail whose first key is this one, and which has not handed over yet.
    pub fn new(root: VerifierKey) -> Self {
        Self { root, later: Vec::new() }
    }

    /// Those of the trail in `dir`, as its file says and `root` vouches for. An error of the kind `InvalidData`: it does not.
    pub fn beside(dir: &Path, root: VerifierKey) -> io::Result<Self> {
        let mut keys = Self::new(root);
        let text = match fs::read_to_string(dir.join(KEYS_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(keys),
            Err(error) => return Err(error),
        };
        for (number, line) in (1..).zip(text.split_inclusive('\n')) {
            let taken = line.strip_suffix('\n').ok_or_else(|| "it has no end".to_owned());
            taken.and_then(|line| keys.take(line)).map_err(|reason| {
                io::Error::new(io::ErrorKind::InvalidData, format!("line {number}: {reason}"))
            })?;
        }
        Ok(keys)
    }

    /// As they stand in their file.
    pub(super) fn text(&self) -> String {
        self.later.iter().flat_map(|epoch| [epoch.line.as_str(), "\n"]).collect()
    }

    /// The trail's origin.
    pub fn name(&self) -> &str {
        self.root.name()
    }

    /// The first one; what a copy that was kept elsewhere is of.
    pub fn root(&self) -> &VerifierKey {
        &self.root
    }

    /// Which one signs now: 0 is the first.
    pub fn epoch(&self) -> u64 {
        u64::try_from(self.later.len()).unwrap_or(u64::MAX)
    }

    /// The one that signs now.
    pub(super) fn current(&self) -> &VerifierKey {
        self.later.last().map_or(&self.root, |epoch| &epoch.key)
    }

    /// When its turn began, by the record's time; none: with the trail.
    pub(super) fn began(&self) -> Option<Timestamp> {
        self.later.last().map(|epoch| epoch.began)
    }

    /// Whose turn it is to sign a checkpoint of so many records.
    fn of(&self, size: u64) -> &VerifierKey {
        self.later.iter().rfind(|epoch| epoch.seq < size).map_or(&self.root, |epoch| &epoch.key)
    }

    /// The checkpoint in `note`, if the key signed it whose turn it was.
    pub(super) fn open_checkpoint(&self, note: &str) -> Result<Checkpoint, NoteError> {
        let said = Checkpoint::said(note)?;
        if said.origin != self.name() {
            return Err(NoteError::NotSigned(self.name().to_owned()));
        }
        self.of(said.size).open_checkpoint(note).map_err(|error| {
            let mut others = std::iter::once(&self.root).chain(self.later.iter().map(|epoch| &epoch.key));
            match error {
                NoteError::NotSigned(name) if others.any(|key| key.open(note).is_ok()) => {
                    NoteError::NotItsTurn(name)
                }
                error => error,
            }
        })
    }

    /// Takes the next record of the kind `key`; says why it is not that.
    pub(super) fn take(&mut self, line: &str) -> Result<(), String> {
        let epoch = self.read(line)?;
        self.later.push(Arc::new(epoch));
        Ok(())
    }

    fn read(&self, line: &str) -> Result<Epoch, String> {
        let Line { seq, prev, kind, epoch, note, time } =
            serde_json::from_str(line).map_err(|error| error.to_string())?;
        let is_hash = prev.len() == 64 && prev.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if !is_hash {
            return Err("its `prev` is not a hash".into());
        }
        is_written_so(line.as_bytes(), seq, &prev)?;
        if kind != "key" || epoch != self.epoch() + 1 {
            return Err(format!("the record of key {} belongs here", self.epoch() + 1));
        }
        let (last, key) =
            self.current().open_hand_over(&note).map_err(|error| format!("its note: {error}"))?;
        if last.size != seq || self.later.last().is_some_and(|before| before.seq >= seq) {
            return Err(format!("it hands over after {} records, and is record {seq}", last.size));
        }
        // No signature vouches for the time: of one that is none, the key is as old as can be, and the next one's turn has come.
        let began = time.parse().unwrap_or(Timestamp::UNIX_EPOCH);
        Ok(Epoch { seq, key, last, line: line.to_owned(), began })
    }

    /// Those that handed over before record `first`, and the others, in order.
    pub(super) fn split(mut self, first: u64) -> (Self, HandOvers) {
        let at = self.later.partition_point(|epoch| epoch.seq < first);
        let rest = self.later.split_off(at);
        (self, HandOvers(rest.into_iter()))
    }

    /// What the last hand-over says of the records before it.
    pub(super) fn last(&self) -> Option<&Checkpoint> {
        self.later.last().map(|epoch| &epoch.last)
    }
}

/// The hand-overs of a trail's file that are to be met among its records.
pub(super) struct HandOvers(std::vec::IntoIter<Arc<Epoch>>);

impl HandOvers {
    /// Whether the file agrees with the record `line` of the kind `key`, as far as it goes.
    pub(super) fn meets(&mut self, line: &str) -> bool {
        self.0.next().is_none_or(|epoch| epoch.line == line)
    }

    /// The next one that is not among the records.
    pub(super) fn missed(&self) -> Option<u64> {
        self.0.as_slice().first().map(|epoch| epoch.seq)
    }
}

#[cfg(test)]
mod tests;
