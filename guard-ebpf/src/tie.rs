//! Ties the identity that `who4`/`who6` noted to the flow that it became, and tells of listeners on protected ports.

use aya_ebpf::bindings::{BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_SOCK_OPS_TCP_LISTEN_CB};
use aya_ebpf::helpers::bpf_get_current_pid_tgid;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use guard_common::{Listening, MODE_GUARDED, Port, Stat};

use crate::maps::{EVENTS, WHO, WHO_CK, count, rule};
use crate::ops;

#[sock_ops]
pub fn tie(ctx: SockOpsContext) -> u32 {
    match ops::op(&ctx) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connect(&ctx),
        BPF_SOCK_OPS_TCP_LISTEN_CB => listen(&ctx),
        _ => {}
    }
    0
}

#[inline(always)]
fn connect(ctx: &SockOpsContext) {
    let netns = ops::netns(ctx);
    let port = ops::remote_port(ctx);
    if rule(&Port::new(netns, port)).is_none() {
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

#[inline(always)]
fn listen(ctx: &SockOpsContext) {
    let netns = ops::netns(ctx);
    let port = ops::local_port(ctx);
    if rule(&Port::new(netns, port)) != Some(MODE_GUARDED) {
        return;
    }
    let event = Listening {
        netns,
        cookie: ops::cookie(ctx),
        port: u32::from(port),
        pid: (bpf_get_current_pid_tgid() >> 32) as u32,
    };
    if EVENTS.output::<Listening>(event, 0).is_err() {
        count(Stat::EventLost);
    }
}
