//! What `status` shows of the kernel side.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use guard_common::{Port, Stat};
use serde::Serialize;

use super::block::BlockStatus;
use super::census;
use super::egress::LockStatus;
use super::guard::Inner;
use super::load::ProgramStatus;
use super::maps::{Named, lock};
use super::prove::Claim;
use super::realm::Realm;
use super::servers::PortStatus;
use super::wall::WallStatus;
use super::watch::OtherPort;
use crate::config::Server;
use crate::types::ServerName;

/// A picture of one moment.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// All claims were tried and all hold.
    pub protected: bool,
    pub claims: Vec<Claim>,
    /// Since the oldest of these was tried, in seconds.
    pub tried_seconds_ago: u64,
    pub namespaces: Vec<NamespaceStatus>,
    /// Namespaces that could not be protected, and why.
    pub failed: Vec<String>,
    /// What the kill switch refuses.
    pub blocks: Vec<BlockStatus>,
    /// What in the kernel is not as the guard left it.
    pub drift: Vec<String>,
    /// What this kernel cannot do, and what follows.
    pub reduced: Vec<String>,
    /// The second wall, at the servers' cgroups.
    pub wall: WallStatus,
    /// Servers that may not connect as they like.
    pub locks: Vec<LockStatus>,
    /// Servers that should be locked in and are not, and why.
    pub lock_problems: Vec<String>,
    /// Listeners of servers beside their own.
    pub other_ports: Vec<OtherPort>,
    /// By reason; see `docs/kernel.md`.
    pub counters: BTreeMap<&'static str, u64>,
    /// Upstream connections that are open.
    pub upstream_flows: usize,
    /// Starts on these pins; more than 1 means that this guard took over from one that was killed.
    pub generation: u32,
    /// Cookie of the network namespace in which the guard lives.
    pub netns: u64,
    pub programs: Vec<ProgramStatus>,
    pub maps: Vec<Named>,
}

/// One protected network namespace.
#[derive(Debug, Clone, Serialize)]
pub struct NamespaceStatus {
    /// For people: how `guard.yaml` names the place.
    pub place: String,
    /// Cookie of the namespace.
    pub netns: u64,
    /// By protected port.
    pub ports: BTreeMap<u16, PortStatus>,
    /// Names of the servers by port.
    pub servers: BTreeMap<u16, ServerName>,
    /// Who may bind a protected port; a port without an entry: anybody.
    pub holders: BTreeMap<u16, String>,
    /// What came to each port.
    pub tallies: BTreeMap<u16, BTreeMap<&'static str, u64>>,
    /// Where steered connections go; not reachable by address.
    pub listeners: Vec<SocketAddr>,
    /// Connections from before the guard that it ended.
    pub ended_at_start: usize,
}

/// What the acceptor counts.
#[derive(Debug, Default)]
pub struct Seen {
    /// Connections of our own that came back to us: an upstream flow that was not recorded.
    pub loops: AtomicU64,
    /// Connections of the canary.
    pub canaries: AtomicU64,
    /// Connections closed at once because `limits.connections_max` are open, or `connections_per_peer_max` of their peer.
    pub over_limit: AtomicU64,
    /// Connections whose port is not protected any more, or that were gone before we looked.
    pub stray: AtomicU64,
    /// Refused system calls that nobody was ready to record.
    pub denied_lost: AtomicU64,
}

impl Status {
    pub(super) fn of(inner: &Inner) -> Self {
        let realms = inner.realms();
        let claims: Vec<Claim> = realms.values().flat_map(|realm| lock(&realm.claims).clone()).collect();
        let unproven = realms.values().any(|realm| lock(&realm.claims).is_empty());
        let mut failed: Vec<String> = lock(&inner.failed).values().cloned().collect();
        failed.extend(lock(&inner.problems).iter().map(|(about, words)| format!("{about}: {words}")));
        let mut counters: BTreeMap<_, _> =
            Stat::ALL.iter().map(|(stat, name)| (*name, inner.maps.count(*stat))).collect();
        let seen = &inner.seen;
        for (name, count) in [
            ("loops", &seen.loops),
            ("canaries", &seen.canaries),
            ("over_limit", &seen.over_limit),
            ("stray", &seen.stray),
            ("denied_unread", &seen.denied_lost),
        ] {
            counters.insert(name, count.load(Ordering::Relaxed));
        }
        let holders = inner.holds.status();
        counters.insert("drifts", inner.vigil.found.load(Ordering::Relaxed));
        let drift = inner.vigil.differences();
        let mut programs = lock(&inner.shared).clone();
        programs.extend(realms.values().map(|realm| realm.steer()));
        Self {
            protected: !unproven
                && failed.is_empty()
                && drift.is_empty()
                && claims.iter().all(|claim| claim.holds),
            claims,
            tried_seconds_ago: realms
                .values()
                .map(|realm| lock(&realm.tried).elapsed().as_secs())
                .max()
                .unwrap_or_default(),
            namespaces: realms.values().map(|realm| NamespaceStatus::of(inner, realm, &holders)).collect(),
            failed,
            blocks: inner.blocks.list(),
            drift,
            reduced: inner.features.reduced(),
            wall: inner.walls.status(&inner.maps),
            locks: inner.locks.status(&inner.maps),
            lock_problems: inner.locks.problems(&inner.servers),
            other_ports: inner.watches.status(),
            counters,
            upstream_flows: inner.maps.flows_len(),
            generation: inner.generation,
            netns: inner.own.cookie,
            programs,
            maps: inner.maps.ids().to_vec(),
        }
    }
}

impl NamespaceStatus {
    /// Whether the server is up here: its listener is pinned.
    pub fn runs(&self, server: &Server) -> bool {
        let port = &server.port.get();
        self.servers.get(port) == Some(&server.name)
            && self.ports.get(port).is_some_and(|status| !status.pinned.is_empty())
    }

    fn of(inner: &Inner, realm: &Realm, holders: &BTreeMap<Port, String>) -> Self {
        let cookie = realm.netns.cookie;
        let holder = |port: &u16| Some((*port, holders.get(&Port::new(cookie, *port))?.clone()));
        let count = |port: &u16| (*port, census::named(&inner.maps.tally(Port::new(cookie, *port))));
        let name = |(port, server): (&u16, &Arc<Server>)| (*port, server.name.clone());
        Self {
            place: realm.name.clone(),
            netns: cookie,
            ports: realm.servers.status(),
            servers: realm.ports().iter().map(name).collect(),
            holders: realm.ports().keys().filter_map(holder).collect(),
            tallies: realm.ports().keys().map(count).collect(),
            listeners: realm.listeners.addresses(),
            ended_at_start: realm.ended.load(Ordering::Relaxed),
        }
    }
}
