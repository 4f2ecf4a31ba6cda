//! The second wall: what reaches a server's socket by any way round `steer` ends here.

use aya_ebpf::helpers::generated::{
    bpf_get_netns_cookie, bpf_ktime_get_boot_ns, bpf_skb_ancestor_cgroup_id, bpf_skb_cgroup_id,
};
use aya_ebpf::macros::cgroup_skb;
use aya_ebpf::programs::SkBuffContext;
use aya_ebpf::{EbpfContext as _, Global};
use guard_common::{
    CGROUP_DEPTH_MAX, FLAG_BLOCKED, Flow, MODE_GUARDED, Port, SWITCH_BLOCK_ALL, SWITCH_WALL, Stat,
    WALL_ENFORCE, WALL_OFF,
};

use crate::maps::{CLOSING, FLOWS, PENDING, SHUT, WATCHED, count, rule, switch, tally};
use crate::packet::{self, Packet, Ports, TCP};

/// Id of the guard's own cgroup. Its accepted sockets have protected ports too, and are not a server's.
#[unsafe(no_mangle)]
static GUARD_CGROUP: Global<u64> = Global::new(0);

const PASS: i32 = 1;
const DROP: i32 = 0;
/// How long the last packets of a closed connection may take: a server repeats what was not acknowledged.
const CLOSING_NANOSECONDS: u64 = 120_000_000_000;

#[cgroup_skb(ingress)]
pub fn wall(ctx: SkBuffContext) -> i32 {
    let mode = switch(SWITCH_WALL);
    if mode == WALL_OFF {
        return PASS;
    }
    // SAFETY: the helper takes this context.
    let is_guards = || unsafe { bpf_skb_cgroup_id(ctx.skb.skb) } == GUARD_CGROUP.load();
    match packet::read(&ctx) {
        Packet::Other(_) => PASS,
        // Whatever is meant for a socket with ports is whole when it gets here.
        Packet::Unreadable if is_guards() => PASS,
        Packet::Unreadable => stop(mode, None),
        Packet::Ports(ports) => {
            // SAFETY: the helper takes this context.
            let netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
            let key = Port::new(netns, ports.dst_port);
            let Some(rule) = rule(&key) else {
                // What has no rule and is in PENDING is approved.
                let is_new = ports.is_opening && is_shut(&ctx) && PENDING.get_ptr(&key).is_none();
                return if is_new && !is_guards() { stop(mode, None) } else { PASS };
            };
            // As in `steer`: a new listener closes its port to TCP alone.
            if rule.mode != MODE_GUARDED || is_guards() {
                return PASS;
            }
            if ports.protocol != TCP {
                // As in `steer`: a new listener closes its port to TCP alone.
                return if rule.is_configured { stop(mode, Some(&key)) } else { PASS };
            }
            let is_blocked = rule.flags & FLAG_BLOCKED != 0 || switch(SWITCH_BLOCK_ALL) != 0;
            if is_own(&ports, netns, is_blocked) {
                return PASS;
            }
            stop(mode, rule.is_configured.then_some(&key))
        }
    }
}

/// Whether the socket is in a watched cgroup that listens on more ports than there is room for.
#[inline(always)]
fn is_shut(ctx: &SkBuffContext) -> bool {
    let mut is_shut = false;
    for level in 1..=CGROUP_DEPTH_MAX {
        // SAFETY: the helper takes this context and any level; zero: the socket's cgroup is not so deep.
        let id = unsafe { bpf_skb_ancestor_cgroup_id(ctx.skb.skb, level as i32) };
        if id == 0 {
            break;
        }
        if WATCHED.get_ptr(&id).is_some() {
            is_shut = SHUT.get_ptr(&id).is_some();
        }
    }
    is_shut
}

/// Whether the packet is of one of the guard's upstream connections.
#[inline(always)]
fn is_own(ports: &Ports, netns: u64, is_blocked: bool) -> bool {
    let flow = ports.flow(netns);
    (!is_blocked && FLOWS.get_ptr(&flow).is_some()) || (ports.is_bare && is_closing(&flow))
}

/// Whether the flow was the guard's a moment ago.
#[inline(always)]
pub fn is_closing(flow: &Flow) -> bool {
    CLOSING.get_ptr(flow).is_some_and(|at| {
        // SAFETY: a valid map value, one aligned word; a helper without arguments.
        let (at, now) = unsafe { (core::ptr::read_volatile(at), bpf_ktime_get_boot_ns()) };
        now.wrapping_sub(at) < CLOSING_NANOSECONDS
    })
}

#[inline(always)]
fn stop(mode: u32, key: Option<&Port>) -> i32 {
    if mode == WALL_ENFORCE {
        count(Stat::Dropped);
        if let Some(key) = key {
            tally(key, |tally| tally.dropped += 1);
        }
        return DROP;
    }
    count(Stat::Counted);
    if let Some(key) = key {
        tally(key, |tally| tally.counted += 1);
    }
    PASS
}
