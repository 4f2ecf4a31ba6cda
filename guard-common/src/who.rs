/// Who called `connect`. Value of WHO_CK (key: socket cookie) and WHO (key: flow).
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Who {
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    /// Effective user id in the initial user namespace.
    pub uid: u32,
    /// Effective group id in the initial user namespace.
    pub gid: u32,
    /// Always zero.
    pub zero: u32,
    /// cgroup2 id.
    pub cgroup: u64,
    /// Cookie of the socket.
    pub cookie: u64,
    /// Nanoseconds since boot.
    pub at: u64,
    /// `comm`, zero-terminated.
    pub comm: [u8; 16],
}

const _: () = assert!(size_of::<Who>() == 56);
