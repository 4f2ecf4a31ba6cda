/// `Block::kind`: every protected port.
pub const BLOCK_ALL: u32 = 1;
/// `Block::kind`: a server of `guard.yaml`.
pub const BLOCK_SERVER: u32 = 2;
/// `Block::kind`: an agent of the policy.
pub const BLOCK_AGENT: u32 = 3;
/// `Block::kind`: a cgroup and all below it.
pub const BLOCK_CGROUP: u32 = 4;

/// Key of BLOCKS.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// One of the `BLOCK_` constants.
    pub kind: u32,
    /// Always zero.
    pub zero: u32,
    /// SHA-256 of the name; of the path for a cgroup, of nothing for all.
    pub name: [u8; 32],
}

/// Value of BLOCKS: who blocked it, when and why.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocked {
    /// Milliseconds since 1970.
    pub since: u64,
    /// Id of the cgroup for [`BLOCK_CGROUP`], else zero.
    pub cgroup: u64,
    /// The user who did it.
    pub uid: u32,
    /// Bytes of `name` that count.
    pub name_len: u16,
    /// Bytes of `reason` that count.
    pub reason_len: u16,
    /// UTF-8; the beginning of a name that is longer.
    pub name: [u8; 232],
    /// UTF-8; the beginning of a reason that is longer.
    pub reason: [u8; 256],
}

const _: () = assert!(size_of::<Block>() == 40);
const _: () = assert!(size_of::<Blocked>() == 512);
