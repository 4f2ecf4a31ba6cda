//! A server's lock-down: where the processes of its cgroup may connect. Attached to the cgroups of locked servers only.

use aya_ebpf::EbpfContext as _;
use aya_ebpf::helpers::generated::{bpf_get_netns_cookie, bpf_skb_ancestor_cgroup_id};
use aya_ebpf::macros::{cgroup_skb, cgroup_sock_addr};
use aya_ebpf::maps::lpm_trie::Key;
use aya_ebpf::programs::{SkBuffContext, SockAddrContext};
use core::ptr::{addr_of, read_volatile};
use guard_common::{
    Address, CGROUP_DEPTH_MAX, DENIED_CONNECT, DENIED_SEND, EGRESS_ALLOW, Egress, EgressTally,
    PREFIX_BITS_FIXED, Stat,
};

use crate::caller::{self, Place};
use crate::maps::{EGRESS, FLOWS, LOCKS, REFUSED, count};
use crate::packet::{self, Packet, TCP};
use crate::{address, wall};

const ALLOW: i32 = 1;
/// The call ends with EPERM.
const REFUSE: i32 = 0;
/// A whole address.
const PREFIX_BITS: u32 = PREFIX_BITS_FIXED + 128;
/// An entry's prefix length stands above its action.
const PREFIX_SHIFT: u32 = 8;
const ACTION: u32 = 0xff;

#[cgroup_sock_addr(connect4)]
pub fn out4(ctx: SockAddrContext) -> i32 {
    call::<false>(&ctx, DENIED_CONNECT, |tally| tally.connects += 1)
}

#[cgroup_sock_addr(connect6)]
pub fn out6(ctx: SockAddrContext) -> i32 {
    call::<true>(&ctx, DENIED_CONNECT, |tally| tally.connects += 1)
}

#[cgroup_sock_addr(sendmsg4)]
pub fn say4(ctx: SockAddrContext) -> i32 {
    call::<false>(&ctx, DENIED_SEND, |tally| tally.sends += 1)
}

#[cgroup_sock_addr(sendmsg6)]
pub fn say6(ctx: SockAddrContext) -> i32 {
    call::<true>(&ctx, DENIED_SEND, |tally| tally.sends += 1)
}

#[inline(always)]
fn call<const V6: bool>(ctx: &SockAddrContext, reason: u8, add: impl FnOnce(&mut EgressTally)) -> i32 {
    let Some((cgroup, default)) = caller::nearest(lock) else { return ALLOW };
    let (address, port) = (address::address::<V6>(ctx), address::port(ctx));
    if may_reach(cgroup, default, address, port) {
        return ALLOW;
    }
    count(Stat::Egress);
    tally(cgroup, add);
    let place = Place { netns: address::netns(ctx), address, port, protocol: address::protocol(ctx) };
    caller::denied(reason, &place, cgroup);
    REFUSE
}

/// What no system call announced: raw packets, a connection from before the lock, a destination that is allowed no more.
#[cgroup_skb(egress)]
pub fn leave(ctx: SkBuffContext) -> i32 {
    let mut locked = None;
    for level in 1..=CGROUP_DEPTH_MAX {
        // SAFETY: the helper takes this context and any level; zero: the socket's cgroup is not so deep.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) };
        if id == 0 {
            break;
        }
        if let Some(default) = lock(id) {
            locked = Some((id, default));
        }
    }
    let Some((cgroup, default)) = locked else { return ALLOW };
    let passes = match packet::read(&ctx) {
        Packet::Ports(ports) => {
            // SAFETY: the helper takes this context.
            let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
            let answered = ports.answered(netns);
            let answers = || FLOWS.get_ptr(&answered).is_some() || wall::is_closing(&answered);
            (ports.protocol == TCP && answers()) || may_reach(cgroup, default, ports.dst, ports.dst_port)
        }
        Packet::Other(dst) => may_reach(cgroup, default, dst, 0),
        Packet::Unreadable => false,
    };
    if passes {
        return ALLOW;
    }
    count(Stat::Egress);
    tally(cgroup, |tally| tally.packets += 1);
    REFUSE
}

/// What holds for unnamed destinations of a cgroup, if it is locked.
#[inline(always)]
fn lock(cgroup: u64) -> Option<u32> {
    // SAFETY: a valid map value; one aligned word that is read once.
    LOCKS.get_ptr(&cgroup).map(|lock| unsafe { read_volatile(addr_of!((*lock).default)) })
}

/// The longest network that has the address counts; of two as long, the one that names the port.
#[inline(always)]
fn may_reach(cgroup: u64, default: u32, address: Address, port: u16) -> bool {
    let exact = find(cgroup, port, address);
    let any = find(cgroup, 0, address);
    let best = if exact >> PREFIX_SHIFT >= any >> PREFIX_SHIFT && exact != 0 { exact } else { any };
    let action = if best == 0 { default } else { best & ACTION };
    action == EGRESS_ALLOW
}

#[inline(always)]
fn find(cgroup: u64, port: u16, address: Address) -> u32 {
    let key = Key::new(PREFIX_BITS, Egress::new(cgroup, port, address));
    EGRESS.get(&key).copied().unwrap_or_default()
}

#[inline(always)]
fn tally(cgroup: u64, add: impl FnOnce(&mut EgressTally)) {
    let slot = REFUSED.get_ptr_mut(&cgroup).or_else(|| {
        let none = EgressTally { connects: 0, sends: 0, packets: 0, zero: 0 };
        let _full = REFUSED.insert(&cgroup, &none, 0);
        REFUSED.get_ptr_mut(&cgroup)
    });
    if let Some(slot) = slot {
        // SAFETY: as in `maps::count`.
        add(unsafe { &mut *slot });
    }
}
