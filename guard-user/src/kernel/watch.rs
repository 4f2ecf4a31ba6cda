//! Other ports that a protected server listens on: told of, protected or closed, as its entry says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use anyhow::Context;
use guard_common::{PENDING_OF_CGROUP_MAX, Port, WATCH_DENY, WATCH_REPORT, Watch};
use serde::Serialize;
use tokio::sync::mpsc;

use super::maps::{Maps, gone, lock};
use super::pending::{Closed, Seen};
use super::rules::server_key;
use super::{diag, gates};
use crate::config::{OtherPorts, Server};

/// Ports of one server that are protected in one namespace, with its own (`other_ports: protect`). The others stay closed.
const PROTECTED_OTHERS_MAX: usize = 256;
/// Other ports of servers that are shown.
const OTHERS_SHOWN_MAX: usize = 1024;
/// Size of `guard_common::Listening`.
const EVENT_BYTES: usize = size_of::<guard_common::Listening>();
/// Other ports that wait to be recorded; more are in the log and in `status` only.
const NEWS_MAX: usize = 256;

/// Watches the cgroups of pinned servers.
pub(crate) struct Watches {
    /// No program tells of listeners in watched cgroups, so each look is one at all of them.
    is_untold: bool,
    /// By cgroup id.
    watched: Mutex<BTreeMap<u64, Watched>>,
    /// Watched cgroups in which somebody has begun to listen.
    stirred: Mutex<BTreeSet<u64>>,
    others: Mutex<BTreeMap<Port, OtherPort>>,
    news: mpsc::Sender<OtherPort>,
    /// Taken by the one who records.
    to_record: Mutex<Option<mpsc::Receiver<OtherPort>>>,
}

#[derive(Clone)]
struct Watched {
    server: Arc<Server>,
    netns: u64,
    dir: PathBuf,
}

/// A listener beside a server's own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OtherPort {
    pub server: String,
    pub port: u16,
    /// Cookie of the network namespace.
    pub netns: u64,
    /// The user who listens.
    pub uid: u32,
    /// What became of it.
    pub done: OtherPorts,
}

/// What a look found that the caller must see to.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Ports to protect as others of a server.
    pub protect: Vec<(Port, Arc<Server>)>,
    /// Ports that were closed again at once, after somebody had come just when they were forgotten.
    pub again: BTreeSet<Port>,
}

impl Watches {
    /// `is_told`: whether this kernel's programs tell of listeners in watched cgroups.
    pub(super) fn new(is_told: bool) -> Self {
        let (news, to_record) = mpsc::channel(NEWS_MAX);
        Self {
            is_untold: !is_told,
            watched: Mutex::default(),
            stirred: Mutex::default(),
            others: Mutex::default(),
            news,
            to_record: Mutex::new(Some(to_record)),
        }
    }

    /// Each other port that comes from now on. Once.
    pub(crate) fn news(&self) -> Option<mpsc::Receiver<OtherPort>> {
        lock(&self.to_record).take()
    }

    /// Notes a new listener that a program told of. Returns whether it is in a watched cgroup.
    pub(super) fn note(&self, event: &[u8]) -> bool {
        let Some(cgroup) = watched_of(event) else { return false };
        lock(&self.stirred).insert(cgroup);
        true
    }

