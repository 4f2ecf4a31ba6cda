//! Listeners in watched cgroups that nobody has configured: closed until an operator decides.
//!
//! A kernel program closes such a port before `listen` returns, also while no guard runs. This module says which cgroups
//! are watched, finds listeners that were there before, and does with each port what was decided about it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::Context;
use aya::maps::MapError;
use guard_common::{FLAG_PENDING, MODE_GUARDED, Port, Rule, WATCH_DENY, Watch};
use serde::Serialize;
use tokio::sync::mpsc;

use super::maps::{Maps, gone, lock};
use super::netns::{Netns, NetnsId};
use super::process::Place;
use super::{diag, owner, survey, sweep};
use crate::config::decisions::{Decision, Decisions, Verdict};

/// News that wait to be recorded. What has no room is told at the next look.
const NEWS_MAX: usize = 1024;
/// Between two looks for closed ports of namespaces that are dead. Each look enters all namespaces of the host.
const TIDY_EVERY: Duration = Duration::from_secs(30);
/// Cgroups that are looked through below one that is watched.
const CGROUPS_MAX: usize = 65_536;
/// `BPF_NOEXIST`: a rule that is there stays as it is.
const BPF_NOEXIST: u64 = 1;

/// A listener in a watched cgroup that is closed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Closed {
    /// Cookie of its network namespace.
    pub netns: u64,
    /// It is the namespace in which the guard lives.
    pub is_own: bool,
    pub port: u16,
    pub address: SocketAddr,
    pub pid: u32,
    pub uid: u32,
    /// Chosen by the process.
    pub comm: String,
    /// cgroup2 path.
    pub cgroup: String,
    pub unit: Option<String>,
    pub container: Option<String>,
    pub state: State,
}

/// Why it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Nobody has decided yet.
    Pending,
    /// It was refused.
    Refused,
    /// It was approved as a protected server, which the next start of the guard will serve.
    Approved,
}

/// The watched cgroups of one guard.
pub(crate) struct Wards {
    root: PathBuf,
    state_dir: PathBuf,
    /// Paths below the cgroup2 root, as configured.
    paths: Vec<String>,
    /// By id: what the kernel watches now.
    watched: Mutex<BTreeMap<u64, PathBuf>>,
    decisions: Mutex<Decisions>,
    closed: Mutex<BTreeMap<Port, Closed>>,
    tidied: Mutex<Option<Instant>>,
    news: mpsc::Sender<Closed>,
    /// Taken by the one who records.
    to_record: Mutex<Option<mpsc::Receiver<Closed>>>,
}

/// A listener that a process in a watched cgroup holds.
struct Listener {
    socket: diag::Socket,
    process: owner::Process,
}

impl Wards {
    pub(super) fn new(root: &Path, state_dir: &Path, paths: &[String]) -> anyhow::Result<Self> {
        let decisions = Decisions::load(state_dir)
            .with_context(|| format!("cannot read the approvals in {}", state_dir.display()))?;
        let (news, to_record) = mpsc::channel(NEWS_MAX);
        Ok(Self {
            root: root.to_owned(),
            state_dir: state_dir.to_owned(),
            paths: paths.to_vec(),
            watched: Mutex::default(),
            decisions: Mutex::new(decisions),
            closed: Mutex::default(),
            tidied: Mutex::default(),
            news,
            to_record: Mutex::new(Some(to_record)),
        })
    }

    /// Directories of the watched cgroups that are there, for the second wall.
    pub(crate) fn dirs(&self) -> Vec<PathBuf> {
        lock(&self.watched).values().cloned().collect()
    }

    /// What is closed now.
    pub(crate) fn closed(&self) -> Vec<Closed> {
        lock(&self.closed).values().cloned().collect()
    }

    /// Tells of each listener that is closed for want of a decision. Once.
    pub(crate) fn news(&self) -> Option<mpsc::Receiver<Closed>> {
        lock(&self.to_record).take()
    }

    /// One look. Cheap where nothing is watched.
    pub(super) fn look(&self, maps: &Maps) -> anyhow::Result<()> {
        self.watch(maps).context("cannot watch a cgroup")?;
        let mut there = BTreeSet::new();
        let mut cookies = BTreeSet::new();
        for (_, pids) in self.by_namespace() {
            let Some(first) = pids.first() else { continue };
            // It may have ended just now.
            let Ok(netns) = Netns::open(&of_pid(*first)) else { continue };
            cookies.insert(netns.cookie);
            let listening = netns.run(diag::listening)?.context("cannot list listening sockets")?;
            for listener in held(listening, &pids) {
                let port = Port::new(netns.cookie, listener.socket.local.port());
                if self.judge(maps, &netns, port, &listener)? {
                    there.insert(port);
                }
            }
        }
        lock(&self.closed).retain(|port, _| there.contains(port));
        self.forget(maps, &cookies, &there)
    }

