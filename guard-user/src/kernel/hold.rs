//! Who may bind a protected port: while its server lives, only processes of the server's cgroup.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use guard_common::Port;

use super::gates;
use super::maps::{Maps, gone, lock};

/// How long holds outlive the guard: nobody would end them, and a server in a new cgroup could never start again.
pub(super) const ANSWERED: Duration = Duration::from_secs(10);

/// The cgroups that hold ports. A hold ends with the last process of its cgroup, so that a server that starts again in
/// a new cgroup (as under systemd) is not locked out; the owner's user and cgroup path are compared all the same before
/// it is pinned.
pub(crate) struct Holds {
    root: PathBuf,
    held: Mutex<BTreeMap<Port, (u64, PathBuf)>>,
    /// Ports whose server is in the root cgroup, which holds nothing.
    open: Mutex<Vec<Port>>,
}

impl Holds {
    /// Forgets the holds of a guard before this one. `root` is where cgroup2 is mounted.
    pub(super) fn new(maps: &Maps, root: &Path) -> anyhow::Result<Self> {
        let mut holders = lock(&maps.holders);
        let old: Vec<Port> = holders.keys().filter_map(Result::ok).collect();
        for port in old {
            gone(holders.remove(&port))?;
        }
        Ok(Self { root: root.to_owned(), held: Mutex::default(), open: Mutex::default() })
    }

    /// Gives each port to the cgroup of its pinned server (paths as `/proc/<pid>/cgroup` gives them), and takes it from
    /// cgroups that are empty. Ports that are not named keep their holder. Cheap when nothing has changed.
    pub(crate) fn refresh(&self, maps: &Maps, pinned: &[(Port, String)]) -> anyhow::Result<()> {
        let mut held = lock(&self.held);
        let mut open = Vec::new();
        for (port, path) in pinned {
            let dir = gates::directory(&self.root, path);
            if path.trim_matches('/').is_empty() {
                open.push(*port);
                continue;
            }
            let Ok(id) = gates::id(&dir) else { continue };
            if held.get(port).is_some_and(|(holder, _)| *holder == id) {
                continue;
            }
            lock(&maps.holders).insert(*port, id, 0)?;
            held.insert(*port, (id, dir));
        }
        *lock(&self.open) = open;
        drop(held);
        self.lift_empty(maps)
    }

    /// Says that a guard is here to end holds; to be called more often than every [`ANSWERED`].
    pub(crate) fn answer_for(maps: &Maps) -> anyhow::Result<()> {
        Ok(maps.set_alive(since_boot().saturating_add(ANSWERED).as_nanos().try_into()?)?)
    }

    /// Ends the holds of cgroups without a process.
    pub(crate) fn lift_empty(&self, maps: &Maps) -> anyhow::Result<()> {
        let mut held = lock(&self.held);
        let empty: Vec<Port> =
            held.iter().filter(|(_, (id, dir))| is_empty(dir, *id)).map(|(port, _)| *port).collect();
        for port in empty {
            gone(lock(&maps.holders).remove(&port))?;
            held.remove(&port);
        }
        Ok(())
    }

    /// The ports of which the kernel knows another holder than was written, or none.
    pub(super) fn differ(&self, maps: &Maps) -> Vec<Port> {
        let held = lock(&self.held);
        let holders = lock(&maps.holders);
        let differs = |port: &&Port| holders.get(*port, 0).ok() != held.get(*port).map(|(id, _)| *id);
        held.keys().filter(differs).copied().collect()
    }

    /// Has the next `refresh` write it again.
    pub(super) fn write_again(&self, port: Port) {
        lock(&self.held).remove(&port);
    }

    /// Ends every hold, for a guard that stops: nobody would be here to end them later.
    pub(crate) fn lift_all(&self, maps: &Maps) -> anyhow::Result<()> {
        let held = std::mem::take(&mut *lock(&self.held));
        for port in held.keys() {
            gone(lock(&maps.holders).remove(port))?;
        }
        Ok(())
    }

    /// The files whose change may mean that a cgroup has become empty.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let held = lock(&self.held);
        let mut files: Vec<_> = held.values().map(|(_, dir)| dir.join("cgroup.events")).collect();
        files.dedup();
        files
    }

    /// What `status` says: the holder of each port, or why it has none.
    pub(crate) fn status(&self) -> BTreeMap<Port, String> {
        let mut words: BTreeMap<_, _> =
            lock(&self.held).iter().map(|(port, (_, dir))| (*port, dir.display().to_string())).collect();
        for port in lock(&self.open).iter() {
            words.insert(
                *port,
                "nobody: the server runs in the root cgroup, as any process may; start it in a unit or cgroup of its own"
                    .into(),
            );
        }
        words
    }
}

fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or_default(), now.tv_nsec.try_into().unwrap_or_default())
}

/// A cgroup that is gone, or has been made anew at the same path, holds no process that we knew.
fn is_empty(dir: &Path, id: u64) -> bool {
    if gates::id(dir).ok() != Some(id) {
        return true;
    }
    let events = fs::read_to_string(dir.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 0")
}
