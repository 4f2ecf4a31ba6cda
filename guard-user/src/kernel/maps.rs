//! Handles of the pinned maps. Each map has its own lock, held for one system call at a time.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd as _, AsRawFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;
use aya::Ebpf;
use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, PerCpuHashMap, SockHash};
use guard_common::{
    Block, Blocked, Egress, EgressTally, Flow, Lock, Meta, Owner, Pending, Port, Rule, Slot, Stat, Tally,
    Watch, Who,
};
use serde::Serialize;

use super::sys;

/// Maps that are pinned, so that they outlive the guard.
pub(super) const PINNED: [&str; 27] = [
    "POLICY",
    "PENDING",
    "APPROVED",
    "SHUT",
    "SOCKS",
    "MULTIPATH",
    "FLOWS",
    "CLOSING",
    "OWN",
    "WHO_CK",
    "WHO",
    "EVENTS",
    "DENIED",
    "STATS",
    "TALLY",
    "SWITCHES",
    "META",
    "TRUST",
    "ALIVE",
    "HOLDERS",
    "WATCHED",
    "BLOCKS",
    "LIFTED",
    "BLOCKED_CGROUPS",
    "LOCKS",
    "EGRESS",
    "REFUSED",
];
/// The buffer of the programs' words. All instances that one start loads write to one, so it is pinned too, beside the
/// links of that start.
pub(super) const LOGS: &str = "AYA_LOGS";

type Hash<K, V> = Mutex<HashMap<MapData, K, V>>;

pub(crate) struct Maps {
    pub policy: Hash<Port, Rule>,
    /// Ports whose listeners nobody has approved; `Pending::at` of those that were.
    pub pending: Hash<Port, Pending>,
    pub approved: Hash<Port, u64>,
    /// Watched cgroups with too many listeners, by id, and since when.
    pub shut: Hash<u64, u64>,
    pub flows: Hash<Flow, u64>,
    multipath: Hash<Slot, u32>,
    pub trust: Hash<Port, Owner>,
    /// The cgroup whose processes alone may bind a port.
    pub holders: Hash<Port, u64>,
    /// By cgroup id.
    pub watched: Hash<u64, Watch>,
    pub blocks: Hash<Block, Blocked>,
    /// Blocks that were taken back and are not recorded yet.
    pub lifted: Hash<Block, Blocked>,
    /// By cgroup id; the value says nothing.
    pub blocked_cgroups: Hash<u64, u32>,
    /// By cgroup id.
    pub locks: Hash<u64, Lock>,
    pub egress: Mutex<LpmTrie<MapData, Egress, u32>>,
    own: Hash<u64, u32>,
    who: Hash<Flow, Who>,
    meta: Mutex<Array<MapData, Meta>>,
    socks: Mutex<SockHash<MapData, Slot>>,
    stats: Mutex<PerCpuArray<MapData, u64>>,
    tally: Mutex<PerCpuHashMap<MapData, Port, Tally>>,
    refused: Mutex<PerCpuHashMap<MapData, u64, EgressTally>>,
    switches: Mutex<Array<MapData, u32>>,
    alive: Mutex<Array<MapData, u64>>,
    ids: Vec<Named>,
    pending_file: OwnedFd,
    shut_file: OwnedFd,
}

/// A kernel object with the id under which `bpftool` knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Named {
    pub name: String,
    pub id: u32,
}

