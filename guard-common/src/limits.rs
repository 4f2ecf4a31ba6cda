/// Entries of POLICY: protected ports and the guard's private ports, of all namespaces.
pub const POLICY_ENTRIES_MAX: u32 = 16_384;
/// Entries of PENDING and APPROVED: ports of listeners that nobody has configured, of all namespaces.
pub const PENDING_ENTRIES_MAX: u32 = 16_384;
/// Of these, what the kernel programs write for one watched cgroup and all below it.
pub const PENDING_OF_CGROUP_MAX: u32 = 1024;
/// Entries of SOCKS: the guard's listeners and the servers' listeners.
pub const SOCKS_ENTRIES_MAX: u32 = 16_384;
/// Entries of FLOWS and OWN: live upstream connections of the guard.
pub const FLOWS_ENTRIES_MAX: u32 = 65_536;
/// Entries of CLOSING: upstream connections of the guard that ended lately.
pub const CLOSING_ENTRIES_MAX: u32 = 65_536;
/// Entries of WHO and WHO_CK: local clients between their `connect` and the guard's `accept`.
pub const WHO_ENTRIES_MAX: u32 = 65_536;
/// Bytes of the ring buffer EVENTS.
pub const EVENTS_BYTES: u32 = 64 * 1024;
/// Bytes of the ring buffer DENIED.
pub const DENIED_BYTES: u32 = 64 * 1024;
/// Entries of WATCHED, SHUT and LOCKS: cgroups with an answer of their own.
pub const CGROUPS_ENTRIES_MAX: u32 = 4096;
/// Entries of BLOCKS and BLOCKED_CGROUPS.
pub const BLOCKS_ENTRIES_MAX: u32 = 4096;
/// Entries of EGRESS: destinations, of all servers.
pub const EGRESS_ENTRIES_MAX: u32 = 65_536;
/// Levels below the cgroup2 root at which a process's cgroups are looked for. Deeper ones count as their ancestor.
pub const CGROUP_DEPTH_MAX: u32 = 16;
