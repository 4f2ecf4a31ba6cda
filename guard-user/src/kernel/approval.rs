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
use guard_common::{PENDING_OF_CGROUP_MAX, Port, WATCH_DENY, Watch};
use serde::Serialize;
use tokio::sync::mpsc;

use super::maps::{Maps, gone, lock};
use super::netns::Netns;
use super::pending::{self, Seen};
use super::process::Place;
use super::{diag, gates, owner, places, survey, sweep};
use crate::config::decisions::{Decision, Decisions, Verdict};

/// News that wait to be recorded. What has no room is told at the next look.
const NEWS_MAX: usize = 1024;
/// A cgroup with no more listeners than this is quiet: its listeners find room where others have taken theirs.
const QUIET_MAX: usize = 64;
/// Entries of one watched cgroup up to which that room goes.
const ROOM_OF_QUIET: usize = 2 * PENDING_OF_CGROUP_MAX as usize;
/// Between two looks for closed ports of namespaces that are dead. Each look enters all namespaces of the host.
const TIDY_EVERY: Duration = Duration::from_secs(30);

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
    looking: Mutex<()>,
    /// Ids of watched cgroups with more listeners than there is room for.
    crowded: Mutex<BTreeSet<u64>>,
    /// Directories of which something was told.
    told: Mutex<BTreeSet<PathBuf>>,
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
            looking: Mutex::default(),
            crowded: Mutex::default(),
            told: Mutex::default(),
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

    /// One look. Cheap where nothing is watched. `is_walled`: the second wall keeps a cgroup closed that is shut.
    pub(super) fn look(&self, maps: &Maps, is_walled: bool) -> anyhow::Result<()> {
        // Decisions are carried out by looks too.
        let _one_at_a_time = lock(&self.looking);
        self.watch(maps).context("cannot watch a cgroup")?;
        // First what is closed, then who listens: what changes in between is not taken for what was seen.
        let mut seen = Seen::now(maps);
        let mut view = View { is_walled, ..View::default() };
        let (paths, pids) = self.processes();
        let mut sockets = Vec::new();
        for path in paths {
            // It may have ended just now.
            let Ok(netns) = Netns::open(&path) else { continue };
            match netns.run(diag::listening).and_then(|listening| listening) {
                Ok(listening) => {
                    let ports = listening.iter().map(|socket| socket.local.port()).collect();
                    sockets.extend(listening.into_iter().map(|socket| (netns.cookie, socket)));
                    view.looked_at.insert(netns.cookie, (netns, ports));
                }
                // Nobody's namespace keeps the others from being looked at.
                Err(error) => tracing::error!(
                    netns = netns.cookie,
                    "cannot list the listening sockets of processes in a watched cgroup: {error}"
                ),
            }
        }
        for (port, noise, listeners) in by_port(sockets, pids) {
            match self.judge(maps, &mut seen, port, noise, &listeners, &mut view) {
                Ok(Judged::NotOurs) => {}
                Ok(Judged::Closed) => {
                    view.there.insert(port);
                }
                Ok(Judged::ClosedNow) => {
                    view.there.insert(port);
                    view.to_sweep.entry(port.netns).or_default().push(port.port);
                }
                Ok(Judged::ClosedBeyond) => {
                    view.to_sweep.entry(port.netns).or_default().push(port.port);
                }
                Err(error) => {
                    tracing::error!(
                        netns = port.netns,
                        port = port.port,
                        "a listener is not judged: {error:#}"
                    );
                }
            }
        }
        lock(&self.closed).retain(|port, _| view.there.contains(port));
        // What fails here keeps nobody's connections from being ended.
        let told = self.tell_crowded(maps, &mut seen, &view);
        let forgotten = self.forget(maps, &seen, &mut view);
        let counted = pending::recount(maps).context("cannot count the closed ports of a cgroup");
        let places: Vec<(&Netns, &[u16])> = view
            .to_sweep
            .iter()
            .filter_map(|(cookie, ports)| Some((&view.looked_at.get(cookie)?.0, ports.as_slice())))
            .collect();
        let swept = sweep::sweep_all(&places).into_iter().try_for_each(|swept| swept.map(drop));
        swept.and(told).and(forgotten).and(counted)
    }

    /// Notes a decision about a listener that is closed, and carries it out.
    pub(crate) fn decide(
        &self,
        maps: &Maps,
        closed: &Closed,
        decision: Decision,
        is_walled: bool,
    ) -> anyhow::Result<()> {
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
        match verdict {
            // Whether nobody else listens there is looked at anew.
            Verdict::Open => self.look(maps, is_walled),
            Verdict::Guarded | Verdict::Refused => {
                let port = Port::new(closed.netns, closed.port);
                if let Some(known) = lock(&self.closed).get_mut(&port) {
                    known.state = state(Some(verdict));
                }
                Ok(())
            }
        }
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
            gone(lock(&maps.shut).remove(id))?;
        }
        for id in there.keys().filter(|id| !watched.contains_key(id)) {
            // Those of a former guard's time take room too.
            let pending = u32::try_from(Seen::now(maps).count(*id)).unwrap_or(u32::MAX);
            lock(&maps.watched).insert(id, Watch { action: WATCH_DENY, pending, server: 0 }, 0)?;
        }
        *watched = there;
        Ok(())
    }

    /// The processes in watched cgroups, and a file for each network namespace in which one of their threads is.
    fn processes(&self) -> (Vec<PathBuf>, BTreeSet<u32>) {
        let (mut paths, mut pids) = (BTreeMap::new(), BTreeSet::new());
        for dir in self.dirs() {
            let members = places::members(&dir);
            if members.is_cut && lock(&self.told).insert(dir.clone()) {
                tracing::error!(
                    cgroup = %dir.display(),
                    "a watched cgroup has more cgroups, processes or threads than are looked at: a listener from before the \
                     guard may be open; new ones are closed"
                );
            }
            paths.extend(members.namespaces);
            pids.extend(members.pids);
        }
        (paths.into_values().collect(), pids)
    }

    /// Closes a port, or opens it, as was decided about all who listen there.
    fn judge(
        &self,
        maps: &Maps,
        seen: &mut Seen,
        port: Port,
        noise: usize,
        listeners: &[Listener],
        view: &mut View,
    ) -> anyhow::Result<Judged> {
        let is_servers = seen.ports.get(&port).is_some_and(|pending| pending.server != 0);
        if is_servers || lock(&maps.policy).get(&port, 0).is_ok() {
            // A server of guard.yaml, another port of one, or a listener of the guard's own.
            return Ok(Judged::NotOurs);
        }
        let verdict = |listener: &&Listener| {
            lock(&self.decisions).of(&listener.process.cgroup, port.port).map(|decision| decision.verdict)
        };
        let Some(closed) = listeners
            .iter()
            .find(|listener| verdict(listener) != Some(Verdict::Open))
            .or_else(|| listeners.first())
        else {
            return Ok(Judged::NotOurs);
        };
        let watched = self.watched_by(&closed.process.cgroup);
        if verdict(&closed) == Some(Verdict::Open) {
            seen.approve(maps, port, watched)?;
            return Ok(Judged::NotOurs);
        }
        let Some((netns, _)) = view.looked_at.get(&port.netns) else { return Ok(Judged::NotOurs) };
        let room = if noise <= QUIET_MAX { ROOM_OF_QUIET } else { PENDING_OF_CGROUP_MAX as usize };
        let was_open = !(view.is_walled && seen.was_shut(watched)) || seen.ports.contains_key(&port);
        let is_new = match seen.close(maps, port, watched, 0, room)? {
            pending::Closed::Before => false,
            pending::Closed::Now => was_open,
            pending::Closed::WithItsCgroup => {
                *view.crowd.entry(watched).or_default() += 1;
                if !view.is_walled {
                    // Nothing else keeps it closed.
                    for listener in listeners {
                        netns.run(|| diag::destroy(&listener.socket))?.context("cannot end a listener")?;
                    }
                }
                return Ok(if was_open { Judged::ClosedBeyond } else { Judged::NotOurs });
            }
        };
        self.note(netns, port, closed, verdict(&closed));
        Ok(if is_new { Judged::ClosedNow } else { Judged::Closed })
    }

    /// Remembers a closed listener, and tells of one that is new.
    fn note(&self, netns: &Netns, port: Port, listener: &Listener, verdict: Option<Verdict>) {
        let Listener { socket, process } = listener;
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
    }

    /// The id of the watched cgroup of a process; the nearest, where one is in another. Zero: none.
    fn watched_by(&self, cgroup: &str) -> u64 {
        let dir = gates::directory(&self.root, cgroup);
        let watched = lock(&self.watched);
        let above = watched.iter().filter(|(_, watched)| dir.starts_with(watched));
        above.max_by_key(|(_, watched)| watched.components().count()).map_or(0, |(id, _)| *id)
    }

    /// Says which watched cgroups listen on more than there is room for, and opens those again that do not any more.
    fn tell_crowded(&self, maps: &Maps, seen: &mut Seen, view: &View) -> anyhow::Result<()> {
        let watched = lock(&self.watched).clone();
        let mut crowded = lock(&self.crowded);
        for (id, dir) in &watched {
            let beyond = view.crowd.get(id).copied().unwrap_or_default();
            if beyond == 0 {
                seen.reopen(maps, *id)?;
                if crowded.remove(id) {
                    tracing::info!(cgroup = %dir.display(), "each listener of the watched cgroup can be told apart again");
                }
            } else if crowded.insert(*id) {
                tracing::error!(
                    cgroup = %dir.display(),
                    beyond,
                    "a watched cgroup listens on more ports than can be told apart ({PENDING_OF_CGROUP_MAX}): those beyond are \
                     closed, and so is every new one; find out who listens there with `mcp-guard servers list` and stop it"
                );
            }
        }
        crowded.retain(|id| watched.contains_key(id));
        Ok(())
    }

    /// Forgets closed ports on which nobody listens any more, in namespaces that were looked at or that are dead. A server's
    /// other ports are not ours.
    fn forget(&self, maps: &Maps, seen: &Seen, view: &mut View) -> anyhow::Result<()> {
        let gone = seen.ports.iter().filter(|(port, _)| !view.there.contains(port));
        let (here, elsewhere): (Vec<_>, Vec<_>) = gone
            .map(|(port, pending)| (*port, pending.server == 0))
            .partition(|(port, _)| view.looked_at.contains_key(&port.netns));
        for (port, _) in here.into_iter().filter(|(_, is_ours)| *is_ours) {
            // Not if it only left the cgroup, or its process could not be seen for a moment.
            let listens =
                view.looked_at.get(&port.netns).is_some_and(|(_, ports)| ports.contains(&port.port));
            if !listens && !seen.forget(maps, port)? {
                view.to_sweep.entry(port.netns).or_default().push(port.port);
            }
        }
        let (ours, others): (Vec<_>, Vec<_>) = elsewhere.into_iter().partition(|(_, is_ours)| *is_ours);
        let mut elsewhere: Vec<Port> = others.into_iter().map(|(port, _)| port).collect();
        for (port, _) in ours {
            if self.paths.is_empty() {
                // Nothing is watched any more, so nobody could decide about it.
                seen.forget(maps, port)?;
            } else {
                elsewhere.push(port);
            }
        }
        let mut tidied = lock(&self.tidied);
        if elsewhere.is_empty() || tidied.is_some_and(|at| at.elapsed() < TIDY_EVERY) {
            return Ok(());
        }
        *tidied = Some(Instant::now());
        drop(tidied);
        let living = survey::cookies()?;
        let dead = elsewhere.into_iter().filter(|port| !living.contains(&port.netns));
        // Nobody begins to listen in a namespace that is dead.
        dead.into_iter().try_for_each(|port| seen.forget(maps, port).map(drop))
    }
}

