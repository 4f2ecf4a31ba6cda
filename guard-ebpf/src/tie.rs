//! Ties the identity that `who4`/`who6` noted to the flow that it became, tells of listeners on protected ports and in
//! watched cgroups, and closes those that nobody has approved.

use aya_ebpf::Global;
use aya_ebpf::bindings::{
    BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, BPF_SOCK_OPS_RTO_CB_FLAG, BPF_SOCK_OPS_TCP_CONNECT_CB,
    BPF_SOCK_OPS_TCP_LISTEN_CB,
};
use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use aya_log_ebpf::warn;
use core::ptr::{addr_of, addr_of_mut, read_volatile, write_volatile};
use guard_common::{
    ANYWHERE, Flow, Listening, MODE_GUARDED, PENDING_OF_CGROUP_MAX, Pending, Port, Stat, WATCH_DENY,
};

use crate::maps::{
    EVENTS, FLOWS, PENDING, SHUT, WATCHED, WHO, WHO_CK, configured, count, rule_or_awaited, tally,
};
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
    if !configured(&key).is_some_and(|rule| rule.mode == MODE_GUARDED) {
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
    let rule = configured(&key);
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
        if watch.is_none()
            && configured(&Port::new(ANYWHERE, port)).is_none()
            && PENDING.get_ptr(&key).is_none()
        {
            return;
        }
        if let Some((watched, (WATCH_DENY, server))) = watch {
            close(ctx, &key, watched, server);
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

/// Closes the port of a new listener, also one that was approved for those who listened before. The socket listens already,
/// but its `listen` has not returned yet.
#[inline(always)]
fn close(ctx: &SockOpsContext, key: &Port, watched: u64, server: u64) {
    // SAFETY: a helper without arguments.
    let at = unsafe { bpf_ktime_get_boot_ns() };
    let old = PENDING.get_ptr(key).map(|old| {
        // SAFETY: a valid map value; single aligned words that are read once.
        unsafe { (read_volatile(addr_of!((*old).watched)), read_volatile(addr_of!((*old).server))) }
    });
    let has_room = old.is_some() || take_room(watched);
    let (of, server) = old.unwrap_or((watched, server));
    if has_room && PENDING.insert(key, &Pending { at, watched: of, server }, 0).is_ok() {
        return;
    }
    if let Some(old) = PENDING.get_ptr_mut(key) {
        // There was no memory for another one.
        // SAFETY: as above; one aligned word.
        unsafe { write_volatile(addr_of_mut!((*old).at), at) };
        return;
    }
    count(Stat::PendingFull);
    if SHUT.insert(&watched, &at, 0).is_err() {
        warn!(ctx, "port {}: a new listener could not be closed", key.port);
    }
}

/// Counts one more entry for a watched cgroup, if it has fewer than it may have. The guard counts anew: two at once count
/// as one here.
#[inline(always)]
fn take_room(watched: u64) -> bool {
    let Some(watch) = WATCHED.get_ptr_mut(&watched) else { return false };
    // SAFETY: a valid map value; single aligned words.
    unsafe {
        let pending = read_volatile(addr_of!((*watch).pending));
        if pending >= PENDING_OF_CGROUP_MAX {
            return false;
        }
        write_volatile(addr_of_mut!((*watch).pending), pending + 1);
    }
    true
}
