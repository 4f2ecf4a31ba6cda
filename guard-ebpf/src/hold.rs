//! Lets only the cgroup of its server bind a protected port.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_ktime_get_boot_ns};
use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr};
use aya_ebpf::programs::{SockAddrContext, SockContext};
use core::ptr::{addr_of, read_volatile};
use guard_common::{Address, DENIED_BIND, Flow, MODE_GUARDED, Port, Stat};

use crate::address::{self, SOCK_STREAM};
use crate::caller::{self, Place};
use crate::maps::{ALIVE, HOLDERS, count, rule, tally};

const ALLOW: i32 = 1;
/// The call ends with EPERM.
const REFUSE: i32 = 0;

#[cgroup_sock_addr(bind4)]
pub fn hold4(ctx: SockAddrContext) -> i32 {
    bind::<false>(&ctx)
}

#[cgroup_sock_addr(bind6)]
pub fn hold6(ctx: SockAddrContext) -> i32 {
    bind::<true>(&ctx)
}

/// A bind to port 0, where the kernel chose the port; the caller may have left it no choice (`IP_LOCAL_PORT_RANGE`).
#[cgroup_sock(post_bind4)]
pub fn held4(ctx: SockContext) -> i32 {
    // SAFETY: as in `chosen`; this hook may read the field.
    let address = Flow::v4(unsafe { read_volatile(addr_of!((*ctx.sock).src_ip4)) });
    chosen(&ctx, address)
}

/// As `held4`.
#[cgroup_sock(post_bind6)]
pub fn held6(ctx: SockContext) -> i32 {
    let c = ctx.sock;
    // SAFETY: as in `chosen`; this hook may read the field.
    let address = Flow::v6(unsafe {
        [
            read_volatile(addr_of!((*c).src_ip6[0])),
            read_volatile(addr_of!((*c).src_ip6[1])),
            read_volatile(addr_of!((*c).src_ip6[2])),
            read_volatile(addr_of!((*c).src_ip6[3])),
        ]
    });
    chosen(&ctx, address)
}

#[inline(always)]
fn bind<const V6: bool>(ctx: &SockAddrContext) -> i32 {
    if address::kind(ctx) != SOCK_STREAM {
        return ALLOW;
    }
    judge(Place {
        netns: address::netns(ctx),
        address: address::address::<V6>(ctx),
        port: address::port(ctx),
        protocol: address::protocol(ctx),
    })
}

#[inline(always)]
fn chosen(ctx: &SockContext, address: Address) -> i32 {
    let c = ctx.sock;
    // SAFETY: the kernel gives a valid context; single volatile loads, see `steer`.
    let (kind, port, protocol) = unsafe {
        (
            read_volatile(addr_of!((*c).type_)),
            read_volatile(addr_of!((*c).src_port)),
            read_volatile(addr_of!((*c).protocol)),
        )
    };
    if kind != SOCK_STREAM {
        return ALLOW;
    }
    // SAFETY: the helper takes this context.
    let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    judge(Place { netns, address, port: port as u16, protocol: protocol as u8 })
}

#[inline(always)]
fn judge(place: Place) -> i32 {
    let key = Port::new(place.netns, place.port);
    let Some(holder) = HOLDERS.get_ptr(&key) else { return ALLOW };
    // SAFETY: a valid map value, one aligned word.
    let holder = unsafe { read_volatile(holder) };
    if !is_answered_for()
        || rule(&key).is_none_or(|rule| rule.mode != MODE_GUARDED)
        || caller::nearest(|id| (id == holder).then_some(())).is_some()
    {
        return ALLOW;
    }
    count(Stat::Bind);
    tally(&key, |tally| tally.binds += 1);
    caller::denied(DENIED_BIND, &place, holder);
    REFUSE
}

/// A guard that is dead cannot end the hold of a cgroup that is no more: its server would never start again.
#[inline(always)]
fn is_answered_for() -> bool {
    ALIVE.get_ptr(0).is_some_and(|until| {
        // SAFETY: a valid map value, one aligned word; a helper without arguments.
        unsafe { bpf_ktime_get_boot_ns() < read_volatile(until) }
    })
}
