//! Notes which process connects to a protected port. Never refuses: that is the guard's work.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{
    bpf_get_current_cgroup_id, bpf_get_current_comm, bpf_get_netns_cookie, bpf_get_socket_cookie,
    bpf_ktime_get_boot_ns,
};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use core::ptr::{addr_of, read_volatile};
use guard_common::{Port, Stat, Who};

use crate::maps::{WHO_CK, count, rule};

const ALLOW: i32 = 1;
const SOCK_STREAM: u32 = 1;

#[cgroup_sock_addr(connect4)]
pub fn who4(ctx: SockAddrContext) -> i32 {
    note(&ctx);
    ALLOW
}

#[cgroup_sock_addr(connect6)]
pub fn who6(ctx: SockAddrContext) -> i32 {
    note(&ctx);
    ALLOW
}

#[inline(always)]
fn note(ctx: &SockAddrContext) {
    // SAFETY: the kernel gives a valid context; single volatile loads, see `steer`.
    let (port, kind) = unsafe {
        (read_volatile(addr_of!((*ctx.sock_addr).user_port)), read_volatile(addr_of!((*ctx.sock_addr).type_)))
    };
    let port = u16::from_be(port as u16);
    // SAFETY: both helpers take this context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if kind != SOCK_STREAM || rule(&Port::new(netns, port)).is_none() {
        return;
    }
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    let mut who = Who {
        pid: (pid_tgid >> 32) as u32,
        uid: uid_gid as u32,
        gid: (uid_gid >> 32) as u32,
        zero: 0,
        // SAFETY: helpers without arguments, or with this context.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        cookie: unsafe { bpf_get_socket_cookie(ctx.as_ptr()) },
        at: unsafe { bpf_ktime_get_boot_ns() },
        comm: [0; 16],
    };
    // SAFETY: the buffer is 16 bytes of ours.
    unsafe { bpf_get_current_comm(who.comm.as_mut_ptr().cast(), 16) };
    let cookie = who.cookie;
    if WHO_CK.insert(&cookie, &who, 0).is_err() {
        count(Stat::WhoLost);
        warn!(ctx, "port {}: identity of pid {} is lost", port, who.pid);
    }
}
