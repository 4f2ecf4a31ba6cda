//! What follows the servers: the second wall at their cgroups, who may bind their ports, where they may connect, and what
//! else they listen on.

use std::collections::{BTreeMap, BTreeSet};
use std::mem::MaybeUninit;
use std::num::NonZeroU16;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;
use guard_common::Port;
use rustix::fs::inotify;

use super::guard::Inner;
use super::hold::Holds;
use super::maps::lock;
use super::pending::{self, Seen};
use super::places::Wanted;
use super::realm::Realm;
use super::{diag, sweep, sys, wall};
use crate::config::Server;

/// How often empty cgroups are looked for when no change of one is told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Room for events that are read at once; they are only a reason to look.
const EVENTS_BYTES: usize = 4096;
/// The least time between two rounds of questions to the resolver.
const NAMES_PAUSE_MIN: Duration = Duration::from_secs(1);

impl Inner {
    /// To be called after each look for servers. What fails here leaves the steering as it is, and is told.
    pub(crate) fn tend(&self) {
        let pinned = pinned(&self.realms());
        let paths = pinned.iter().map(|(_, _, path)| path.as_str());
        let mut walled = wall::cgroups(&self.cgroup_root, paths);
        let wards = self.wards.dirs();
        walled.extend_from_slice(&wards);
        self.walls.cover(&walled);
        let holders: Vec<_> = pinned.iter().map(|(port, _, path)| (*port, path.clone())).collect();
        if let Err(error) = self.holds.refresh(&self.maps, &holders) {
            tracing::error!("cannot say who may bind the protected ports: {error:#}");
        }
        self.locks.refresh(&self.maps, &locked(&pinned));
        if let Err(error) = self.watches.refresh(&self.maps, &self.cgroup_root, &wards, &pinned) {
            tracing::error!("other ports of servers are not watched: {error:#}");
        }
        for (netns, cgroups) in self.watches.stirred() {
            if let Err(error) = self.judge_others(netns, &cgroups) {
                tracing::error!("other ports of servers are not judged: {error:#}");
            }
        }
    }

    fn judge_others(&self, netns: u64, cgroups: &[u64]) -> anyhow::Result<()> {
        let Some(realm) = self.realm(netns) else { return Ok(()) };
        let mut seen = Seen::now(&self.maps);
        let listening = realm.netns.run(diag::listening)??;
        let protected =
            |server: &Server| realm.ports().values().filter(|known| known.name == server.name).count();
        let found = self.watches.judge(&self.maps, netns, cgroups, &mut seen, &listening, protected)?;
        if !found.again.is_empty() {
            let ports: Vec<u16> = found.again.iter().map(|port| port.port).collect();
            realm.netns.run(|| sweep::sweep(&ports))??;
        }
        if found.protect.is_empty() {
            return Ok(());
        }
        let mut servers = BTreeMap::new();
        for (port, server) in &found.protect {
            let Some(number) = NonZeroU16::new(port.port) else { continue };
            servers.insert(port.port, Arc::new(Server { port: number, ..server.as_ref().clone() }));
        }
        // They belong to whom the server belongs, and not to the next one who comes.
        for (port, server) in &found.protect {
            let mut trust = lock(&self.maps.trust);
            if let Ok(owner) = trust.get(&Port::new(netns, server.port.get()), 0) {
                trust.insert(*port, owner, 0).context("cannot note whose port it is")?;
            }
        }
        let wanted = Wanted { path: PathBuf::new(), servers, in_conflict: Vec::new() };
        let _alone = lock(&self.changing);
        realm.extend(&wanted, &self.ground())?;
        found.protect.iter().try_for_each(|(port, _)| pending::ruled(&self.maps, *port))
    }
}

/// Each pinned server with its cgroup2 path.
pub(super) fn pinned(realms: &BTreeMap<u64, Arc<Realm>>) -> Vec<(Port, Arc<Server>, String)> {
    let mut pinned = Vec::new();
    for (netns, realm) in realms {
        for (port, status) in realm.servers.status() {
            if let (Some(process), Some(server)) = (status.pinned.first(), realm.server(port)) {
                pinned.push((Port::new(*netns, port), server, process.cgroup.clone()));
            }
        }
    }
    pinned
}

/// The servers with their cgroups, as `Locks` takes them.
fn locked(pinned: &[(Port, Arc<Server>, String)]) -> Vec<(Arc<Server>, String)> {
    pinned.iter().map(|(_, server, path)| (Arc::clone(server), path.clone())).collect()
}

/// Starts to resolve the names of locked servers' destinations again and again. Ends with the guard's last handle.
pub(super) fn spawn_names(inner: Weak<Inner>) {
    tokio::spawn(async move {
        loop {
            let pause = {
                let Some(inner) = inner.upgrade() else { return };
                let pause = inner.locks.resolve(&inner.servers).await;
                // Who asked the same resolver connects already.
                let written = tokio::task::spawn_blocking(move || {
                    inner.locks.refresh(&inner.maps, &locked(&pinned(&inner.realms())));
                });
                if written.await.is_err() {
                    return;
                }
                pause
            };
            tokio::time::sleep(pause.max(NAMES_PAUSE_MIN)).await;
        }
    });
}

/// Starts to end the holds of cgroups that become empty. Ends with the guard's last handle.
pub(super) fn spawn_lift(inner: Weak<Inner>) -> anyhow::Result<()> {
    let flags = inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK;
    let changes = inotify::init(flags).context("cannot watch files")?;
    let changes = sys::wait_for(changes).context("cannot wait for changes of files")?;
    tokio::spawn(async move {
        let mut watched = BTreeSet::new();
        loop {
            {
                let Some(inner) = inner.upgrade() else { return };
                watch(changes.get_ref(), inner.holds.files(), &mut watched);
                if let Err(error) = inner.blocks.refresh(&inner.maps) {
                    tracing::error!("cannot read what is blocked: {error:#}");
                }
                if let Err(error) =
                    Holds::answer_for(&inner.maps).and_then(|()| inner.holds.lift_empty(&inner.maps))
                {
                    tracing::error!("cannot say who may bind the protected ports: {error:#}");
                }
                inner.lifting.beat();
            }
            if let Ok(Ok(mut ready)) = tokio::time::timeout(LOOK_EVERY, changes.readable()).await {
                drain(changes.get_ref());
                ready.clear_ready();
            }
        }
    });
    Ok(())
}

/// A file that is gone takes its watch with it; one that comes again at the same path is another file.
fn watch(changes: &OwnedFd, files: Vec<PathBuf>, watched: &mut BTreeSet<PathBuf>) {
    let files: BTreeSet<PathBuf> = files.into_iter().collect();
    for file in files.difference(watched) {
        // Without a watch, the next look finds the same.
        if let Err(error) = inotify::add_watch(changes, file.as_path(), inotify::WatchFlags::MODIFY) {
            tracing::debug!(%error, file = %file.display(), "cannot watch");
        }
    }
    *watched = files;
}

fn drain(changes: &OwnedFd) {
    let mut room = [MaybeUninit::uninit(); EVENTS_BYTES];
    let mut events = inotify::Reader::new(changes, &mut room);
    while events.next().is_ok() {}
}
