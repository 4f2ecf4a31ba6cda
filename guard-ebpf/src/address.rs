//! What the `sock_addr` programs read from their context.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::bpf_get_netns_cookie;
use aya_ebpf::programs::SockAddrContext;
use core::ptr::{addr_of, read_volatile};
use guard_common::{Address, Flow};

pub const SOCK_STREAM: u32 = 1;

/// Cookie of the socket's network namespace.
#[inline(always)]
pub fn netns(ctx: &SockAddrContext) -> u64 {
    // SAFETY: the helper takes this context.
    unsafe { bpf_get_netns_cookie(ctx.as_ptr()) }
}

/// `SOCK_STREAM` or another kind.
#[inline(always)]
pub fn kind(ctx: &SockAddrContext) -> u32 {
    // SAFETY: the kernel gives a valid context; a single volatile load, see `steer`.
    unsafe { read_volatile(addr_of!((*ctx.sock_addr).type_)) }
}

/// IP protocol number.
#[inline(always)]
pub fn protocol(ctx: &SockAddrContext) -> u8 {
    // SAFETY: as in `kind`.
    unsafe { read_volatile(addr_of!((*ctx.sock_addr).protocol)) as u8 }
}

/// The port that the call names, host byte order.
#[inline(always)]
pub fn port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: as in `kind`. The field is a `__be16` in a word.
    u16::from_be(unsafe { read_volatile(addr_of!((*ctx.sock_addr).user_port)) } as u16)
}

/// The address that the call names; `V6` says that the program is of the IPv6 hook.
#[inline(always)]
pub fn address<const V6: bool>(ctx: &SockAddrContext) -> Address {
    let c = ctx.sock_addr;
    if V6 {
        // SAFETY: as in `kind`; this hook may read the field.
        Flow::v6(unsafe {
            [
                read_volatile(addr_of!((*c).user_ip6[0])),
                read_volatile(addr_of!((*c).user_ip6[1])),
                read_volatile(addr_of!((*c).user_ip6[2])),
                read_volatile(addr_of!((*c).user_ip6[3])),
            ]
        })
    } else {
        // SAFETY: as in `kind`; this hook may read the field.
        Flow::v4(unsafe { read_volatile(addr_of!((*c).user_ip4)) })
    }
}
