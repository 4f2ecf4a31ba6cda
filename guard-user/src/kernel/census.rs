//! What the kernel programs counted, server by server, for the heartbeat records of the trail. The counts belong to the
//! pins: they go on when the guard is started anew, and end with `unload`.

use std::collections::BTreeMap;
use std::sync::Mutex;

use guard_common::{Port, Stat, Tally};

use super::Door;
use super::guard::Inner;
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

/// Every port that was served since the start, so that the counts of one that is gone stay.
pub(crate) type Witnessed = Mutex<BTreeMap<Door, Seen>>;

/// Whose port it is, and what was counted before this guard served it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    server: ServerName,
    before: u64,
}

impl Census {
    pub(super) fn read(inner: &Inner) -> Self {
        let mut witnessed = lock(&inner.witnessed);
        for (netns, realm) in inner.realms().iter() {
            for (port, server) in realm.ports().iter() {
                let before = realm.established_before(*port);
                let door = Door { netns: *netns, port: *port };
                witnessed.insert(door, Seen { server: server.name.clone(), before });
            }
        }
        let counted = |name: &ServerName, port: u16| {
            let (mut sum, mut before, mut netns) = (Tally::ZERO, 0, 0);
            for (door, seen) in witnessed.iter().filter(|(_, seen)| seen.server == *name) {
                sum.add(&inner.maps.tally(Port::new(door.netns, door.port)));
                before += seen.before;
                netns = door.netns;
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
