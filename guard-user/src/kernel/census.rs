//! What the kernel programs counted, server by server, for the heartbeat records of the trail. The counts belong to the
//! pins: they go on when the guard is started anew, and end with `unload`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use aya::maps::MapError;
use guard_common::{Port, Stat, Tally};

use super::Door;
use super::guard::{Inner, Realms};
use super::maps::lock;
use crate::types::ServerName;

/// The counts at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Census {
    pub servers: Vec<Counted>,
    /// Over all servers; see `docs/kernel.md`.
    pub counters: BTreeMap<&'static str, u64>,
}

/// What came to one server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counted {
    pub server: ServerName,
    /// Cookie of its network namespace, the newest one if it moved; 0 if it has not been seen.
    pub netns: u64,
    pub port: u16,
    /// By name, over all namespaces that it was served in. `established` is what a guard must have accepted.
    pub counts: BTreeMap<&'static str, u64>,
    /// Of `established`, what was not for this guard.
    pub before: u64,
}

/// What was served since the start, so that the counts of what is gone stay.
#[derive(Debug, Default)]
pub(crate) struct Witnessed(Mutex<Ledger>);

#[derive(Debug, Default)]
struct Ledger {
    doors: BTreeMap<Door, Seen>,
    former: BTreeMap<ServerName, Former>,
}

/// Whose port it is, and what was counted before this guard served it.
#[derive(Debug, Clone)]
struct Seen {
    server: ServerName,
    before: u64,
}

/// All that was counted for a server on ports that were released.
#[derive(Debug, Default)]
struct Former {
    tally: Tally,
    before: u64,
    netns: u64,
}

impl Witnessed {
    /// Remembers what is served now. To be called before a namespace is let go.
    pub(super) fn note(&self, realms: &Realms) {
        let mut ledger = lock(&self.0);
        for (netns, realm) in realms.iter() {
            for (port, server) in realm.ports().iter() {
                let before = realm.established_before(*port);
                let door = Door { netns: *netns, port: *port };
                ledger.doors.insert(door, Seen { server: server.name.clone(), before });
            }
        }
    }

    /// A port was released, and the kernel had counted this.
    fn close(&self, door: Door, last: &Tally) {
        let mut ledger = lock(&self.0);
        if let Some(seen) = ledger.doors.remove(&door) {
            let former = ledger.former.entry(seen.server).or_default();
            former.tally.add(last);
            former.before += seen.before;
            former.netns = former.netns.max(door.netns);
        }
    }
}

impl Census {
    /// Lets go of the kernel's entries of ports that have no rule any more: who makes namespaces come and go would fill the
    /// map. What this guard served is remembered.
    pub(super) fn prune(inner: &Inner) -> Result<(), MapError> {
        let realms = inner.realms();
        for port in inner.maps.tallies_left() {
            // A rule that somebody has taken away is put back.
            let is_served = realms.get(&port.netns).is_some_and(|realm| realm.server(port.port).is_some());
            if !is_served {
                let last = inner.maps.take_tally(port)?;
                inner.witnessed.close(Door { netns: port.netns, port: port.port }, &last);
            }
        }
        Ok(())
    }

    pub(super) fn read(inner: &Inner) -> Self {
        inner.witnessed.note(&inner.realms());
        let ledger = lock(&inner.witnessed.0);
        let counted = |name: &ServerName, port: u16| {
            let (mut sum, mut before, mut netns) = (Tally::ZERO, 0, 0);
            if let Some(former) = ledger.former.get(name) {
                sum.add(&former.tally);
                (before, netns) = (former.before, former.netns);
            }
            for (door, seen) in ledger.doors.iter().filter(|(_, seen)| seen.server == *name) {
                sum.add(&inner.maps.tally(Port::new(door.netns, door.port)));
                before += seen.before;
                netns = netns.max(door.netns);
            }
            Counted { server: name.clone(), netns, port, counts: named(&sum), before }
        };
        let servers = inner.config.servers.iter();
        Self {
            servers: servers.map(|server| counted(&server.name, server.port.get())).collect(),
            counters: Stat::ALL.iter().map(|(stat, name)| (*name, inner.maps.count(*stat))).collect(),
        }
    }
}

/// The counts of one port, by the names that `docs/kernel.md` explains.
pub(super) fn named(tally: &Tally) -> BTreeMap<&'static str, u64> {
    BTreeMap::from([
        ("steered", tally.steered),
        ("established", tally.established),
        ("own", tally.own),
        ("refused", tally.refused),
        ("udp", tally.udp),
        ("blocked", tally.blocked),
        ("pending", tally.pending),
        ("dropped", tally.dropped),
        ("counted", tally.counted),
        ("binds", tally.binds),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counts_of_a_port_that_was_released_stay_with_its_server() {
        let (witnessed, server) = (Witnessed::default(), ServerName::parse("crm").unwrap());
        let door = |netns| Door { netns, port: 1 };
        let counted = |established| Tally { established, ..Tally::ZERO };
        for (netns, before, last) in [(7, 2, 5), (9, 0, 4)] {
            let seen = Seen { server: server.clone(), before };
            lock(&witnessed.0).doors.insert(door(netns), seen);
            witnessed.close(door(netns), &counted(last));
            witnessed.close(door(netns), &counted(last));
        }
        let ledger = lock(&witnessed.0);
        let former = &ledger.former[&server];
        assert_eq!((former.tally.established, former.before, former.netns), (9, 2, 9));
        assert!(ledger.doors.is_empty());
    }
}
