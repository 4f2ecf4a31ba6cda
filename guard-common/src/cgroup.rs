use crate::Address;

/// `Watch::action`: tell of a listener on a port that is not protected.
pub const WATCH_REPORT: u32 = 1;
/// `Watch::action`: close the port before `listen` returns, and tell.
pub const WATCH_DENY: u32 = 2;

/// `Lock::default` and `Egress::action`: may be reached.
pub const EGRESS_ALLOW: u32 = 1;
/// `Lock::default` and `Egress::action`: may not.
pub const EGRESS_DENY: u32 = 2;

/// Bits of an [`Egress`] key before its address; a network's prefix comes on top.
pub const PREFIX_BITS_FIXED: u32 = 96;

/// Value of WATCHED (key: cgroup id): what happens when a process in it or below it listens on a new port.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Watch {
    /// [`WATCH_REPORT`] or [`WATCH_DENY`].
    pub action: u32,
    /// Entries of PENDING that the programs made for it, and that the guard counted when there was no room left.
    pub pending: u32,
    /// As in `Rule::server`.
    pub server: u64,
}

/// Value of LOCKS (key: cgroup id): a server that may not connect as it likes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lock {
    /// What holds for destinations without an entry in EGRESS: [`EGRESS_ALLOW`] or [`EGRESS_DENY`].
    pub default: u32,
    /// Always zero.
    pub zero: u32,
    /// As in `Rule::server`.
    pub server: u64,
}

/// Data of an EGRESS key, after its prefix length; its value is an `EGRESS_` action. A destination of the processes in a cgroup.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Egress {
    /// cgroup id, its two halves in memory order: the key has no room for padding.
    pub cgroup: [u32; 2],
    /// Port, host byte order; zero: every port.
    pub port: u16,
    /// Always zero.
    pub zero: u16,
    /// A network address; prefixes of IPv4 count from bit 96.
    pub address: Address,
}

impl Egress {
    /// The key data for `address` and `port` as seen from `cgroup`.
    #[inline(always)]
    pub const fn new(cgroup: u64, port: u16, address: Address) -> Self {
        Self { cgroup: [cgroup as u32, (cgroup >> 32) as u32], port, zero: 0, address }
    }
}

/// Value of REFUSED (key: cgroup id), per CPU: what a locked server was refused.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EgressTally {
    /// `connect` calls.
    pub connects: u64,
    /// `sendto` and `sendmsg` calls.
    pub sends: u64,
    /// Packets that no such call had announced.
    pub packets: u64,
    /// Always zero.
    pub zero: u64,
}

const _: () = assert!(size_of::<Watch>() == 16);
const _: () = assert!(size_of::<Lock>() == 16);
const _: () = assert!(size_of::<Egress>() == 28);
const _: () = assert!(size_of::<EgressTally>() == 32);