    /// Notes a decision about a listener that is closed, and carries it out.
    pub(crate) fn decide(&self, maps: &Maps, closed: &Closed, decision: Decision) -> anyhow::Result<()> {
        let verdict = decision.verdict;
        let mut decisions = lock(&self.decisions);
        let mut next = decisions.clone();
        if let Some(server) = &decision.server {
            let other = next.servers().any(|known| known.name == server.name);
            anyhow::ensure!(!other, "another approved server is called {}", server.name);
        }
        anyhow::ensure!(
            next.decide(decision),
            "there is no room for more decisions; refuse whole cgroups less finely"
        );
        // What is not on disk would be forgotten by the next guard.
        next.save(&self.state_dir)
            .with_context(|| format!("cannot write to {}", self.state_dir.display()))?;
        *decisions = next;
        drop(decisions);
        let port = Port::new(closed.netns, closed.port);
        match verdict {
            Verdict::Open => {
                open(maps, port)?;
                lock(&self.closed).remove(&port);
            }
            Verdict::Guarded | Verdict::Refused => {
                if let Some(known) = lock(&self.closed).get_mut(&port) {
                    known.state = state(Some(verdict));
                }
            }
        }
        Ok(())
    }

    /// Puts the cgroups that are there into WATCHED and takes out those that are gone: one that is made again has another id.
    fn watch(&self, maps: &Maps) -> Result<(), MapError> {
        let there: BTreeMap<u64, PathBuf> = self
            .paths
            .iter()
            .map(|path| self.root.join(path))
            .filter_map(|dir| Some((fs::metadata(&dir).ok()?.ino(), dir)))
            .collect();
        let mut watched = lock(&self.watched);
        // Those of a former guard too. A server's own cgroup is watched by others.
        let all =
            |maps: &Maps| lock(&maps.watched).iter().filter_map(Result::ok).collect::<Vec<(u64, Watch)>>();
        for (id, _) in all(maps).iter().filter(|(id, watch)| watch.server == 0 && !there.contains_key(id)) {
            gone(lock(&maps.watched).remove(id))?;
        }
        for id in there.keys().filter(|id| !watched.contains_key(id)) {
            lock(&maps.watched).insert(id, Watch { action: WATCH_DENY, zero: 0, server: 0 }, 0)?;
        }
        *watched = there;
        Ok(())
    }

    /// The processes in watched cgroups, by their network namespace.
    fn by_namespace(&self) -> BTreeMap<NetnsId, Vec<u32>> {
        let mut pids = BTreeSet::new();
        let mut left = CGROUPS_MAX;
        for dir in self.dirs() {
            members(&dir, &mut pids, &mut left);
        }
        let mut found: BTreeMap<NetnsId, Vec<u32>> = BTreeMap::new();
        for pid in pids {
            if let Some(id) = NetnsId::of(&of_pid(pid)) {
                found.entry(id).or_default().push(pid);
            }
        }
        found
    }

    /// Closes a listener, or opens it, as was decided. True: it is closed.
    fn judge(&self, maps: &Maps, netns: &Netns, port: Port, listener: &Listener) -> anyhow::Result<bool> {
        let rule = lock(&maps.policy).get(&port, 0).ok();
        if rule.is_some_and(|rule| rule.mode != MODE_GUARDED || rule.flags & FLAG_PENDING == 0) {
            // A server of guard.yaml, or a listener of the guard's own.
            return Ok(false);
        }
        let Listener { socket, process } = listener;
        let verdict = lock(&self.decisions).of(&process.cgroup, port.port).map(|decision| decision.verdict);
        if verdict == Some(Verdict::Open) {
            if rule.is_some() {
                open(maps, port)?;
            }
            return Ok(false);
        }
        if rule.is_none() {
            close(maps, port).context("cannot close a port")?;
            // It was reachable until now.
            netns.run(|| sweep::sweep(&[port.port]))??;
        }
        let place = Place::of(&process.cgroup);
        let now = Closed {
            netns: netns.cookie,
            is_own: netns.is_own,
            port: port.port,
            address: socket.local,
            pid: process.pid,
            uid: socket.uid,
            comm: process.comm.clone(),
            cgroup: process.cgroup.clone(),
            unit: place.unit.map(|unit| unit.to_string()),
            container: place.container.map(|container| container.to_string()),
            state: state(verdict),
        };
        let is_told = lock(&self.closed).get(&port) == Some(&now);
        if is_told || self.news.try_send(now.clone()).is_ok() {
            lock(&self.closed).insert(port, now);
        }
        Ok(true)
    }

