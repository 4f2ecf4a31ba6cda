//! Who makes the system call that a program looks at, and telling of one that was refused.

use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::helpers::bpf_get_current_uid_gid;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_current_comm,
    bpf_ktime_get_boot_ns,
};
use guard_common::{Address, CGROUP_DEPTH_MAX, Denied, Stat};

use crate::maps::{DENIED, count};

/// What `find` tells of the caller's cgroup or, if nothing, of the nearest one above it; the root is not asked.
#[inline(always)]
pub fn nearest<T>(find: impl Fn(u64) -> Option<T>) -> Option<(u64, T)> {
    let mut found = None;
    for level in 1..=CGROUP_DEPTH_MAX {
        // SAFETY: a helper that takes any level; zero: the caller's cgroup is not so deep.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        if let Some(value) = find(id) {
            found = Some((id, value));
        }
    }
    found
}

/// cgroup2 id of the caller.
#[inline(always)]
pub fn cgroup() -> u64 {
    // SAFETY: a helper without arguments.
    unsafe { bpf_get_current_cgroup_id() }
}

/// Where a refused call wanted to go.
pub struct Place {
    pub netns: u64,
    pub address: Address,
    pub port: u16,
    pub protocol: u8,
}

/// Tells of a refused call. `because` is the cgroup whose lock, block or hold it met.
#[inline(always)]
pub fn denied(reason: u8, place: &Place, because: u64) {
    let mut event = Denied {
        // SAFETY: helpers without arguments.
        at: unsafe { bpf_ktime_get_boot_ns() },
        netns: place.netns,
        cgroup: cgroup(),
        because,
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
        uid: bpf_get_current_uid_gid() as u32,
        address: place.address,
        port: place.port,
        protocol: place.protocol,
        reason,
        zero: 0,
        comm: [0; 16],
    };
    // SAFETY: the buffer is 16 bytes of ours.
    unsafe { bpf_get_current_comm(event.comm.as_mut_ptr().cast(), 16) };
    if DENIED.output::<Denied>(event, 0).is_err() {
        count(Stat::DeniedLost);
    }
}
