//! Event ids, by which a client resumes a stream that broke. Servers take them from anybody.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};

use super::Owner;
use crate::types::ServerName;

/// Longest event id that a stream is resumed from, in bytes.
pub const EVENT_ID_BYTES_MAX: usize = 1024;

/// An event id: the first 8 bytes of its SHA-256.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EventId(u64);

impl EventId {
    /// `None`: it is too long to be kept.
    pub(super) fn of(id: &[u8]) -> Option<Self> {
        let digest = (id.len() <= EVENT_ID_BYTES_MAX).then(|| digest(&SHA256, id))?;
        digest.as_ref().first_chunk().map(|first| Self(u64::from_be_bytes(*first)))
    }
}

/// The last event ids that went to a client. When there are too many, the stream with the most of them loses its oldest: one
/// that is busy leaves room for those that are not.
#[derive(Debug, Default)]
pub(super) struct Events {
    streams: BTreeMap<u64, VecDeque<EventId>>,
    /// How many each stream has. Of those with as many, the oldest stream comes last.
    by_length: BTreeSet<(usize, Reverse<u64>)>,
    count: usize,
}

impl Events {
    /// Which streams they were of is not written down.
    pub(super) fn restored(short: Vec<u64>) -> Self {
        let mut events = Self::default();
        for event in short {
            events.add(0, EventId(event), usize::MAX);
        }
        events
    }

    /// Adds one of this stream.
    pub(super) fn add(&mut self, stream: u64, event: EventId, most: usize) {
        while self.count >= most.max(1) && self.drop_one() {}
        self.change(stream, |ids| ids.push_back(event));
        self.count += 1;
    }

    /// Whether there was one.
    fn drop_one(&mut self) -> bool {
        let Some((_, Reverse(stream))) = self.by_length.last().copied() else { return false };
        self.change(stream, |ids| _ = ids.pop_front());
        self.count = self.count.saturating_sub(1);
        true
    }

    fn change(&mut self, stream: u64, change: impl FnOnce(&mut VecDeque<EventId>)) {
        let ids = self.streams.entry(stream).or_default();
        self.by_length.remove(&(ids.len(), Reverse(stream)));
        change(ids);
        if ids.is_empty() {
            self.streams.remove(&stream);
        } else {
            self.by_length.insert((ids.len(), Reverse(stream)));
        }
    }

    pub(super) fn has(&self, event: EventId) -> bool {
        self.streams.values().any(|ids| ids.contains(&event))
    }

    pub(super) fn all(&self) -> Vec<u64> {
        self.streams.values().flatten().map(|event| event.0).collect()
    }
}

/// Those of streams without a session. Their keys come from the policy's agents and the configured servers.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<(ServerName, Owner), (Events, u64)>);

impl Streams {
    pub(super) fn add(
        &mut self,
        (server, owner): (&ServerName, &Owner),
        (stream, event): (u64, EventId),
        most: usize,
        now: u64,
    ) {
        let (events, at) = self.0.entry((server.clone(), owner.clone())).or_default();
        *at = now;
        events.add(stream, event, most);
    }

    pub(super) fn has(&self, server: &ServerName, owner: &Owner, event: EventId) -> bool {
        self.0.get(&(server.clone(), owner.clone())).is_some_and(|(events, _)| events.has(event))
    }

    /// Drops those that `ends` wants gone.
    pub(super) fn end(&mut self, ends: impl Fn(&ServerName, &Owner) -> bool) {
        self.0.retain(|(server, owner), _| !ends(server, owner));
    }

    /// Drops those of whom nobody has heard for so long.
    pub(super) fn sweep(&mut self, now: u64, idle_milliseconds: u64) {
        self.0.retain(|_, (_, at)| now.saturating_sub(*at) < idle_milliseconds);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ids_are_known_and_older_ones_are_not() {
        let mut events = Events::default();
        let id = |number: u8| EventId::of(&[number]).unwrap();
        for number in 0..5_u8 {
            events.add(1, id(number), 3);
        }
        let known: Vec<bool> = (0..6_u8).map(|number| events.has(id(number))).collect();
        assert_eq!(known, [false, false, true, true, true, false]);
        assert!(Events::restored(events.all()).has(id(4)));
    }

    #[test]
    fn a_busy_stream_pushes_out_its_own_ids_only() {
        let mut events = Events::default();
        let id = |text: &str| EventId::of(text.as_bytes()).unwrap();
        for number in 0..3 {
            events.add(1, id(&format!("quiet-{number}")), 10);
        }
        for number in 0..100 {
            events.add(2, id(&format!("busy-{number}")), 10);
        }
        assert!((0..3).all(|number| events.has(id(&format!("quiet-{number}")))));
        assert!((93..100).all(|number| events.has(id(&format!("busy-{number}")))));
        assert_eq!((events.count, events.all().len(), events.has(id("busy-92"))), (10, 10, false));
        // Of streams with one each, the oldest goes first.
        let mut events = Events::default();
        for stream in 1..=11 {
            events.add(stream, id(&stream.to_string()), 10);
        }
        assert_eq!((events.streams.len(), events.has(id("1")), events.has(id("2"))), (10, false, true));
    }

    #[test]
    fn an_id_that_is_too_long_is_not_kept() {
        assert!(EventId::of(&[b'e'; EVENT_ID_BYTES_MAX]).is_some());
        assert!(EventId::of(&[b'e'; EVENT_ID_BYTES_MAX + 1]).is_none());
    }
}
