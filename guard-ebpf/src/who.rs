//! Notes which process connects to a protected port. Refuses only who is in a blocked cgroup; all else is the
//! guard's work.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_current_comm, bpf_get_socket_cookie, bpf_ktime_get_boot_ns};
use aya_ebpf::helpers::{bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::warn;
use guard_common::{DENIED_BLOCKED, MODE_GUARDED, Port, Stat, Who};

use crate::address::{self, SOCK_STREAM};
use crate::caller::{self, Place};
use crate::maps::{BLOCKED_CGROUPS, WHO_CK, count, rule_or_awaited};

const ALLOW: i32 = 1;
/// The call ends with EPERM.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(connect4)]
pub fn who4(ctx: SockAddrContext) -> i32 {
    who::<false>(&ctx)
}

#[cgroup_sock_addr(connect6)]
pub fn who6(ctx: SockAddrContext) -> i32 {
    who::<true>(&ctx)
}

#[inline(always)]
fn who<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    let (netns, port) = (address::netns(ctx), address::port(ctx));
    if address::kind(ctx) != SOCK_STREAM {
        return ALLOW;
    }
    let Some(rule) = rule_or_awaited(&Port::new(netns, port)) else { return ALLOW };
    if rule.mode == MODE_GUARDED
        && let Some((because, ())) = caller::nearest(|id| BLOCKED_CGROUPS.get_ptr(&id).map(|_| ()))
    {
        count(Stat::BlockedCgroup);
        let place =
            Place { netns, address: address::address::<V6>(ctx), port, protocol: address::protocol(ctx) };
        caller::denied(DENIED_BLOCKED, &place, because);
        return REFUSE;
    }
    note(ctx, port);
    ALLOW
}

#[inline(always)]
fn note(ctx: &SockAddrContext, port: u16) {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    let mut who = Who {
        pid: (pid_tgid >> 32) as u32,
        uid: uid_gid as u32,
        gid: (uid_gid >> 32) as u32,
        zero: 0,
        cgroup: caller::cgroup(),
        // SAFETY: helpers without arguments, or with this context.
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
