//! What the kernel programs and the daemon say to each other: map keys, map values, counters and events.
//!
//! Every type is `repr(C)` without implicit padding, so that two equal values are equal bytes; the sizes are
//! checked at compile time. A change to any of them needs a new [`ABI`].
#![no_std]
#![deny(missing_docs)]

mod flow;
mod stat;
mod who;

pub use flow::{Address, Flow};
pub use stat::Stat;
pub use who::{Listening, Who};

/// Version of every layout in this crate. Pins of another version are not taken over.
pub const ABI: u32 = 1;

/// Entries of POLICY: protected ports and the guard's private ports.
pub const POLICY_ENTRIES_MAX: u32 = 4096;
/// Entries of SOCKS: the guard's listeners and the servers' listeners.
pub const SOCKS_ENTRIES_MAX: u32 = 4096;
/// Entries of FLOWS and OWN: live upstream connections of the guard.
pub const FLOWS_ENTRIES_MAX: u32 = 65_536;
/// Entries of WHO and WHO_CK: local clients between their `connect` and the guard's `accept`.
pub const WHO_ENTRIES_MAX: u32 = 65_536;
/// Bytes of the ring buffer EVENTS.
pub const EVENTS_BYTES: u32 = 64 * 1024;

/// `Rule::mode`: only the guard's own flows reach the server, everything else is steered to the guard.
pub const MODE_GUARDED: u32 = 1;
/// `Rule::mode`: a listener of the guard that is reached by steering only, never by address.
pub const MODE_PRIVATE: u32 = 2;

/// `Slot::role`: a listener of the guard.
pub const ROLE_GUARD: u8 = 1;
/// `Slot::role`: the listener of the protected server on `Slot::port`.
pub const ROLE_SERVER: u8 = 2;

/// `Slot::family` for IPv4 packets.
pub const FAMILY_V4: u8 = 4;
/// `Slot::family` for IPv6 packets.
pub const FAMILY_V6: u8 = 6;

/// Key of POLICY.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Port {
    /// Network namespace cookie (`SO_NETNS_COOKIE`).
    pub netns: u64,
    /// Port, host byte order.
    pub port: u16,
    /// Always zero.
    pub zero: [u16; 3],
}

impl Port {
    /// The key of `port` in the namespace with this cookie.
    #[inline(always)]
    pub const fn new(netns: u64, port: u16) -> Self {
        Self { netns, port, zero: [0; 3] }
    }
}

/// Value of POLICY.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rule {
    /// [`MODE_GUARDED`] or [`MODE_PRIVATE`].
    pub mode: u32,
    /// Which start of the guard wrote it.
    pub generation: u32,
}

/// Key of SOCKS.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Slot {
    /// Network namespace cookie.
    pub netns: u64,
    /// The protected port for [`ROLE_SERVER`]; zero for [`ROLE_GUARD`].
    pub port: u16,
    /// [`ROLE_GUARD`] or [`ROLE_SERVER`].
    pub role: u8,
    /// Family of the packets it takes: [`FAMILY_V4`] or [`FAMILY_V6`].
    pub family: u8,
    /// Always zero.
    pub zero: u32,
}

impl Slot {
    /// Where the guard's listener for packets of `family` is.
    #[inline(always)]
    pub const fn guard(netns: u64, family: u8) -> Self {
        Self { netns, port: 0, role: ROLE_GUARD, family, zero: 0 }
    }

    /// Where the pinned listener of the server on `port` is.
    #[inline(always)]
    pub const fn server(netns: u64, family: u8, port: u16) -> Self {
        Self { netns, port, role: ROLE_SERVER, family, zero: 0 }
    }
}

/// The one value of META.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Meta {
    /// [`ABI`] of the guard that made the pins; zero while they are being made.
    pub abi: u32,
    /// Counts the starts on these pins.
    pub generation: u32,
    /// Cookie of the protected network namespace.
    pub netns: u64,
}

/// Value of TRUST (key: [`Port`]): who ran the first server that was pinned on a port.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// SHA-256 of the cgroup2 path of the process.
    pub cgroup: [u8; 32],
    /// Its user id.
    pub uid: u32,
    /// Always zero.
    pub zero: u32,
}

const _: () = assert!(size_of::<Port>() == 16);
const _: () = assert!(size_of::<Rule>() == 8);
const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Meta>() == 16);
const _: () = assert!(size_of::<Owner>() == 40);

#[cfg(feature = "user")]
mod pod {
    use super::{Flow, Listening, Meta, Owner, Port, Rule, Slot, Who};

    macro_rules! pod {
        ($($Type:ty),*) => {$(
            // SAFETY: `repr(C)`, `Copy`, made of integers only, and without padding (sizes asserted beside each type).
            unsafe impl aya::Pod for $Type {}
        )*};
    }

    pod!(Flow, Listening, Meta, Owner, Port, Rule, Slot, Who);
}
