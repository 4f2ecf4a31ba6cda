//! What became of each connection that the guard accepted, counted by server: the guard's own half of the evidence that
//! heartbeat records carry. The other half is the kernel's.
//!
//! Every accepted connection ends in one of the counts of [`Counts`]. Each change is one short lock, so that a reader
//! never sees a connection twice or not at all.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

use crate::types::ServerName;

/// Counts of one server's connections since this guard began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    pub accepted: u64,
    /// The proof's connections.
    pub canaries: u64,
    /// The guard's own connections that came back to it.
    pub loops: u64,
    /// Closed at once: `limits.connections_max` were open, or as many as one peer may have.
    pub over_limit: u64,
    /// Closed at once: the guard was stopping.
    pub turned_away: u64,
    /// Ended without a record: no TLS, no request, or none that could be recorded.
    pub ended: u64,
    /// With at least one record in the trail.
    pub recorded: u64,
    /// Open, and without a record so far.
    pub open: u64,
}

/// The counts of all servers. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Attendance {
    servers: Arc<BTreeMap<ServerName, Arc<Mutex<Counts>>>>,
    /// Accepted connections by namespace and port: a server may have several doors, and the next guard must know how many
    /// wait at each.
    doors: Arc<Mutex<BTreeMap<(u64, u16), u64>>>,
}

/// Why an accepted connection goes no further.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dismissal {
    Canary,
    Loop,
    OverLimit,
    TurnedAway,
}

/// An accepted connection that is served, from its `accept` to its end.
#[derive(Debug)]
pub struct Guest {
    counts: Arc<Mutex<Counts>>,
    is_recorded: Mutex<bool>,
}

impl Attendance {
    pub fn of<'a>(servers: impl IntoIterator<Item = &'a ServerName>) -> Self {
        let servers = servers.into_iter().map(|name| (name.clone(), Arc::default())).collect();
        Self { servers: Arc::new(servers), doors: Arc::default() }
    }

    /// Counts a connection at its door, the namespace's cookie and the port. To be called once for each, beside `dismiss` or
    /// `admit`.
    pub fn enter(&self, netns: u64, port: u16) {
        *lock(&self.doors).entry((netns, port)).or_default() += 1;
    }

    /// How many connections came in by one door.
    pub fn entered(&self, netns: u64, port: u16) -> u64 {
        lock(&self.doors).get(&(netns, port)).copied().unwrap_or_default()
    }

    /// Counts a connection that is not served.
    pub fn dismiss(&self, server: &ServerName, why: Dismissal) {
        let Some(counts) = self.servers.get(server) else { return };
        let mut counts = lock(counts);
        counts.accepted += 1;
        match why {
            Dismissal::Canary => counts.canaries += 1,
            Dismissal::Loop => counts.loops += 1,
            Dismissal::OverLimit => counts.over_limit += 1,
            Dismissal::TurnedAway => counts.turned_away += 1,
        }
    }

    /// Counts a connection that is served.
    pub fn admit(&self, server: &ServerName) -> Arc<Guest> {
        let counts = self.servers.get(server).cloned().unwrap_or_default();
        {
            let mut counts = lock(&counts);
            counts.accepted += 1;
            counts.open += 1;
        }
        Arc::new(Guest { counts, is_recorded: Mutex::new(false) })
    }

    /// The counts of one server at one moment.
    pub fn counts(&self, server: &ServerName) -> Counts {
        self.servers.get(server).map(|counts| *lock(counts)).unwrap_or_default()
    }
}

impl Guest {
    /// Its first record is in the trail. To be called by who writes the trail, in the trail's order.
    pub fn recorded(&self) {
        let mut is_recorded = lock(&self.is_recorded);
        if !*is_recorded {
            *is_recorded = true;
            let mut counts = lock(&self.counts);
            counts.open = counts.open.saturating_sub(1);
            counts.recorded += 1;
        }
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        if !*lock(&self.is_recorded) {
            let mut counts = lock(&self.counts);
            counts.open = counts.open.saturating_sub(1);
            counts.ended += 1;
        }
    }
}

/// No holder leaves it half changed, so a panic of one does not matter.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_accepted_connection_is_in_one_count() {
        let (crm, mail): (ServerName, ServerName) =
            (ServerName::parse("crm").unwrap(), ServerName::parse("mail").unwrap());
        let attendance = Attendance::of([&crm, &mail]);
        for why in [Dismissal::Canary, Dismissal::Loop, Dismissal::OverLimit, Dismissal::TurnedAway] {
            attendance.dismiss(&crm, why);
        }
        let guests: Vec<_> = (0..3).map(|_| attendance.admit(&crm)).collect();
        guests[0].recorded();
        guests[0].recorded();
        let before = attendance.counts(&crm);
        assert_eq!((before.accepted, before.recorded, before.open, before.ended), (7, 1, 2, 0));
        drop(guests);
        let after = attendance.counts(&crm);
        let ends =
            [after.canaries, after.loops, after.over_limit, after.turned_away, after.ended, after.recorded];
        assert_eq!((ends, after.open), ([1, 1, 1, 1, 2, 1], 0));
        assert_eq!(attendance.counts(&mail), Counts::default());
    }

    #[test]
    fn each_door_has_a_count_of_its_own() {
        let attendance = Attendance::default();
        for door in [(1, 3001), (1, 3001), (1, 3002), (2, 3001)] {
            attendance.enter(door.0, door.1);
        }
        let entered = [(1, 3001), (1, 3002), (2, 3001), (2, 3002)];
        assert_eq!(entered.map(|(netns, port)| attendance.entered(netns, port)), [2, 1, 1, 0]);
    }
}
