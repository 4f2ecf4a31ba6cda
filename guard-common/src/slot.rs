/// `Slot::role`: a listener of the guard.
pub const ROLE_GUARD: u8 = 1;
/// `Slot::role`: the listener of the protected server on `Slot::port`.
pub const ROLE_SERVER: u8 = 2;

/// `Slot::family` for IPv4 packets.
pub const FAMILY_V4: u8 = 4;
/// `Slot::family` for IPv6 packets.
pub const FAMILY_V6: u8 = 6;

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
    /// [`ABI`](crate::ABI) of the guard that made the pins; zero while they are being made.
    pub abi: u32,
    /// Counts the starts on these pins.
    pub generation: u32,
    /// Cookie of the network namespace in which the guard lives.
    pub netns: u64,
    /// Version of the guard that made the pins or took them over last: major, minor and patch, 16 bits each.
    pub version: u64,
}

/// Value of TRUST (key: [`Port`](crate::Port)): who ran the first server that was pinned on a port.
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

const _: () = assert!(size_of::<Slot>() == 16);
const _: () = assert!(size_of::<Meta>() == 24);
const _: () = assert!(size_of::<Owner>() == 40);
