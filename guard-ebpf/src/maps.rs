//! The maps that all programs share, and counting.

use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, RingBuf, SockHash};
use core::ptr::{addr_of, read_volatile};
use guard_common::{
    ANYWHERE, BLOCKS_ENTRIES_MAX, Block, Blocked, CGROUPS_ENTRIES_MAX, CLOSING_ENTRIES_MAX, DENIED_BYTES,
    EGRESS_ENTRIES_MAX, EVENTS_BYTES, Egress, EgressTally, FLAG_CLOSED, FLOWS_ENTRIES_MAX, Flow, Lock,
    MODE_GUARDED, Meta, Owner, PENDING_ENTRIES_MAX, POLICY_ENTRIES_MAX, Pending, Port, Rule,
    SOCKS_ENTRIES_MAX, SWITCHES as SWITCHES_ENTRIES, Slot, Stat, Tally, WHO_ENTRIES_MAX, Watch, Who,
};

/// Protected ports and the guard's private ports. Written by the guard alone: nobody else's listeners take its room.
#[map]
pub static POLICY: HashMap<Port, Rule> = HashMap::with_max_entries(POLICY_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Ports on which somebody listens whom nobody has approved. Written by `tie`, and by the guard for listeners from before.
#[map]
pub static PENDING: HashMap<Port, Pending> =
    HashMap::with_max_entries(PENDING_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// `Pending::at` of what was approved. Written by the guard.
#[map]
pub static APPROVED: HashMap<Port, u64> = HashMap::with_max_entries(PENDING_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Watched cgroups that listen on more than PENDING has room for, since when (nanoseconds since boot): nothing new gets in
/// there but to ports that are approved.
#[map]
pub static SHUT: HashMap<u64, u64> = HashMap::with_max_entries(CGROUPS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Listening sockets of the guard and of the servers. An entry goes away with its socket.
#[map]
pub static SOCKS: SockHash<Slot> = SockHash::with_max_entries(SOCKS_ENTRIES_MAX, 0);

/// Servers' slots whose listener SOCKS cannot hold, since it speaks Multipath TCP.
#[map]
pub static MULTIPATH: HashMap<Slot, u32> = HashMap::with_max_entries(SOCKS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// The guard's live upstream flows → socket cookie. Not an LRU: a live flow must not be forgotten.
#[map]
pub static FLOWS: HashMap<Flow, u64> = HashMap::with_max_entries(FLOWS_ENTRIES_MAX, 0);

/// The guard's upstream flows that ended lately → when (nanoseconds since boot), for the last packets of a connection.
#[map]
pub static CLOSING: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(CLOSING_ENTRIES_MAX, 0);

/// Cookies of sockets with which the guard is about to connect.
#[map]
pub static OWN: HashMap<u64, u32> = HashMap::with_max_entries(FLOWS_ENTRIES_MAX, 0);

/// Who connects with a socket, by its cookie.
#[map]
pub static WHO_CK: LruHashMap<u64, Who> = LruHashMap::with_max_entries(WHO_ENTRIES_MAX, 0);

/// Who made a flow.
#[map]
pub static WHO: LruHashMap<Flow, Who> = LruHashMap::with_max_entries(WHO_ENTRIES_MAX, 0);

/// New listeners on protected ports and in watched cgroups.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(EVENTS_BYTES, 0);

/// System calls that were refused.
#[map]
pub static DENIED: RingBuf = RingBuf::with_byte_size(DENIED_BYTES, 0);

/// Counters, see [`Stat`].
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::with_max_entries(Stat::COUNT, 0);

/// What came to each port.
#[map]
pub static TALLY: PerCpuHashMap<Port, Tally> =
    PerCpuHashMap::with_max_entries(POLICY_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// What holds for all ports, see the `SWITCH_` constants.
#[map]
pub static SWITCHES: Array<u32> = Array::with_max_entries(SWITCHES_ENTRIES, 0);

/// Layout version and the protected namespace. Only the daemon reads it.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// Whose server a port belongs to. Only the daemon reads it.
#[map]
pub static TRUST: HashMap<Port, Owner> = HashMap::with_max_entries(POLICY_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Until when (nanoseconds since boot) a guard answers for HOLDERS. It must be alive to end a hold.
#[map]
pub static ALIVE: Array<u64> = Array::with_max_entries(1, 0);

/// The cgroup whose processes alone may bind a port.
#[map]
pub static HOLDERS: HashMap<Port, u64> = HashMap::with_max_entries(POLICY_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Cgroups whose new listeners are told of or closed.
#[map]
pub static WATCHED: HashMap<u64, Watch> = HashMap::with_max_entries(CGROUPS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Who and what is blocked, and why. Only the daemon and the operator's commands read it.
#[map]
pub static BLOCKS: HashMap<Block, Blocked> = HashMap::with_max_entries(BLOCKS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Blocks that were taken back, until a guard has recorded it. Only the daemon and the operator's commands read it.
#[map]
pub static LIFTED: HashMap<Block, Blocked> = HashMap::with_max_entries(BLOCKS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Cgroups whose processes may connect to no protected port.
#[map]
pub static BLOCKED_CGROUPS: HashMap<u64, u32> =
    HashMap::with_max_entries(BLOCKS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Cgroups of servers that may not connect as they like.
#[map]
pub static LOCKS: HashMap<u64, Lock> = HashMap::with_max_entries(CGROUPS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Destinations of locked servers; the longest prefix counts.
#[map]
pub static EGRESS: LpmTrie<Egress, u32> = LpmTrie::with_max_entries(EGRESS_ENTRIES_MAX, 0);

/// What locked servers were refused, by cgroup id.
#[map]
pub static REFUSED: PerCpuHashMap<u64, EgressTally> =
    PerCpuHashMap::with_max_entries(CGROUPS_ENTRIES_MAX, BPF_F_NO_PREALLOC);

/// Adds one to a counter of this CPU.
#[inline(always)]
pub fn count(stat: Stat) {
    if let Some(slot) = STATS.get_ptr_mut(stat as u32) {
        // SAFETY: a valid map value of this CPU; programs on one CPU do not run at the same time in a way that
        // matters for a statistic.
        unsafe { *slot += 1 };
    }
}

/// This CPU's tally of a port that POLICY has; none if the map is full. Others have none: who listens may choose how many.
#[inline(always)]
pub fn tally(port: &Port, add: impl FnOnce(&mut Tally)) {
    let slot = TALLY.get_ptr_mut(port).or_else(|| {
        if TALLY.insert(port, &Tally::ZERO, 0).is_err() {
            count(Stat::TallyFull);
        }
        TALLY.get_ptr_mut(port)
    });
    if let Some(slot) = slot {
        // SAFETY: as in `count`.
        add(unsafe { &mut *slot });
    }
}

/// What POLICY says of a port, by value.
#[derive(Clone, Copy)]
pub struct Found {
    pub mode: u32,
    pub flags: u32,
    /// POLICY has it. Else nobody has approved who listens there.
    pub is_configured: bool,
}

/// The rule of a port.
#[inline(always)]
pub fn rule(port: &Port) -> Option<Found> {
    configured(port).or_else(|| {
        is_pending(port).then_some(Found { mode: MODE_GUARDED, flags: FLAG_CLOSED, is_configured: false })
    })
}

/// Whether somebody listens there whom nobody has approved.
#[inline(always)]
fn is_pending(port: &Port) -> bool {
    PENDING.get_ptr(port).is_some_and(|pending| {
        // SAFETY: a valid map value, one aligned word that is read once.
        let at = unsafe { read_volatile(addr_of!((*pending).at)) };
        // SAFETY: as above.
        APPROVED.get_ptr(port).is_none_or(|approved| unsafe { read_volatile(approved) } != at)
    })
}

/// The rule of a port that the guard wrote.
#[inline(always)]
pub fn configured(port: &Port) -> Option<Found> {
    let rule = POLICY.get_ptr(port)?;
    // SAFETY: a valid map value; each field is one aligned word that is read once.
    unsafe {
        Some(Found {
            mode: read_volatile(addr_of!((*rule).mode)),
            flags: read_volatile(addr_of!((*rule).flags)),
            is_configured: true,
        })
    }
}

/// The rule of a port, or that of a server on it in some other namespace, to which one connects from here.
#[inline(always)]
pub fn rule_or_awaited(port: &Port) -> Option<Found> {
    rule(port).or_else(|| configured(&Port::new(ANYWHERE, port.port)))
}

/// The value of a switch, one of the `SWITCH_` constants.
#[inline(always)]
pub fn switch(index: u32) -> u32 {
    // SAFETY: a valid map value, one aligned word that is read once.
    SWITCHES.get_ptr(index).map_or(0, |value| unsafe { read_volatile(value) })
}