impl Maps {
    /// Takes the maps out of a loaded object.
    pub(crate) fn take(bpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut ids = Vec::new();
        let (pending_file, shut_file) = (file(bpf, "PENDING")?, file(bpf, "SHUT")?);
        for (name, map) in bpf.maps() {
            if let Some(info) = data(map).and_then(|data| data.info().ok()) {
                ids.push(Named { name: name.to_owned(), id: info.id() });
            }
        }
        ids.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self {
            policy: typed(bpf, "POLICY")?,
            pending: typed(bpf, "PENDING")?,
            approved: typed(bpf, "APPROVED")?,
            shut: typed(bpf, "SHUT")?,
            flows: typed(bpf, "FLOWS")?,
            multipath: typed(bpf, "MULTIPATH")?,
            trust: typed(bpf, "TRUST")?,
            holders: typed(bpf, "HOLDERS")?,
            watched: typed(bpf, "WATCHED")?,
            blocks: typed(bpf, "BLOCKS")?,
            lifted: typed(bpf, "LIFTED")?,
            blocked_cgroups: typed(bpf, "BLOCKED_CGROUPS")?,
            locks: typed(bpf, "LOCKS")?,
            egress: typed(bpf, "EGRESS")?,
            own: typed(bpf, "OWN")?,
            who: typed(bpf, "WHO")?,
            meta: typed(bpf, "META")?,
            socks: typed(bpf, "SOCKS")?,
            stats: typed(bpf, "STATS")?,
            tally: typed(bpf, "TALLY")?,
            refused: typed(bpf, "REFUSED")?,
            switches: typed(bpf, "SWITCHES")?,
            alive: typed(bpf, "ALIVE")?,
            ids,
            pending_file,
            shut_file,
        })
    }

    pub(crate) fn ids(&self) -> &[Named] {
        &self.ids
    }

    pub(crate) fn meta(&self) -> Result<Meta, MapError> {
        lock(&self.meta).get(&0, 0)
    }

    pub(crate) fn set_meta(&self, meta: Meta) -> Result<(), MapError> {
        lock(&self.meta).set(0, meta, 0)
    }

    /// Puts a listening socket in its slot; replaces what is there.
    pub(crate) fn set_socket(&self, slot: Slot, socket: &impl AsRawFd) -> Result<(), MapError> {
        lock(&self.socks).insert(slot, socket.as_raw_fd(), 0)
    }

    /// The slots that hold a live socket.
    pub(crate) fn sockets(&self) -> HashSet<Slot> {
        lock(&self.socks).keys().filter_map(Result::ok).collect()
    }

    /// Empties a slot. It may be empty already.
    pub(crate) fn clear_socket(&self, slot: Slot) -> Result<(), MapError> {
        gone(lock(&self.socks).remove(&slot))
    }

    /// Lets the guard's connections pass to whatever listens in the place of this slot.
    pub(super) fn set_multipath(&self, slot: Slot) -> Result<(), MapError> {
        lock(&self.multipath).insert(slot, 1, 0)
    }

    pub(super) fn is_multipath(&self, slot: &Slot) -> bool {
        lock(&self.multipath).get(slot, 0).is_ok()
    }

    /// Ends it. It may be over already.
    pub(super) fn clear_multipath(&self, slot: Slot) -> Result<(), MapError> {
        gone(lock(&self.multipath).remove(&slot))
    }

    /// Allows one `connect` of the socket with this cookie to be recorded as the guard's.
    pub(crate) fn register(&self, cookie: u64) -> Result<(), MapError> {
        lock(&self.own).insert(cookie, 1, 0)
    }

    pub(crate) fn unregister(&self, cookie: u64) -> Result<(), MapError> {
        gone(lock(&self.own).remove(&cookie))
    }

    /// Takes the record of who made a connection; a second call finds nothing.
    pub(crate) fn take_who(&self, netns: u64, src: SocketAddr, dst: SocketAddr) -> Option<Who> {
        let flow = super::address::flow(netns, src, dst);
        let mut who = lock(&self.who);
        let found = who.get(&flow, 0).ok()?;
        // Nothing to be done if the kernel dropped the entry meanwhile.
        let _gone = who.remove(&flow);
        Some(found)
    }

    /// One counter, over all CPUs.
    pub(crate) fn count(&self, stat: Stat) -> u64 {
        lock(&self.stats).get(&(stat as u32), 0).map_or(0, |values| values.iter().sum())
    }

    /// What came to a port, over all CPUs; zeros if nothing did.
    pub(crate) fn tally(&self, port: Port) -> Tally {
        let mut sum = Tally::default();
        if let Ok(values) = lock(&self.tally).get(&port, 0) {
            values.iter().for_each(|of_cpu| sum.add(of_cpu));
        }
        sum
    }

    /// What the processes of a locked cgroup were refused, over all CPUs.
    pub(crate) fn egress_refused(&self, cgroup: u64) -> EgressTally {
        let mut sum = EgressTally::default();
        if let Ok(values) = lock(&self.refused).get(&cgroup, 0) {
            for of_cpu in values.iter() {
                sum.connects += of_cpu.connects;
                sum.sends += of_cpu.sends;
                sum.packets += of_cpu.packets;
            }
        }
        sum
    }

    /// Sets one of the switches, a `SWITCH_` constant.
    pub(crate) fn set_switch(&self, index: u32, value: u32) -> Result<(), MapError> {
        lock(&self.switches).set(index, value, 0)
    }

    /// Until when holds of ports count, in nanoseconds since boot.
    pub(crate) fn set_alive(&self, until: u64) -> Result<(), MapError> {
        lock(&self.alive).set(0, until, 0)
    }

    pub(crate) fn switch(&self, index: u32) -> Result<u32, MapError> {
        lock(&self.switches).get(&index, 0)
    }

    /// Forgets upstream flows, registrations and ways of guards that are gone. Only before the first `dial`.
    pub(crate) fn clear_flows(&self) -> Result<(), MapError> {
        clear(&self.flows)?;
        clear(&self.multipath)?;
        clear(&self.own)
    }

    /// Forgets whose servers the ports of a namespace were.
    pub(crate) fn forget_owners(&self, netns: u64) -> Result<(), MapError> {
        let mut multipath = lock(&self.multipath);
        let slots: Vec<Slot> =
            multipath.keys().filter_map(Result::ok).filter(|slot| slot.netns == netns).collect();
        slots.into_iter().try_for_each(|slot| gone(multipath.remove(&slot)))?;
        let mut trust = lock(&self.trust);
        let keys: Vec<Port> = trust.keys().filter_map(Result::ok).filter(|key| key.netns == netns).collect();
        keys.into_iter().try_for_each(|key| gone(trust.remove(&key)))
    }

    /// Takes out an entry of PENDING. What is returned was there until now: a program may have written it just before.
    pub(super) fn take_pending(&self, port: Port) -> io::Result<Option<Pending>> {
        let empty = Pending { at: 0, watched: 0, server: 0 };
        sys::take_from_map(&self.pending_file, port, empty)
    }

    /// The same of SHUT.
    pub(super) fn take_shut(&self, cgroup: u64) -> io::Result<Option<u64>> {
        sys::take_from_map(&self.shut_file, cgroup, 0)
    }

    /// Forgets what came to a port, and tells it a last time.
    pub(crate) fn take_tally(&self, port: Port) -> Result<Tally, MapError> {
        let last = self.tally(port);
        gone(lock(&self.tally).remove(&port))?;
        Ok(last)
    }

    /// The ports that were counted and have no rule any more.
    pub(crate) fn tallies_left(&self) -> Vec<Port> {
        let counted: Vec<Port> = lock(&self.tally).keys().filter_map(Result::ok).collect();
        let policy = lock(&self.policy);
        let is_gone = |port: &Port| matches!(policy.get(port, 0), Err(MapError::KeyNotFound));
        counted.into_iter().filter(is_gone).collect()
    }

    /// Live upstream flows.
    pub(crate) fn flows_len(&self) -> usize {
        lock(&self.flows).keys().flatten().count()
    }
}

