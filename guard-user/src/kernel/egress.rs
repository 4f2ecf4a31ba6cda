//! The lock-down of servers: where the processes of a server's cgroup may connect.

mod entries;
mod names;
mod powers;
mod resolver;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aya::maps::lpm_trie::Key;
use guard_common::{CGROUP_DEPTH_MAX, Egress as Place, Lock, PREFIX_BITS_FIXED};
use serde::Serialize;

use super::gates::{self, Gates};
use super::maps::{Maps, gone, lock};
use super::{cut, rules};
use crate::config::{Egress, Host, Server};

use entries::{Entries, action, entries};
use names::Names;

/// The programs of a lock, in the order in which they are attached.
const PROGRAMS: [&str; 5] = ["out4", "out6", "say4", "say6", "leave"];
/// An entry's prefix length stands above its action.
const PREFIX_SHIFT: u32 = 8;

/// Locks servers in.
pub(crate) struct Locks {
    gates: Arc<Gates>,
    root: PathBuf,
    /// By cgroup id.
    locked: Mutex<BTreeMap<u64, Locked>>,
    names: Mutex<Names>,
    /// Cgroups of servers that are not to be locked in, and are not.
    free: Mutex<BTreeSet<u64>>,
    /// Servers that should be locked in and are not, and why.
    failed: Mutex<BTreeMap<String, String>>,
}

struct Locked {
    server: String,
    dir: PathBuf,
    entries: Entries,
}

/// What `status` shows of one lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockStatus {
    pub server: String,
    pub cgroup: PathBuf,
    /// Entries in the kernel; a name has one for each of its addresses.
    pub destinations: usize,
    /// `connect` calls that were refused.
    pub connects: u64,
    /// Datagrams that were refused.
    pub sends: u64,
    /// Packets that were dropped beside.
    pub packets: u64,
}

