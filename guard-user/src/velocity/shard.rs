//! A part of all keys, under one lock.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use super::window::Window;

/// How long one is told to wait for a call under way to end: nobody knows.
const CONCURRENT_RETRY_MILLISECONDS: u64 = 1000;

#[derive(Debug, Default)]
pub(super) struct Shard {
    /// Where each key's entry is.
    table: HashTable<u32>,
    slots: Vec<Option<Entry>>,
    free: Vec<u32>,
    /// Where the next sweep goes on.
    hand: usize,
}

/// One key's count.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Box<[u8]>,
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
        Self { key: key.into(), number: 0, owner, length, count }
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
    pub(super) fn find(&self, hash: u64, key: &[u8]) -> Option<u32> {
        let is_it = |slot: &u32| self.get(*slot).is_some_and(|entry| *entry.key == *key);
        self.table.find(hash, is_it).copied()
    }

    pub(super) fn get(&self, slot: u32) -> Option<&Entry> {
        self.slots.get(index(slot)).and_then(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> Option<&mut Entry> {
        self.slots.get_mut(index(slot)).and_then(Option::as_mut)
    }

    /// Adds an entry, whose key is not there yet.
    pub(super) fn insert(&mut self, hash: u64, entry: Entry, hasher: &RandomState) -> u32 {
        let slot = if let Some(slot) = self.free.pop() {
            if let Some(place) = self.slots.get_mut(index(slot)) {
                *place = Some(entry);
            }
            slot
        } else {
            self.slots.push(Some(entry));
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        };
        let slots = &self.slots;
        let hash_of = |slot: &u32| match slots.get(index(*slot)) {
            Some(Some(entry)) => hasher.hash_one(&*entry.key),
            _ => 0,
        };
        self.table.insert_unique(hash, slot, hash_of);
        slot
    }

    /// Looks at the next `count` places, and gives those back that count nothing. `gone` is told whose they were.
    pub(super) fn sweep(&mut self, now: u64, count: usize, hasher: &RandomState, mut gone: impl FnMut(u32)) {
        for _ in 0..count.min(self.slots.len()) {
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let Some(place) = self.slots.get_mut(self.hand) else { return };
            let Some(entry) = place.as_mut() else { continue };
            if !entry.is_empty(now) {
                continue;
            }
            let Some(entry) = place.take() else { continue };
            let (hash, slot) = (hasher.hash_one(&*entry.key), u32::try_from(self.hand).unwrap_or(u32::MAX));
            if let Ok(found) = self.table.find_entry(hash, |one| *one == slot) {
                found.remove();
            }
            self.free.push(slot);
            gone(entry.owner);
        }
    }

    /// The same with all, and gives memory back.
    pub(super) fn tidy(&mut self, now: u64, hasher: &RandomState, gone: impl FnMut(u32)) {
        self.sweep(now, self.slots.len(), hasher, gone);
        if self.table.is_empty() {
            *self = Self::default();
        }
    }

    pub(super) fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.slots.iter_mut().flatten()
    }

    pub(super) fn len(&self) -> usize {
        self.table.len()
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).unwrap_or(usize::MAX)
}