/// Removes every key.
fn clear<K: aya::Pod, V: aya::Pod>(map: &Hash<K, V>) -> Result<(), MapError> {
    let mut map = lock(map);
    let keys: Vec<K> = map.keys().filter_map(Result::ok).collect();
    keys.into_iter().try_for_each(|key| gone(map.remove(&key)))
}

/// A removal that found nothing has done its work.
pub(super) fn gone(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::ENOENT) => {
            Ok(())
        }
        // A SOCKHASH says EINVAL for a key that is not there.
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::EINVAL) => {
            Ok(())
        }
        other => other,
    }
}

/// A lock whose data stay consistent when a holder panics: each holder makes one system call.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn typed<T: TryFrom<Map, Error = MapError>>(bpf: &mut Ebpf, name: &str) -> anyhow::Result<Mutex<T>> {
    let map =
        bpf.take_map(name).with_context(|| format!("the kernel object has no map {name}; build it again"))?;
    Ok(Mutex::new(
        T::try_from(map)
            .with_context(|| format!("map {name} has another shape; build the kernel object again"))?,
    ))
}

/// Another handle of a map, for what the library does not do.
fn file(bpf: &Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let map =
        bpf.map(name).with_context(|| format!("the kernel object has no map {name}; build it again"))?;
    let data = data(map).with_context(|| format!("map {name} has another shape; build it again"))?;
    data.fd().as_fd().try_clone_to_owned().context("cannot open a map twice")
}

fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::PerCpuHashMap(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data)
        | Map::SockHash(data) => Some(data),
        _ => None,
    }
}
