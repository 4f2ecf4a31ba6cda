//! Chooses the socket for each new connection to this network namespace.

use aya_ebpf::Global;
use aya_ebpf::bindings::{BPF_SK_LOOKUP_F_NO_REUSEPORT, BPF_SK_LOOKUP_F_REPLACE, sk_action};
use aya_ebpf::macros::sk_lookup;
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::warn;
use core::ptr::{addr_of, read_volatile};
use guard_common::{
    FAMILY_V4, FAMILY_V6, FLAG_BLOCKED, FLAG_CLOSED, Flow, MODE_GUARDED, MODE_PRIVATE, NETNS_UNSET, Port,
    SWITCH_BLOCK_ALL, Slot, Stat,
};

use crate::maps::{FLOWS, MULTIPATH, SOCKS, count, rule, switch, tally};

/// Cookie of the namespace that this instance is attached to; no helper tells it to this program type. The guard
/// writes it into the object before it loads the program.
#[unsafe(no_mangle)]
static NETNS: Global<u64> = Global::new(NETNS_UNSET);

const TCP: u32 = 6;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;
/// The slot is empty: its socket is closed.
const ENOENT: i32 = 2;
const ASSIGN: u64 = (BPF_SK_LOOKUP_F_REPLACE | BPF_SK_LOOKUP_F_NO_REUSEPORT) as u64;

/// Pass: not ours, or a socket is chosen. Drop: the client gets "connection refused".
#[sk_lookup]
pub fn steer(ctx: SkLookupContext) -> u32 {
    let pass = sk_action::SK_PASS;
    let drop = sk_action::SK_DROP;
    let netns = NETNS.load();
    // SAFETY: the kernel gives a valid context. Each field is read once, by a load that the compiler cannot merge
    // with another one, since the verifier takes only loads at fixed offsets.
    let (port, protocol) = unsafe {
        (read_volatile(addr_of!((*ctx.lookup).local_port)), read_volatile(addr_of!((*ctx.lookup).protocol)))
    };

    let key = Port::new(netns, port as u16);
    let Some(rule) = rule(&key) else { return pass };
    if protocol != TCP {
        // Nobody has said that a port with a new listener is a server's: what is not TCP there is somebody else's.
        if rule.mode == MODE_PRIVATE || !rule.is_configured {
            return pass;
        }
        count(Stat::Udp);
        tally(&key, |tally| tally.udp += 1);
        return drop;
    }
    if rule.mode != MODE_GUARDED {
        count(Stat::Private);
        warn!(&ctx, "private port {} was addressed directly: refused", port);
        return drop;
    }
    if rule.flags & FLAG_CLOSED != 0 {
        count(Stat::Pending);
        if rule.is_configured {
            tally(&key, |tally| tally.pending += 1);
        }
        return drop;
    }
    if rule.flags & FLAG_BLOCKED != 0 || switch(SWITCH_BLOCK_ALL) != 0 {
        count(Stat::Blocked);
        tally(&key, |tally| tally.blocked += 1);
        return drop;
    }

    let Some((flow, family)) = flow(&ctx, netns, port as u16) else {
        count(Stat::Assign);
        tally(&key, |tally| tally.refused += 1);
        return drop;
    };
    if FLOWS.get_ptr(&flow).is_some() {
        let slot = Slot::server(netns, family, port as u16);
        return match SOCKS.redirect_sk_lookup(&ctx, slot, ASSIGN) {
            Ok(()) => {
                count(Stat::Own);
                tally(&key, |tally| tally.own += 1);
                pass
            }
            // The kernel finds the listener by address, and the guard asks whose it was before it says a word.
            Err(error) if error == -ENOENT && MULTIPATH.get_ptr(&slot).is_some() => {
                count(Stat::Own);
                tally(&key, |tally| tally.own += 1);
                pass
            }
            Err(error) => {
                if error == -ENOENT {
                    count(Stat::NoServer);
                } else {
                    count(Stat::Assign);
                }
                tally(&key, |tally| tally.refused += 1);
                warn!(&ctx, "port {}: no server for the guard's own flow ({}): refused", port, error);
                drop
            }
        };
    }
    match SOCKS.redirect_sk_lookup(&ctx, Slot::guard(netns, family), ASSIGN) {
        Ok(()) => {
            count(Stat::Steered);
            tally(&key, |tally| tally.steered += 1);
            pass
        }
        Err(error) => {
            if error == -ENOENT {
                count(Stat::NoGuard);
            } else {
                count(Stat::Assign);
            }
            tally(&key, |tally| tally.refused += 1);
            warn!(&ctx, "port {}: no guard ({}): refused", port, error);
            drop
        }
    }
}

#[inline(always)]
fn flow(ctx: &SkLookupContext, netns: u64, port: u16) -> Option<(Flow, u8)> {
    let c = ctx.lookup;
    // SAFETY: as in `steer`. Fields of the other family read as zero.
    let (family, remote_port, remote4, local4, remote6, local6) = unsafe {
        (
            read_volatile(addr_of!((*c).family)),
            read_volatile(addr_of!((*c).remote_port)),
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
    let remote_port = u16::from_be(remote_port);
    match family {
        AF_INET => {
            Some((Flow::new(netns, Flow::v4(remote4), remote_port, Flow::v4(local4), port), FAMILY_V4))
        }
        AF_INET6 => {
            Some((Flow::new(netns, Flow::v6(remote6), remote_port, Flow::v6(local6), port), FAMILY_V6))
        }
        _ => None,
    }
}
