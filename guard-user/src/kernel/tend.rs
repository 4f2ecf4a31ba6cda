//! What follows the servers: the second wall at their cgroups, and who may bind their ports.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Weak;
use std::time::Duration;

use anyhow::Context;
use guard_common::Port;
use rustix::fs::inotify;

use super::guard::Inner;
use super::{sys, wall};

/// How often empty cgroups are looked for when no change of one is told.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Room for events that are read at once; they are only a reason to look.
const EVENTS_BYTES: usize = 4096;

impl Inner {
    /// To be called after each look for servers. What fails here leaves the steering as it is, and is told.
    pub(crate) fn tend(&self) {
        let mut pinned: Vec<(Port, String)> = Vec::new();
        for (netns, realm) in self.realms().iter() {
            for (port, status) in realm.servers.status() {
                if let Some(server) = status.pinned.first() {
                    pinned.push((Port::new(*netns, port), server.cgroup.clone()));
                }
            }
        }
        let paths = pinned.iter().map(|(_, path)| path.as_str());
        self.walls.cover(&wall::cgroups(&self.cgroup_root, paths));
        if let Err(error) = self.holds.refresh(&self.maps, &pinned) {
            tracing::error!("cannot say who may bind the protected ports: {error:#}");
        }
    }
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
                    inner.holds.answer_for(&inner.maps).and_then(|()| inner.holds.lift_empty(&inner.maps))
                {
                    tracing::error!("cannot say who may bind the protected ports: {error:#}");
                }
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
