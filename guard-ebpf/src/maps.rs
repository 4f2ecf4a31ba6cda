//! The maps that all programs share, and counting.

use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf, SockHash};
use guard_common::{
    EVENTS_BYTES, FLOWS_ENTRIES_MAX, Flow, Meta, Owner, POLICY_ENTRIES_MAX, Port, Rule, SOCKS_ENTRIES_MAX,
    Slot, Stat, WHO_ENTRIES_MAX, Who,
};

/// Protected ports and the guard's private ports. Written by the guard.
#[map]
pub static POLICY: HashMap<Port, Rule> = HashMap::with_max_entries(POLICY_ENTRIES_MAX, 0);

/// Listening sockets of the guard and of the servers. An entry goes away with its socket.
#[map]
pub static SOCKS: SockHash<Slot> = SockHash::with_max_entries(SOCKS_ENTRIES_MAX, 0);

/// The guard's live upstream flows → socket cookie. Not an LRU: a live flow must not be forgotten.
#[map]
pub static FLOWS: HashMap<Flow, u64> = HashMap::with_max_entries(FLOWS_ENTRIES_MAX, 0);

/// Cookies of sockets with which the guard is about to connect.
#[map]
pub static OWN: HashMap<u64, u32> = HashMap::with_max_entries(FLOWS_ENTRIES_MAX, 0);

/// Who connects with a socket, by its cookie.
#[map]
pub static WHO_CK: LruHashMap<u64, Who> = LruHashMap::with_max_entries(WHO_ENTRIES_MAX, 0);

/// Who made a flow.
#[map]
pub static WHO: LruHashMap<Flow, Who> = LruHashMap::with_max_entries(WHO_ENTRIES_MAX, 0);

/// New listeners on protected ports.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// Counters, see [`Stat`].
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT, 0);

/// Layout version and the protected namespace. Only the daemon reads it.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// Whose server a port belongs to. Only the daemon reads it.
#[map]
pub static TRUST: HashMap<Port, Owner> = HashMap::with_max_entries(POLICY_ENTRIES_MAX, 0);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(slot) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: a valid map value of this CPU; programs on one CPU do not run at the same time in a way that
        // matters for a statistic.
        unsafe { *slot += 1 };
    }
}

/// The rule of a port, by value.
#[inline(always)]
pub fn rule(port: &Port) -> Option<u32> {
    // SAFETY: the value is one aligned word that is read once.
    POLICY.get_ptr(port).map(|rule| unsafe { (*rule).mode })
}
