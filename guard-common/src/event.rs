use crate::Address;

/// `Denied::reason`: a bind to a port that another cgroup holds.
pub const DENIED_BIND: u8 = 1;
/// `Denied::reason`: a `connect` that the server's lock-down does not allow.
pub const DENIED_CONNECT: u8 = 2;
/// `Denied::reason`: a datagram that the server's lock-down does not allow.
pub const DENIED_SEND: u8 = 3;
/// `Denied::reason`: a `connect` from a blocked cgroup.
pub const DENIED_BLOCKED: u8 = 4;

/// Sent over EVENTS: somebody listens on a protected port, or in a watched cgroup.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Listening {
    /// Cookie of the network namespace.
    pub netns: u64,
    /// Cookie of the listening socket.
    pub cookie: u64,
    /// cgroup id of who called `listen`; zero: this kernel does not tell.
    pub cgroup: u64,
    /// The watched cgroup in which that is; zero: none.
    pub watched: u64,
    /// The port, host byte order.
    pub port: u32,
    /// Always zero.
    pub zero: u32,
}

/// Sent over DENIED: a system call that was refused with EPERM.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Denied {
    /// Nanoseconds since boot.
    pub at: u64,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// cgroup id of the process.
    pub cgroup: u64,
    /// The cgroup whose lock, block or hold it met.
    pub because: u64,
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    /// Effective user id in the initial user namespace.
    pub uid: u32,
    /// Where it wanted to connect, or what it wanted to bind.
    pub address: Address,
    /// Port of `address`, host byte order.
    pub port: u16,
    /// IP protocol number.
    pub protocol: u8,
    /// One of the `DENIED_` constants.
    pub reason: u8,
    /// Always zero.
    pub zero: u32,
    /// `comm`, zero-terminated.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Listening>() == 40);
const _: () = assert!(size_of::<Denied>() == 80);
