//! What `status` shows of the kernel side.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use guard_common::Stat;
use serde::Serialize;

use super::guard::Inner;
use super::load::ProgramStatus;
use super::maps::{Named, lock};
use super::prove::Claim;
use super::servers::PortStatus;

/// A picture of one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// All claims were tried and all hold.
    pub protected: bool,
    pub claims: Vec<Claim>,
    /// By protected port.
    pub ports: BTreeMap<u16, PortStatus>,
    /// By reason; see `docs/kernel.md`.
    pub counters: BTreeMap<&'static str, u64>,
    /// Upstream connections that are open.
    pub upstream_flows: usize,
    /// Connections from before the guard that it ended at its start.
    pub ended_at_start: usize,
    /// Starts on these pins; more than 1 means that this guard took over from one that was killed.
    pub generation: u32,
    /// Where steered connections go; not reachable by address.
    pub listeners: Vec<SocketAddr>,
    /// Cookie of the protected network namespace.
    pub netns: u64,
    pub programs: Vec<ProgramStatus>,
    pub maps: Vec<Named>,
}

/// What the acceptor counts.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections of our own that came back to us: an upstream flow that was not recorded.
    pub loops: AtomicU64,
    /// Connections of the canary.
    pub canaries: AtomicU64,
    /// Connections closed at once because `limits.connections_max` are open.
    pub over_limit: AtomicU64,
    /// Connections whose port is not protected any more, or that were gone before we looked.
    pub stray: AtomicU64,
}

impl Status {
    pub(super) fn of(inner: &Inner) -> Self {
        let claims = lock(&inner.claims).clone();
        let mut counters: BTreeMap<_, _> =
            Stat::ALL.iter().map(|(stat, name)| (*name, inner.maps.count(*stat))).collect();
        let seen = &inner.seen;
        for (name, count) in [
            ("loops", &seen.loops),
            ("canaries", &seen.canaries),
            ("over_limit", &seen.over_limit),
            ("stray", &seen.stray),
        ] {
            counters.insert(name, count.load(Ordering::Relaxed));
        }
        Self {
            protected: !claims.is_empty() && claims.iter().all(|claim| claim.holds),
            claims,
            ports: inner.servers.status(),
            counters,
            upstream_flows: inner.maps.flows_len(),
            ended_at_start: inner.ended,
            generation: inner.generation,
            listeners: inner.listeners.addresses(),
            netns: inner.netns,
            programs: inner.programs.clone(),
            maps: inner.maps.ids().to_vec(),
        }
    }
}
