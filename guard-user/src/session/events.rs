//! Event ids, by which a client resumes a stream that broke. Servers take them from anybody.

use std::collections::{HashMap, VecDeque};

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

/// The last event ids that went to a client.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<u64>);

impl Events {
    pub(super) fn restored(short: Vec<u64>) -> Self {
        Self(short.into())
    }

    /// Adds one; the oldest goes when there are more than `most`.
    pub(super) fn add(&mut self, event: EventId, most: usize) {
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        self.0.push_back(event.0);
    }

    pub(super) fn has(&self, event: EventId) -> bool {
        self.0.contains(&event.0)
    }

    pub(super) fn all(&self) -> Vec<u64> {
        self.0.iter().copied().collect()
    }
}

/// Those of streams without a session. Their keys come from the policy's agents and the configured servers.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<(ServerName, Owner), (Events, u64)>);

impl Streams {
    pub(super) fn add(&mut self, server: &ServerName, owner: &Owner, event: EventId, most: usize, now: u64) {
        let (events, at) = self.0.entry((server.clone(), owner.clone())).or_default();
        *at = now;
        events.add(event, most);
    }

    pub(super) fn has(&self, server: &ServerName, owner: &Owner, event: EventId) -> bool {
        self.0.get(&(server.clone(), owner.clone())).is_some_and(|(events, _)| events.has(event))
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
            events.add(id(number), 3);
        }
        let known: Vec<bool> = (0..6_u8).map(|number| events.has(id(number))).collect();
        assert_eq!(known, [false, false, true, true, true, false]);
        assert!(Events::restored(events.all()).has(id(4)));
    }

    #[test]
    fn an_id_that_is_too_long_is_not_kept() {
        assert!(EventId::of(&[b'e'; EVENT_ID_BYTES_MAX]).is_some());
        assert!(EventId::of(&[b'e'; EVENT_ID_BYTES_MAX + 1]).is_none());
    }
}
