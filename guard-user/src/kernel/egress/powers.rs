//! Whether a locked server could send past the lock.

use std::fs;
use std::path::Path;

use guard_common::CGROUP_DEPTH_MAX;

/// The capability for raw and packet sockets, as a bit of the numbers in `/proc/<pid>/status`.
const NET_RAW: u64 = 1 << 13;

/// A process of the cgroup, or below it, that may open a packet socket. What such a socket sends meets no program of a
/// cgroup. Capabilities of a user namespace count: they hold for its own network.
pub(super) fn packet_sender(cgroup: &Path) -> Option<u32> {
    find(cgroup, CGROUP_DEPTH_MAX)
}

/// Who may make cgroups below his own may make many, one in the other.
fn find(cgroup: &Path, levels: u32) -> Option<u32> {
    let processes = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let found = processes.lines().filter_map(|line| line.parse().ok()).find(|pid| has_net_raw(*pid));
    found.or_else(|| {
        let entries = fs::read_dir(cgroup).into_iter().flatten().flatten();
        let dirs = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        let below = levels.checked_sub(1)?;
        dirs.map(|entry| entry.path()).find_map(|dir| find(&dir, below))
    })
}

/// False for a process that is gone.
fn has_net_raw(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    effective
        .and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok())
        .is_some_and(|bits| bits & NET_RAW != 0)
}