/// What one look has found.
#[derive(Default)]
struct View {
    is_walled: bool,
    /// Ports that are closed for one listener each.
    there: BTreeSet<Port>,
    /// Namespaces by their cookies, with all ports that somebody listens on.
    looked_at: BTreeMap<u64, (Netns, BTreeSet<u16>)>,
    /// Ports that were open until now.
    to_sweep: BTreeMap<u64, Vec<u16>>,
    /// Listeners of each watched cgroup for which there was no room.
    crowd: BTreeMap<u64, usize>,
}

/// What becomes of a port.
enum Judged {
    NotOurs,
    Closed,
    ClosedNow,
    /// With its whole cgroup, just now.
    ClosedBeyond,
}

fn state(verdict: Option<Verdict>) -> State {
    match verdict {
        Some(Verdict::Refused) => State::Refused,
        Some(Verdict::Guarded) => State::Approved,
        Some(Verdict::Open) | None => State::Pending,
    }
}

/// The sockets that one of these processes holds, by their port, with the number of listeners in the quietest of the cgroups
/// that listen on it. Quiet ones first: who listens on much must not hide the others.
fn by_port(sockets: Vec<(u64, diag::Socket)>, pids: BTreeSet<u32>) -> Vec<(Port, usize, Vec<Listener>)> {
    let processes = owner::among(sockets.iter().map(|(_, socket)| socket.inode), pids);
    let mut noise: BTreeMap<String, usize> = BTreeMap::new();
    let mut by_port: BTreeMap<Port, Vec<Listener>> = BTreeMap::new();
    for (netns, socket) in sockets {
        if let Some(process) = processes.get(&socket.inode).cloned() {
            *noise.entry(process.cgroup.clone()).or_default() += 1;
            let port = Port::new(netns, socket.local.port());
            by_port.entry(port).or_default().push(Listener { socket, process });
        }
    }
    let noise_of = |listeners: &[Listener]| {
        let counts = listeners.iter().filter_map(|listener| noise.get(&listener.process.cgroup));
        counts.min().copied().unwrap_or_default()
    };
    let mut all: Vec<_> =
        by_port.into_iter().map(|(port, listeners)| (port, noise_of(&listeners), listeners)).collect();
    all.sort_by_key(|(_, noise, _)| *noise);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_or_approved_as_a_server_stays_closed() {
        assert_eq!(state(None), State::Pending);
        assert_eq!(state(Some(Verdict::Refused)), State::Refused);
        assert_eq!(state(Some(Verdict::Guarded)), State::Approved);
    }
}
