//! A part of all keys, under one lock.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::key::Key;
use super::window::Window;

/// How long one is told to wait for a call under way to end: nobody knows.
const CONCURRENT_RETRY_MILLISECONDS: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<Entry>,
    /// Where the next sweep goes on.
    hand: usize,
}

/// One key's count.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Key,
    /// Of the last admission that it counted.
    pub(super) number: u64,
    /// Whose share of all keys it takes.
    pub(super) owner: u32,
    /// The window's length in milliseconds; 0: what is under way.
    pub(super) length: u32,
    pub(super) count: Count,
}

#[derive(Debug)]
pub(super) enum Count {
    Window(Window),
    UnderWay(u32),
}

impl Entry {
    pub(super) fn new(key: &[u8], owner: u32, length: u32) -> Self {
        let count = if length == 0 { Count::UnderWay(0) } else { Count::Window(Window::default()) };
        Self { key: Key::new(key), number: 0, owner, length, count }
    }

    /// As [`Window::room`].
    pub(super) fn room(&mut self, now: u64, max: u64, weight: u32) -> (u64, Option<u64>) {
        match &mut self.count {
            Count::Window(window) => window.room(now, u64::from(self.length), max, weight),
            Count::UnderWay(calls) => {
                let calls = u64::from(*calls);
                (calls, (calls >= max).then_some(CONCURRENT_RETRY_MILLISECONDS))
            }
        }
    }

    pub(super) fn count(&mut self, now: u64, weight: u32) {
        match &mut self.count {
            Count::Window(window) => window.count(now, u64::from(self.length), weight),
            Count::UnderWay(calls) => *calls = calls.saturating_add(1),
        }
    }

    fn is_empty(&mut self, now: u64) -> bool {
        match &mut self.count {
            Count::Window(window) => window.tidy(now, u64::from(self.length)),
            Count::UnderWay(calls) => *calls == 0,
        }
    }
}

impl Shard {
    /// Where the key's entry is, until another one is added or removed.
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.table.find_bucket_index(hash, |entry| *entry.key == *key)
    }

    pub(super) fn get_mut(&mut self, place: usize) -> Option<&mut Entry> {
        self.table.get_bucket_mut(place)
    }

    /// Adds an entry, whose key is not there yet.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry, hasher: &RandomState) {
        self.table.insert_unique(hash, entry, |entry| hasher.hash_one(&*entry.key));
    }

    /// Looks at the next `count` places, and gives those back that count nothing. `gone` is told whose they were.
    pub(super) fn sweep(&mut self, now: u64, count: usize, gone: impl FnMut(u32)) {
        self.sweep_also(now, count, |_entry| false, gone);
    }

    /// Looks at all, gives those back that count nothing or are not `counted` any more, and memory with them.
    pub(super) fn tidy(
        &mut self,
        now: u64,
        hasher: &RandomState,
        is_counted: impl Fn(&[u8]) -> bool,
        gone: impl FnMut(u32),
    ) {
        // A call under way goes on, whatever rules there are, and may end under a rule that came back.
        let is_over = |entry: &Entry| matches!(entry.count, Count::Window(_)) && !is_counted(&entry.key);
        self.sweep_also(now, self.table.num_buckets(), is_over, gone);
        if self.table.len() < self.table.capacity() / 4 {
            self.table.shrink_to_fit(|entry| hasher.hash_one(&*entry.key));
        }
    }

    fn sweep_also(
        &mut self,
        now: u64,
        count: usize,
        is_over: impl Fn(&Entry) -> bool,
        mut gone: impl FnMut(u32),
    ) {
        let places = self.table.num_buckets();
        for _ in 0..count.min(places) {
            self.hand = if self.hand + 1 < places { self.hand + 1 } else { 0 };
            let Ok(mut place) = self.table.get_bucket_entry(self.hand) else { continue };
            if is_over(place.get()) || place.get_mut().is_empty(now) {
                let (entry, _) = place.remove();
                gone(entry.owner);
            }
        }
    }

    pub(super) fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.table.iter_mut()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}