    /// Watches the cgroups of these pinned servers (paths as `/proc/<pid>/cgroup` gives them), and no more those that are
    /// gone. The root cgroup is everybody's and is not watched. What is below `wards` lets nothing through that is not
    /// approved: the nearest watched cgroup has the word, so there must be none below.
    pub(super) fn refresh(
        &self,
        maps: &Maps,
        root: &Path,
        wards: &[PathBuf],
        pinned: &[(Port, Arc<Server>, String)],
    ) -> anyhow::Result<()> {
        let mut watched = lock(&self.watched);
        for (port, server, path) in pinned {
            let dir = gates::directory(root, path);
            if dir == root || wards.iter().any(|ward| dir.starts_with(ward)) {
                continue;
            }
            let Ok(id) = gates::id(&dir) else { continue };
            if watched.contains_key(&id) {
                continue;
            }
            let action = match server.other_ports {
                OtherPorts::Report => WATCH_REPORT,
                OtherPorts::Protect | OtherPorts::Deny => WATCH_DENY,
            };
            let value = Watch { action, pending: 0, server: server_key(server.name.as_str()) };
            lock(&maps.watched).insert(id, value, 0).context("cannot watch a server's cgroup")?;
            watched.insert(id, Watched { server: Arc::clone(server), netns: port.netns, dir });
            // It listens already.
            lock(&self.stirred).insert(id);
        }
        let over: Vec<u64> = watched
            .iter()
            .filter(|(id, known)| gates::id(&known.dir).ok() != Some(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            watched.remove(&id);
            gone(lock(&maps.watched).remove(&id)).context("cannot forget a cgroup that is gone")?;
            gone(lock(&maps.shut).remove(&id)).context("cannot forget a cgroup that is gone")?;
        }
        // Whether they still listen on so much is looked at again.
        let shut: Vec<u64> = lock(&maps.shut).keys().filter_map(Result::ok).collect();
        lock(&self.stirred).extend(shut.into_iter().filter(|id| watched.contains_key(id)));
        Ok(())
    }

    /// The watched cgroups where somebody has begun to listen since the last call, with their namespace.
    pub(super) fn stirred(&self) -> BTreeMap<u64, Vec<u64>> {
        let mut ids = std::mem::take(&mut *lock(&self.stirred));
        let watched = lock(&self.watched);
        if self.is_untold {
            ids.extend(watched.keys());
        }
        let mut by_netns: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for id in ids {
            if let Some(known) = watched.get(&id) {
                by_netns.entry(known.netns).or_default().push(id);
            }
        }
        by_netns
    }

    /// Goes through all listeners of a namespace and does with those in `cgroups` as their servers' entries say. `seen` is
    /// older than `listening`. `protected`: how many ports of a server are.
    pub(super) fn judge(
        &self,
        maps: &Maps,
        netns: u64,
        cgroups: &[u64],
        seen: &mut Seen,
        listening: &[diag::Socket],
        protected: impl Fn(&Server) -> usize,
    ) -> anyhow::Result<Found> {
        let mut found = Found::default();
        let ports: BTreeSet<u16> = listening.iter().map(|socket| socket.local.port()).collect();
        self.forget(maps, netns, seen, &ports, &mut found)?;
        for id in cgroups {
            let Some(Watched { server, dir, .. }) = lock(&self.watched).get(id).cloned() else { continue };
            let ids = super::cut::below(&dir);
            let key = server_key(server.name.as_str());
            let mut has_room = true;
            for socket in listening.iter().filter(|socket| socket.cgroup.is_some_and(|id| ids.contains(&id)))
            {
                let port = Port::new(netns, socket.local.port());
                let is_others = seen.ports.get(&port).is_some_and(|pending| pending.server != key);
                if is_others || lock(&maps.policy).get(&port, 0).is_ok() {
                    continue;
                }
                let mut done = server.other_ports;
                if done == OtherPorts::Report {
                    // If a guard before this one has closed it, its file said so.
                    if !seen.forget(maps, port)? {
                        found.again.insert(port);
                    }
                } else {
                    let room = PENDING_OF_CGROUP_MAX as usize;
                    let closed = seen.close(maps, port, *id, key, room)?;
                    has_room &= closed != Closed::WithItsCgroup;
                    if done == OtherPorts::Protect {
                        if protected(&server) + found.protect.len() < PROTECTED_OTHERS_MAX {
                            found.protect.push((port, Arc::clone(&server)));
                        } else {
                            done = OtherPorts::Deny;
                        }
                    }
                }
                self.show(port, &server, socket.uid, done);
            }
            if has_room {
                seen.reopen(maps, *id)?;
            }
        }
        Ok(found)
    }

    fn tell(&self, other: OtherPort) {
        let OtherPort { server, port, uid, done, .. } = &other;
        tracing::warn!(server, port, uid, ?done, "a protected server listens on another port");
        if self.news.try_send(other).is_err() {
            tracing::warn!("too many other ports at once; this one is not in the trail");
        }
    }

    /// Forgets closed ports of servers on which nobody listens any more.
    fn forget(
        &self,
        maps: &Maps,
        netns: u64,
        seen: &Seen,
        listening: &BTreeSet<u16>,
        found: &mut Found,
    ) -> anyhow::Result<()> {
        lock(&self.others).retain(|port, _| port.netns != netns || listening.contains(&port.port));
        let servers = seen.ports.iter().filter(|(port, pending)| port.netns == netns && pending.server != 0);
        for (port, _) in servers.filter(|(port, _)| !listening.contains(&port.port)) {
            if !seen.forget(maps, *port)? {
                found.again.insert(*port);
            }
        }
        Ok(())
    }

    /// Remembers another port, and tells of one that is new. A server that listens on very many does not fill the log.
    fn show(&self, port: Port, server: &Server, uid: u32, done: OtherPorts) {
        let other =
            OtherPort { server: server.name.to_string(), port: port.port, netns: port.netns, uid, done };
        let mut others = lock(&self.others);
        if others.len() >= OTHERS_SHOWN_MAX && !others.contains_key(&port) {
            return;
        }
        if others.insert(port, other.clone()).as_ref() != Some(&other) {
            self.tell(other);
        }
    }

    pub(crate) fn status(&self) -> Vec<OtherPort> {
        lock(&self.others).values().cloned().collect()
    }
}

/// The watched cgroup that an event tells of, where `guard_common::Listening` has it.
fn watched_of(event: &[u8]) -> Option<u64> {
    let event: &[u8; EVENT_BYTES] = event.try_into().ok()?;
    let bytes: [u8; 8] = event.get(24..32)?.try_into().ok()?;
    Some(u64::from_ne_bytes(bytes)).filter(|cgroup| *cgroup != 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_listener_in_a_watched_cgroup_is_noted() {
        let watches = Watches::new(true);
        let mut event = [0; EVENT_BYTES];
        assert!(!watches.note(&event));
        event[24..32].copy_from_slice(&7_u64.to_ne_bytes());
        assert!(watches.note(&event));
        assert!(!watches.note(&event[1..]));
        assert_eq!(*lock(&watches.stirred), BTreeSet::from([7]));
    }
}
