//! Ties the identity that `who4`/`who6` noted to the flow that it became, tells of listeners on protected ports and in
//! watched cgroups, and closes those that nobody has approved.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_NOEXIST, BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use guard_common::{ANYWHERE, FLAG_PENDING, Flow, Listening, MODE_GUARDED, Port, Rule, Stat, WATCH_DENY};

use crate::maps::{EVENTS, FLOWS, POLICY, WATCHED, WHO, WHO_CK, count, rule, rule_or_awaited, tally};
use crate::{caller, ops};

/// Whether programs of this type may ask for the caller's cgroup, which they may from Linux 6.4 on. The guard writes it
/// into the object; where it is zero, the verifier never sees the calls.
#[unsafe(no_mangle)]
static KNOWS_CALLER: Global<u32> = Global::new(1);

#[sock_ops]
pub fn tie(ctx: SockOpsContext) -> u32 {
    match ops::op(&ctx) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connect(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(&ctx),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => established(&ctx),
        _ => {}
    }
    0
}

#[inline(always)]
fn connect(ctx: &SockOpsContext) {
    let netns = ops::netns(ctx);
    let port = ops::remote_port(ctx);
    if rule_or_awaited(&Port::new(netns, port)).is_none() {
        return;
    }
    let flow = ops::flow(ctx, netns);
    let cookie = ops::cookie(ctx);
    // SAFETY: the value is copied out at once; an entry reused meanwhile shows another cookie, checked below.
    if let Some(who) = unsafe { WHO_CK.get(&cookie) }.copied()
        && who.cookie == cookie
        && WHO.insert(&flow, &who, 0).is_ok()
    {
        let _ = WHO_CK.remove(&cookie);
        return;
    }
    // An older record of the same four numbers must not speak for this connection.
    let _ = WHO.remove(&flow);
    count(Stat::WhoLost);
    warn!(ctx, "port {}: a connection has no identity", port);
}

/// A handshake ended at a socket with a protected port. Unless the guard itself began it, the socket is the guard's, and
/// it must accept it: the guard's own count is held against this one.
#[inline(always)]
fn established(ctx: &SockOpsContext) {
    let netns = ops::netns(ctx);
    let key = Port::new(netns, ops::local_port(ctx));
    if !rule(&key).is_some_and(|rule| rule.mode == MODE_GUARDED) {
        return;
    }
    // While one guard follows another, both guards' programs run here. A callback that nobody uses marks what is counted.
    if ops::callbacks(ctx) & BPF_SOCK_OPS_RTO_CB_FLAG != 0 {
        return;
    }
    let _unmarked = ctx.set_cb_flags(BPF_SOCK_OPS_RTO_CB_FLAG as i32);
    let own = ops::flow(ctx, netns);
    let theirs = Flow::new(netns, own.dst, own.dst_port, own.src, own.src_port);
    if FLOWS.get_ptr(&theirs).is_none() {
        tally(&key, |tally| tally.established += 1);
    }
}

#[inline(always)]
fn listen(ctx: &SockOpsContext) {
    let netns = ops::netns(ctx);
    let port = ops::local_port(ctx);
    let key = Port::new(netns, port);
    let rule = rule(&key);
    if rule.is_some_and(|rule| rule.mode != MODE_GUARDED) {
        return;
    }
    let (cgroup, watch) = if KNOWS_CALLER.load() != 0 {
        let watch = caller::nearest(|id| {
            // SAFETY: the fields that are used are one word each.
            unsafe { WATCHED.get(&id) }.map(|watch| (watch.action, watch.server))
        });
        (caller::cgroup(), watch)
    } else {
        (0, None)
    };
    if rule.is_none() {
        if watch.is_none() && crate::maps::rule(&Port::new(ANYWHERE, port)).is_none() {
            return;
        }
        if let Some((_, (WATCH_DENY, server))) = watch {
            // The socket listens already, but its `listen` has not returned yet.
            let pending = Rule { mode: MODE_GUARDED, flags: FLAG_PENDING, generation: 0, zero: 0, server };
            if POLICY.insert(&key, &pending, BPF_NOEXIST.into()).is_err() {
                count(Stat::PolicyFull);
                warn!(ctx, "port {}: a new listener could not be closed", port);
            }
        }
    }
    let event = Listening {
        netns,
        cookie: ops::cookie(ctx),
        cgroup,
        watched: watch.map_or(0, |(id, _)| id),
        port: u32::from(port),
        zero: 0,
    };
    if EVENTS.output::<Listening>(event, 0).is_err() {
        count(Stat::EventLost);
    }
}