    /// Forgets closed ports on which nobody listens any more, in namespaces that were looked at or that are dead. A server's
    /// other ports are not ours.
    fn forget(&self, maps: &Maps, looked_at: &BTreeSet<u64>, there: &BTreeSet<Port>) -> anyhow::Result<()> {
        let ours = |rule: &Rule| rule.flags & FLAG_PENDING != 0 && rule.server == 0;
        let pending: Vec<Port> = lock(&maps.policy)
            .iter()
            .filter_map(Result::ok)
            .filter(|(port, rule)| ours(rule) && !there.contains(port))
            .map(|(port, _)| port)
            .collect();
        let (here, elsewhere): (Vec<Port>, Vec<Port>) =
            pending.into_iter().partition(|port| looked_at.contains(&port.netns));
        for port in here {
            // Not if it only left the cgroup, or its process could not be seen for a moment.
            if !self.listens(port) {
                open(maps, port)?;
            }
        }
        if self.paths.is_empty() {
            // Nothing is watched any more, so nobody could decide about them.
            return elsewhere.into_iter().try_for_each(|port| Ok(open(maps, port)?));
        }
        let mut tidied = lock(&self.tidied);
        if elsewhere.is_empty() || tidied.is_some_and(|at| at.elapsed() < TIDY_EVERY) {
            return Ok(());
        }
        *tidied = Some(Instant::now());
        drop(tidied);
        let living = survey::cookies()?;
        for port in elsewhere.into_iter().filter(|port| !living.contains(&port.netns)) {
            open(maps, port)?;
        }
        Ok(())
    }

    /// Whether anybody listens on a port of a namespace that has a process in a watched cgroup. In doubt, yes.
    fn listens(&self, port: Port) -> bool {
        self.by_namespace().values().filter_map(|pids| Netns::open(&of_pid(*pids.first()?)).ok()).any(
            |netns| {
                netns.cookie == port.netns
                    && !netns.run(diag::listening).is_ok_and(|all| {
                        all.is_ok_and(|all| all.iter().all(|socket| socket.local.port() != port.port))
                    })
            },
        )
    }
}

fn state(verdict: Option<Verdict>) -> State {
    match verdict {
        Some(Verdict::Refused) => State::Refused,
        Some(Verdict::Guarded) => State::Approved,
        Some(Verdict::Open) | None => State::Pending,
    }
}

/// Those of the sockets that one of these processes holds.
fn held(listening: Vec<diag::Socket>, pids: &[u32]) -> Vec<Listener> {
    let processes = owner::among(listening.iter().map(|socket| socket.inode), pids.iter().copied());
    let with_process = listening.into_iter().filter_map(|socket| {
        let process = processes.get(&socket.inode)?.clone();
        Some(Listener { socket, process })
    });
    with_process.collect()
}

/// Adds the processes of a cgroup and of all below it.
fn members(dir: &Path, pids: &mut BTreeSet<u32>, left: &mut usize) {
    let Some(fewer) = left.checked_sub(1) else {
        tracing::error!(
            "more than {CGROUPS_MAX} watched cgroups: listeners may be found only by the kernel program"
        );
        return;
    };
    *left = fewer;
    let procs = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(procs.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            members(&entry.path(), pids, left);
        }
    }
}

fn of_pid(pid: u32) -> PathBuf {
    format!("/proc/{pid}/ns/net").into()
}

/// Removes the rule of a port that is pending; any other rule stays.
fn open(maps: &Maps, port: Port) -> Result<(), MapError> {
    let mut policy = lock(&maps.policy);
    match policy.get(&port, 0) {
        Ok(rule) if rule.flags & FLAG_PENDING != 0 => gone(policy.remove(&port)),
        Ok(_) | Err(MapError::KeyNotFound) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Closes a port as the kernel program does. A rule that came meanwhile stays.
fn close(maps: &Maps, port: Port) -> Result<(), MapError> {
    let rule = Rule { mode: MODE_GUARDED, flags: FLAG_PENDING, generation: 0, zero: 0, server: 0 };
    match lock(&maps.policy).insert(port, rule, BPF_NOEXIST) {
        Err(MapError::SyscallError(error)) if error.io_error.raw_os_error() == Some(nix::libc::EEXIST) => {
            Ok(())
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_below_a_watched_cgroup_are_found_and_the_walk_ends() {
        let root = tempfile::tempdir().unwrap();
        let make = |path: &str, pids: &str| {
            fs::create_dir_all(root.path().join(path)).unwrap();
            fs::write(root.path().join(path).join("cgroup.procs"), pids).unwrap();
        };
        make("agents.slice", "1\n");
        make("agents.slice/a.service/worker", "2\n3\n");
        make("other.slice", "4\n");
        let (mut pids, mut left) = (BTreeSet::new(), CGROUPS_MAX);
        members(&root.path().join("agents.slice"), &mut pids, &mut left);
        assert_eq!(pids, BTreeSet::from([1, 2, 3]));
        let (mut pids, mut left) = (BTreeSet::new(), 1);
        members(&root.path().join("agents.slice"), &mut pids, &mut left);
        assert_eq!(pids, BTreeSet::from([1]));
    }

    #[test]
    fn what_was_refused_or_approved_as_a_server_stays_closed() {
        assert_eq!(state(None), State::Pending);
        assert_eq!(state(Some(Verdict::Refused)), State::Refused);
        assert_eq!(state(Some(Verdict::Guarded)), State::Approved);
    }
}
