//! Records the guard's own upstream flows, from before their first packet until they are closed.

use aya_ebpf::bindings::{
    BPF_SOCK_OPS_STATE_CB, BPF_SOCK_OPS_STATE_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB, BPF_TCP_CLOSE,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use guard_common::{Port, Stat};

use crate::maps::{CLOSING, FLOWS, OWN, count, rule};
use crate::ops;

#[sock_ops]
pub fn mine(ctx: SockOpsContext) -> u32 {
    match ops::op(&ctx) {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connect(&ctx),
        BPF_SOCK_OPS_STATE_CB => state(&ctx),
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
    let cookie = ops::cookie(ctx);
    if OWN.get_ptr(&cookie).is_none() {
        count(Stat::NotRegistered);
        warn!(ctx, "port {}: an unregistered socket of the guard's cgroup connects; it is steered", port);
        return;
    }
    // First the promise to take the entry away, then the entry.
    if ctx.set_cb_flags(BPF_SOCK_OPS_STATE_CB_FLAG as i32).is_err()
        || FLOWS.insert(ops::flow(ctx, netns), cookie, 0).is_err()
    {
        count(Stat::FlowsFull);
        warn!(ctx, "port {}: an upstream flow could not be recorded; it is steered", port);
    }
}

#[inline(always)]
fn state(ctx: &SockOpsContext) {
    if ops::argument1(ctx) == BPF_TCP_CLOSE {
        let flow = ops::flow(ctx, ops::netns(ctx));
        // The last packets come after this: an acknowledgement from TIME_WAIT, or a reset. The second wall lets them
        // pass, else the server would wait for them for minutes.
        // SAFETY: a helper without arguments.
        let _full = CLOSING.insert(&flow, unsafe { bpf_ktime_get_boot_ns() }, 0);
        let _gone = FLOWS.remove(&flow);
    }
}
