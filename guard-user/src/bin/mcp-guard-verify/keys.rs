//! The keys of a trail, one after the other: the last thing that each has signed is the key after it.

use super::note::{Checkpoint, Key, Refused, open_of};
use super::record::{self, Meaning, Record};
use super::tree::Hash;

/// All keys of a trail, as far as they are known.
pub(crate) struct Keys {
    root: Key,
    later: Vec<Epoch>,
}

/// A key that another one handed over to.
struct Epoch {
    /// The number of the record that says so: it signs what has more records than are before that.
    seq: u64,
    key: Key,
    /// Of the records before it.
    root: Hash,
    /// Of the record.
    leaf: Hash,
}

impl Keys {
    /// From the text of the first key and that of the trail's file `keys`.
    pub(crate) fn parse(root: &str, later: &str) -> Result<Self, String> {
        let mut keys = Self { root: Key::parse(root)?, later: Vec::new() };
        if !later.is_empty() && !later.ends_with('\n') {
            return Err("its last line has no end".into());
        }
        // Not `lines`, which passes over a CR.
        for (number, line) in (1..).zip(later.split_terminator('\n')) {
            let record =
                record::read(line.as_bytes()).map_err(|reason| format!("line {number}: {reason}"))?;
            let Meaning::Key { epoch, note } = &record.meaning else {
                return Err(format!("line {number} is no record of a key"));
            };
            keys.take(&record, *epoch, note).map_err(|reason| format!("line {number}: {reason}"))?;
        }
        Ok(keys)
    }

    pub(crate) fn name(&self) -> &str {
        &self.root.name
    }

    /// How often one handed over before record `end`.
    pub(crate) fn count(&self, end: u64) -> u64 {
        u64::try_from(self.later.iter().filter(|epoch| epoch.seq < end).count()).unwrap_or(u64::MAX)
    }

    /// The key that signs a checkpoint of so many records.
    fn of(&self, size: u64) -> &Key {
        self.later.iter().rev().find(|epoch| epoch.seq < size).map_or(&self.root, |epoch| &epoch.key)
    }

    /// The checkpoint of this trail in `note`, signed by the key whose turn it was.
    pub(crate) fn checkpoint(&self, note: &str) -> Result<Checkpoint, Refused> {
        let (_, said) = open_of(note)?;
        if said.origin != self.name() {
            return Err(Refused::Wrong(format!("a checkpoint of {}", said.origin)));
        }
        if said.more.is_some() {
            return Err(Refused::Wrong("a checkpoint with a line too many".into()));
        }
        self.of(said.size).signed(note)?;
        Ok(said)
    }

    /// The next record of a key, which the key before it has signed.
    pub(crate) fn take(&mut self, record: &Record, epoch: u64, note: &str) -> Result<(), String> {
        let number = u64::try_from(self.later.len()).unwrap_or(u64::MAX) + 1;
        if epoch != number {
            return Err(format!("key {number} belongs here"));
        }
        let current = self.later.last().map_or(&self.root, |epoch| &epoch.key);
        let (_, said) = open_of(note).map_err(|refused| refused.to_string())?;
        current.signed(note).map_err(|refused| refused.to_string())?;
        let key = said.more.as_deref().ok_or("it names no next key").and_then(|next| {
            Key::parse(next)
                .ok()
                .filter(|key| key.name == self.root.name)
                .ok_or("what it names is no key of this trail")
        })?;
        let is_later = self.later.last().is_none_or(|before| before.seq < record.seq);
        if said.origin != self.root.name || said.size != record.seq || !is_later {
            return Err("it hands over elsewhere than where it stands".into());
        }
        self.later.push(Epoch { seq: record.seq, key, root: said.root, leaf: record.leaf });
        Ok(())
    }

    /// Whether the record of a key, before which the tree has this root, is that of the file, or else goes on from there.
    pub(crate) fn meet(&mut self, record: &Record, epoch: u64, note: &str, root: Hash) -> Result<(), String> {
        if self.later.last().is_none_or(|last| last.seq < record.seq) {
            self.take(record, epoch, note)?;
        }
        let is_it = |it: &&Epoch| it.seq == record.seq && it.leaf == record.leaf;
        let known = self.later.iter().find(is_it).ok_or("the file `keys` has another in its place")?;
        if known.root == root {
            Ok(())
        } else {
            Err("it was signed over other records than those before it".into())
        }
    }

    /// The first record from `first` on that the file says hands over, of those behind the first `met` of them.
    pub(crate) fn missed(&self, first: u64, met: usize) -> Option<u64> {
        self.later.iter().filter(|epoch| epoch.seq >= first).nth(met).map(|epoch| epoch.seq)
    }
}