impl Locks {
    pub(super) fn new(gates: Arc<Gates>, root: &Path) -> Self {
        Self {
            gates,
            root: root.to_owned(),
            locked: Mutex::default(),
            names: Mutex::default(),
            free: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Locks each server in at the cgroup of its pinned process (path as `/proc/<pid>/cgroup` gives it), and frees
    /// cgroups that are gone. Cheap when nothing has changed.
    pub(crate) fn refresh(&self, maps: &Maps, pinned: &[(Arc<Server>, String)]) {
        let mut failed = BTreeMap::new();
        for (server, path) in pinned {
            let done = match &server.egress {
                Some(egress) => self.lock_in(maps, server, egress, path),
                None => self.set_free(maps, path),
            };
            if let Err(error) = done {
                failed.insert(server.name.to_string(), format!("{error:#}"));
            }
        }
        if let Err(error) = self.free_gone(maps) {
            tracing::error!("cannot forget the locks of cgroups that are gone: {error:#}");
        }
        let mut told = lock(&self.failed);
        if *told != failed {
            for (server, words) in &failed {
                tracing::error!(server, "NOT LOCKED IN: {words}");
            }
            *told = failed;
        }
    }

    fn lock_in(&self, maps: &Maps, server: &Server, egress: &Egress, path: &str) -> anyhow::Result<()> {
        check_cgroup(server, path)?;
        let dir = gates::directory(&self.root, path);
        let id = gates::id(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        let mut locked = lock(&self.locked);
        let wanted = entries(egress, &lock(&self.names), Instant::now());
        let known = locked.get(&id);
        if known.is_some_and(|known| known.entries == wanted) {
            return Ok(());
        }
        // What an older start wrote for this cgroup is not known here.
        let before = match known {
            Some(known) => known.entries.clone(),
            None => stored(maps, id),
        };
        // What cannot be written is as closed, or as open, as the default is.
        let written = write(maps, id, &before, &wanted).context("cannot write the destinations");
        let default = action(egress.default);
        let value = Lock { default, zero: 0, server: rules::server_key(server.name.as_str()) };
        lock(&maps.locks).insert(id, value, 0).context("cannot lock the cgroup")?;
        for program in PROGRAMS {
            // The calls are refused all the same; `status` tells of the missing program.
            if self.gates.missing(program).is_none() {
                self.gates.attach(program, &dir, id)?;
            }
        }
        if known.is_none() {
            tracing::info!(server = %server.name, cgroup = %dir.display(), "locked in");
        }
        let entries = if written.is_ok() { wanted } else { before };
        locked.insert(id, Locked { server: server.name.to_string(), dir, entries });
        written
    }

    /// A guard before this one may have locked in what is not to be locked in any more.
    fn set_free(&self, maps: &Maps, path: &str) -> anyhow::Result<()> {
        let Ok(id) = gates::id(&gates::directory(&self.root, path)) else { return Ok(()) };
        if lock(&self.free).insert(id) && lock(&maps.locks).get(&id, 0).is_ok() {
            self.unlock(maps, id, &stored(maps, id))?;
        }
        Ok(())
    }

    /// Forgets locks of cgroups that went while no guard ran.
    pub(super) fn free_left(&self, maps: &Maps) -> anyhow::Result<()> {
        let locked: Vec<u64> = lock(&maps.locks).keys().filter_map(Result::ok).collect();
        if locked.is_empty() {
            return Ok(());
        }
        let there = cut::below(&self.root);
        for id in locked.into_iter().filter(|id| !there.contains(id)) {
            self.unlock(maps, id, &stored(maps, id))?;
        }
        Ok(())
    }

    fn unlock(&self, maps: &Maps, id: u64, entries: &Entries) -> anyhow::Result<()> {
        for program in PROGRAMS {
            self.gates.detach(program, id)?;
        }
        gone(lock(&maps.locks).remove(&id)).context("cannot free a cgroup")?;
        write(maps, id, entries, &Entries::new()).context("cannot forget destinations")
    }

    fn free_gone(&self, maps: &Maps) -> anyhow::Result<()> {
        let mut locked = lock(&self.locked);
        let over: Vec<u64> = locked
            .iter()
            .filter(|(id, known)| gates::id(&known.dir).ok() != Some(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if let Some(known) = locked.remove(&id) {
                self.unlock(maps, id, &known.entries)?;
            }
        }
        Ok(())
    }

    /// Resolves the names whose answers hold no more. Takes as long as the host's resolver does; the kernel follows at the
    /// next `refresh`. Returns how long all names are good then.
    pub(super) async fn resolve(&self, servers: &[Arc<Server>]) -> Duration {
        let due = lock(&self.names).due(names_of(servers), Instant::now());
        let answers = resolver::ask(due).await;
        let mut names = lock(&self.names);
        let now = Instant::now();
        for (question, found) in answers {
            names.learn(question, found, now);
        }
        names.pause(now)
    }

    /// The locked cgroups of which the kernel knows something else than was written, in words.
    pub(super) fn differ(&self, maps: &Maps) -> Vec<(u64, String)> {
        let locked = lock(&self.locked);
        if locked.is_empty() {
            return Vec::new();
        }
        let stored = all_stored(maps);
        let entries = |id: u64| stored.get(&halves(id)).cloned().unwrap_or_default();
        let alive = locked.iter().filter(|(id, known)| gates::id(&known.dir).ok() == Some(**id));
        alive
            .filter(|(id, known)| lock(&maps.locks).get(id, 0).is_err() || entries(**id) != known.entries)
            .map(|(id, known)| (*id, format!("of server {} ({})", known.server, known.dir.display())))
            .collect()
    }

    /// Has the next `refresh` write all of it again.
    pub(super) fn write_again(&self, cgroup: u64) {
        lock(&self.locked).remove(&cgroup);
    }

    pub(crate) fn status(&self, maps: &Maps) -> Vec<LockStatus> {
        lock(&self.locked)
            .iter()
            .map(|(id, known)| {
                let refused = maps.egress_refused(*id);
                LockStatus {
                    server: known.server.clone(),
                    cgroup: known.dir.clone(),
                    destinations: known.entries.len(),
                    connects: refused.connects,
                    sends: refused.sends,
                    packets: refused.packets,
                }
            })
            .collect()
    }

    /// What is not as `guard.yaml` wants it, in words.
    pub(crate) fn problems(&self, servers: &[Arc<Server>]) -> Vec<String> {
        let mut problems: Vec<_> =
            lock(&self.failed).iter().map(|(server, words)| format!("{server}: {words}")).collect();
        {
            let (names, now) = (lock(&self.names), Instant::now());
            problems.extend(names_of(servers).into_iter().flat_map(|name| names.problems(name, now)));
        }
        for known in lock(&self.locked).values() {
            if let Some(pid) = powers::packet_sender(&known.dir) {
                problems.push(format!(
                    "{}: pid {pid} has CAP_NET_RAW and may send by packet sockets, which no lock sees; start the server \
                     without it",
                    known.server
                ));
            }
        }
        let has_locks = servers.iter().any(|server| server.egress.is_some());
        if has_locks && let Some(why) = self.gates.missing("leave") {
            problems.push(format!(
                "this kernel cannot look at packets, so raw ones and connections from before the lock leave: {why} (Linux \
                 6.15 has what it needs)"
            ));
        }
        problems
    }

    /// The locked cgroup of a server, for who records a refusal.
    pub(crate) fn server_of(&self, cgroup: u64) -> Option<String> {
        lock(&self.locked).get(&cgroup).map(|known| known.server.clone())
    }
}

/// The names among the servers' destinations.
fn names_of(servers: &[Arc<Server>]) -> BTreeSet<&str> {
    let destinations =
        servers.iter().filter_map(|server| server.egress.as_ref()).flat_map(|egress| &egress.except);
    destinations
        .filter_map(|destination| match &destination.host {
            Host::Name(name) => Some(name.as_str()),
            _ => None,
        })
        .collect()
}

/// A lock on the root cgroup would be one on the whole host, and one that the programs do not find would be none.
pub(super) fn check_cgroup(server: &Server, path: &str) -> anyhow::Result<()> {
    if server.egress.is_some() && path.trim_matches('/').is_empty() {
        bail!(
            "server {} runs in the root cgroup, as any process may, so `egress` would lock in the whole host; start it in a \
             unit of its own (`systemd-run --unit NAME ...`), or remove its `egress`",
            server.name
        );
    }
    let depth = path.split('/').filter(|part| !part.is_empty()).count();
    if server.egress.is_some() && depth > CGROUP_DEPTH_MAX as usize {
        bail!(
            "server {} runs in the cgroup {path}, {depth} levels below the root; the kernel programs look at \
             {CGROUP_DEPTH_MAX}, so its `egress` would hold nothing; start it in a cgroup nearer to the root \
             (`systemd-run --unit NAME ...`), or remove its `egress`",
            server.name
        );
    }
    Ok(())
}

/// Writes what is new or other, then removes what is no more.
fn write(maps: &Maps, cgroup: u64, before: &Entries, after: &Entries) -> anyhow::Result<()> {
    let key = |(bits, port, address): &(u32, u16, [u8; 16])| {
        Key::new(PREFIX_BITS_FIXED + bits, Place::new(cgroup, *port, *address))
    };
    let mut egress = lock(&maps.egress);
    for (place, action) in after.iter().filter(|(place, action)| before.get(*place) != Some(*action)) {
        egress.insert(&key(place), place.0 << PREFIX_SHIFT | action, 0)?;
    }
    for place in before.keys().filter(|place| !after.contains_key(*place)) {
        gone(egress.remove(&key(place)))?;
    }
    Ok(())
}

/// What EGRESS holds for a cgroup.
fn stored(maps: &Maps, cgroup: u64) -> Entries {
    all_stored(maps).remove(&halves(cgroup)).unwrap_or_default()
}

/// What EGRESS holds for each cgroup, whose id stands there in halves.
fn all_stored(maps: &Maps) -> BTreeMap<[u32; 2], Entries> {
    let mut all = BTreeMap::<_, Entries>::new();
    for (key, value) in lock(&maps.egress).iter().filter_map(Result::ok) {
        let (bits, place) = (key.prefix_len().saturating_sub(PREFIX_BITS_FIXED), key.data());
        all.entry(place.cgroup).or_default().insert((bits, place.port, place.address), value & 0xff);
    }
    all
}

fn halves(cgroup: u64) -> [u32; 2] {
    Place::new(cgroup, 0, [0; 16]).cgroup
}
