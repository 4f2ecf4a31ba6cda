//! What the two `sock_ops` programs read from their context.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_get_socket_cookie};
use aya_ebpf::programs::SockOpsContext;
use core::ptr::{addr_of, read_volatile};
use guard_common::Flow;

const AF_INET: u32 = 2;

#[inline(always)]
pub fn netns(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes this context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

#[inline(always)]
pub fn cookie(ctx: &SockOpsContext) -> u64 {
    // SAFETY: the helper takes this context.
    unsafe { bpf_get_socket_cookie(ctx.as_ptr()) }
}

#[inline(always)]
pub fn op(ctx: &SockOpsContext) -> u32 {
    // SAFETY: the kernel gives a valid context; a single volatile load, see `steer`.
    unsafe { read_volatile(addr_of!((*ctx.ops).op)) }
}

/// Second argument of the callback.
#[inline(always)]
pub fn argument1(ctx: &SockOpsContext) -> u32 {
    // SAFETY: as in `op`.
    unsafe { read_volatile(addr_of!((*ctx.ops).__bindgen_anon_1.args[1])) }
}

/// Which callbacks are wanted for this socket.
#[inline(always)]
pub fn callbacks(ctx: &SockOpsContext) -> u32 {
    // SAFETY: as in `op`.
    unsafe { read_volatile(addr_of!((*ctx.ops).bpf_sock_ops_cb_flags)) }
}

/// Port of the other side, host byte order.
#[inline(always)]
pub fn remote_port(ctx: &SockOpsContext) -> u16 {
    // SAFETY: as in `op`. The field is a `__be32`.
    u32::from_be(unsafe { read_volatile(addr_of!((*ctx.ops).remote_port)) }) as u16
}

/// Own port, host byte order.
#[inline(always)]
pub fn local_port(ctx: &SockOpsContext) -> u16 {
    // SAFETY: as in `op`.
    unsafe { read_volatile(addr_of!((*ctx.ops).local_port)) as u16 }
}

/// The flow of a socket that connects.
#[inline(always)]
pub fn flow(ctx: &SockOpsContext, netns: u64) -> Flow {
    let c = ctx.ops;
    // SAFETY: as in `op`.
    let (family, remote4, local4, remote6, local6) = unsafe {
        (
            read_volatile(addr_of!((*c).family)),
            read_volatile(addr_of!((*c).remote_ip4)),
            read_volatile(addr_of!((*c).local_ip4)),
            [
                read_volatile(addr_of!((*c).remote_ip6[0])),
                read_volatile(addr_of!((*c).remote_ip6[1])),
                read_volatile(addr_of!((*c).remote_ip6[2])),
                read_volatile(addr_of!((*c).remote_ip6[3])),
            ],
            [
                read_volatile(addr_of!((*c).local_ip6[0])),
                read_volatile(addr_of!((*c).local_ip6[1])),
                read_volatile(addr_of!((*c).local_ip6[2])),
                read_volatile(addr_of!((*c).local_ip6[3])),
            ],
        )
    };
    // An IPv6 socket that speaks IPv4 has v4-mapped addresses here, so both spellings give one key.
    let (src, dst) = if family == AF_INET {
        (Flow::v4(local4), Flow::v4(remote4))
    } else {
        (Flow::v6(local6), Flow::v6(remote6))
    };
    Flow::new(netns, src, local_port(ctx), dst, remote_port(ctx))
}
