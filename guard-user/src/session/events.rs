//! Event ids, by which a client resumes a stream that broke. Servers take them from anybody.

use std::collections::{HashMap, VecDeque};

use aws_lc_rs::digest::{SHA256, digest};

use super::Owner;
use crate::types::ServerName;

/// The last event ids that went to a client, each as the first 8 bytes of its SHA-256.
#[derive(Debug, Default)]
pub(super) struct Events(VecDeque<u64>);

impl Events {
    pub(super) fn restored(short: Vec<u64>) -> Self {
        Self(short.into())
    }

    /// Adds one; the oldest goes when there are more than `most`.
    pub(super) fn add(&mut self, event: &[u8], most: usize) {
        while self.0.len() >= most.max(1) {
            self.0.pop_front();
        }
        self.0.push_back(short(event));
    }

    pub(super) fn has(&self, event: &[u8]) -> bool {
        self.0.contains(&short(event))
    }

    pub(super) fn all(&self) -> Vec<u64> {
        self.0.iter().copied().collect()
    }
}

fn short(event: &[u8]) -> u64 {
    let digest = digest(&SHA256, event);
    digest.as_ref().first_chunk().map_or(0, |first| u64::from_be_bytes(*first))
}

/// Those of streams without a session. Their keys come from the policy's agents and the configured servers.
#[derive(Debug, Default)]
pub(super) struct Streams(HashMap<(ServerName, Owner), (Events, u64)>);

impl Streams {
    pub(super) fn add(&mut self, server: &ServerName, owner: &Owner, event: &[u8], most: usize, now: u64) {
        let (events, at) = self.0.entry((server.clone(), owner.clone())).or_default();
        *at = now;
        events.add(event, most);
    }

    pub(super) fn has(&self, server: &ServerName, owner: &Owner, event: &[u8]) -> bool {
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
        for number in 0..5_u8 {
            events.add(&[number], 3);
        }
        let known: Vec<bool> = (0..6_u8).map(|number| events.has(&[number])).collect();
        assert_eq!(known, [false, false, true, true, true, false]);
        assert!(Events::restored(events.all()).has(&[4]));
    }
}
