//! Finds the listening sockets of the protected servers and pins them: the guard's own connections reach these
//! sockets and no others, whoever else binds the port later.

use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use aya::maps::MapError;
use guard_common::{FAMILY_V4, FAMILY_V6, Owner, Port, Slot};
use serde::Serialize;

use super::maps::{Maps, lock};
use super::netns::Netns;
use super::owner::{self, Borrowed, Process};
use super::{address, diag, places};
use crate::config::{Place, Server};

/// How often a listener that could not be pinned is looked at again. Each look reads all of /proc.
const RETRY: Duration = Duration::from_secs(1);

/// A server's listening socket that the guard's connections are given to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Pinned {
    /// What the socket is bound to.
    pub address: SocketAddr,
    /// Family of the connections it takes here: 4 or 6.
    pub family: u8,
    pub pid: u32,
    pub uid: u32,
    pub comm: String,
    /// cgroup2 path of the process.
    pub cgroup: String,
    /// It speaks Multipath TCP: the kernel finds it by its address, and the guard asks whose socket it met.
    pub multipath: bool,
    /// Id of the cgroup in which the socket was made.
    #[serde(skip)]
    pub(super) made_in: Option<u64>,
    #[serde(skip)]
    cookie: u64,
}

impl Pinned {
    /// Names the socket for as long as the host runs.
    pub(super) fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Where to connect to reach it.
    pub fn target(&self) -> SocketAddr {
        let ip = if self.address.ip().to_canonical().is_unspecified() {
            address::loopback_of(if self.family == FAMILY_V4 {
                [0, 0, 0, 0].into()
            } else {
                [0_u16; 8].into()
            })
        } else {
            self.address.ip().to_canonical()
        };
        SocketAddr::new(ip, self.address.port())
    }
}

/// What is known about the server on one port.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct PortStatus {
    pub pinned: Vec<Pinned>,
    /// Listeners on the port that were not pinned, and why.
    pub unrecognised: Vec<String>,
    /// Cookies of the listeners that no process held at the last full look. A socket that is handed on, or whose
    /// process was just starting or ending, looks so for a moment.
    #[serde(skip)]
    unheld: Vec<u64>,
    /// Cookies of the listeners at the last full look, and when that was.
    #[serde(skip)]
    looked: Option<(Vec<u64>, Instant)>,
    /// Where `guard.yaml` has the server.
    #[serde(skip)]
    place: Place,
}

impl PortStatus {
    /// Another look would find the same.
    fn is_settled(&self) -> bool {
        self.unrecognised.is_empty() && self.unheld.is_empty() && !self.pinned.is_empty()
    }
}

/// The servers of one network namespace.
pub(crate) struct Servers {
    /// Cookie of the namespace.
    netns: u64,
    cgroup_root: PathBuf,
    state: Mutex<BTreeMap<u16, PortStatus>>,
}

/// A listener with the process that holds it.
struct Candidate {
    socket: diag::Socket,
    process: Process,
}

impl Servers {
    pub(crate) fn new(netns: u64, cgroup_root: &Path) -> Self {
        Self { netns, cgroup_root: cgroup_root.to_owned(), state: Mutex::default() }
    }

    /// From now on, servers on these ports are looked for, and on no others.
    pub(crate) fn set_ports(&self, servers: &BTreeMap<u16, Arc<Server>>) {
        let mut state = lock(&self.state);
        state.retain(|port, _| servers.contains_key(port));
        for (port, server) in servers {
            state.entry(*port).or_default().place = server.place.clone();
        }
    }

    pub(crate) fn status(&self) -> BTreeMap<u16, PortStatus> {
        lock(&self.state).clone()
    }

    /// The pinned socket for connections to `port`; IPv4 first, which is what most clients would use.
    pub(crate) fn pinned(&self, port: u16) -> Option<Pinned> {
        lock(&self.state).get(&port)?.pinned.iter().min_by_key(|pinned| pinned.family).cloned()
    }

    /// Whether the pinned socket with this cookie is still there.
    pub(crate) fn has_pinned(&self, port: u16, cookie: u64) -> bool {
        let state = lock(&self.state);
        state.get(&port).is_some_and(|status| status.pinned.iter().any(|pinned| pinned.cookie == cookie))
    }

    /// Looks which servers listen and pins new ones. Cheap when nothing has changed. `slots` are those with a socket.
    pub(crate) fn scan(&self, maps: &Maps, netns: &Netns, slots: &HashSet<Slot>) -> anyhow::Result<()> {
        let all = netns.run(diag::listening)?.context("cannot list listening sockets")?;
        let mut by_port: BTreeMap<u16, Vec<diag::Socket>> = BTreeMap::new();
        for socket in all {
            by_port.entry(socket.local.port()).or_default().push(socket);
        }
        let mut state = lock(&self.state);
        let mut unsettled = Vec::new();
        for (&port, status) in state.iter_mut() {
            let listeners: &[diag::Socket] = by_port.get(&port).map_or(&[], Vec::as_slice);
            self.drop_gone(maps, port, listeners, slots, status)?;
            if listeners.is_empty() {
                *status = PortStatus { place: status.place.clone(), ..PortStatus::default() };
                continue;
            }
            let mut cookies: Vec<u64> = listeners.iter().map(|socket| socket.cookie).collect();
            cookies.sort_unstable();
            let is_fresh = status
                .looked
                .as_ref()
                .is_some_and(|(seen, at)| *seen == cookies && (status.is_settled() || at.elapsed() < RETRY));
            if !is_fresh {
                status.looked = Some((cookies, Instant::now()));
                unsettled.push((port, status, listeners));
            }
        }
        // One look at /proc for all of them.
        let inodes =
            unsettled.iter().flat_map(|(_, _, listeners)| listeners.iter().map(|socket| socket.inode));
        let processes = owner::of_sockets(inodes);
        for (port, status, listeners) in unsettled {
            self.choose(maps, port, listeners, &processes, status)?;
        }
        Ok(())
    }

    /// Forgets pinned listeners that are there no more.
    fn drop_gone(
        &self,
        maps: &Maps,
        port: u16,
        listeners: &[diag::Socket],
        slots: &HashSet<Slot>,
        status: &mut PortStatus,
    ) -> anyhow::Result<()> {
        for pinned in std::mem::take(&mut status.pinned) {
            let slot = Slot::server(self.netns, pinned.family, port);
            let listens = listeners.iter().any(|socket| socket.cookie == pinned.cookie);
            if listens && (slots.contains(&slot) || maps.is_multipath(&slot)) {
                status.pinned.push(pinned);
            } else if pinned.multipath {
                maps.clear_multipath(slot).context("cannot forget a listener that is gone")?;
            }
        }
        Ok(())
    }

    fn choose(
        &self,
        maps: &Maps,
        port: u16,
        listeners: &[diag::Socket],
        processes: &BTreeMap<u32, Process>,
        status: &mut PortStatus,
    ) -> anyhow::Result<()> {
        let before = std::mem::take(&mut status.unrecognised);
        let unheld_before = std::mem::take(&mut status.unheld);
        let mut candidates = Vec::new();
        for socket in listeners {
            if let Some(process) = processes.get(&socket.inode) {
                candidates.push(Candidate { socket: socket.clone(), process: process.clone() });
                continue;
            }
            status.unheld.push(socket.cookie);
            if unheld_before.contains(&socket.cookie) {
                status.unrecognised.push(format!("{}: no process holds it", socket.local));
            }
        }
        self.drop_strangers(&mut candidates, status);
        self.drop_untrusted(maps, port, &mut candidates, status)?;
        for family in [FAMILY_V4, FAMILY_V6] {
            if status.pinned.iter().any(|pinned| pinned.family == family) {
                continue;
            }
            candidates.sort_by_key(|candidate| rank(candidate.socket.local.ip(), family));
            for candidate in &candidates {
                match self.pin(maps, port, family, candidate) {
                    Ok(Some(pinned)) => {
                        tracing::info!(port, address = %pinned.address, pid = pinned.pid, uid = pinned.uid, "server pinned");
                        status.pinned.push(pinned);
                        break;
                    }
                    Ok(None) => {}
                    Err(error) => status.unrecognised.push(format!("{}: {error:#}", candidate.socket.local)),
                }
            }
        }
        if status.unrecognised != before {
            for words in &status.unrecognised {
                tracing::warn!(port, "unrecognised listener {words}");
            }
        }
        Ok(())
    }

    /// Keeps the candidates that are in the container or unit that the server's entry names: whoever else comes first to its
    /// port must not pass for it.
    fn drop_strangers(&self, candidates: &mut Vec<Candidate>, status: &mut PortStatus) {
        let PortStatus { place, unrecognised, .. } = status;
        candidates.retain(|candidate| {
            let Process { pid, cgroup, .. } = &candidate.process;
            let is_in = places::is_in(place, &self.cgroup_root, *pid, cgroup);
            if !is_in {
                unrecognised.push(format!(
                    "{}: not in {place}, where guard.yaml has the server; stop it, or name its place in the server's entry",
                    describe(candidate)
                ));
            }
            is_in
        });
    }

    /// Keeps the candidates of the owner that is trusted with this port. The first owner that is seen becomes it,
    /// when there is only one.
    fn drop_untrusted(
        &self,
        maps: &Maps,
        port: u16,
        candidates: &mut Vec<Candidate>,
        status: &mut PortStatus,
    ) -> anyhow::Result<()> {
        let key = Port::new(self.netns, port);
        let mut trust = lock(&maps.trust);
        let trusted = match trust.get(&key, 0) {
            Ok(owner) => owner,
            Err(MapError::KeyNotFound) => {
                let Some(first) = candidates.first().map(owner_of) else { return Ok(()) };
                if candidates.iter().any(|candidate| owner_of(candidate) != first) {
                    for candidate in candidates.drain(..) {
                        status
                            .unrecognised
                            .push(format!("{}: several owners share the port", describe(&candidate)));
                    }
                    return Ok(());
                }
                trust.insert(key, first, 0).context("cannot note whose server this is")?;
                first
            }
            Err(error) => return Err(error).context("cannot read whose server this is"),
        };
        candidates.retain(|candidate| {
            let known = owner_of(candidate) == trusted;
            if !known {
                status.unrecognised.push(format!(
                    "{}: not the user and cgroup of the server that was here first; stop it, or run `mcp-guard unload` \
                     and start the guard again to accept it",
                    describe(candidate)
                ));
            }
            known
        });
        Ok(())
    }

    /// `Ok(None)`: this socket does not take connections of that family.
    fn pin(
        &self,
        maps: &Maps,
        port: u16,
        family: u8,
        candidate: &Candidate,
    ) -> anyhow::Result<Option<Pinned>> {
        let socket = &candidate.socket;
        let mapped = socket.local.ip().to_canonical().is_ipv4();
        let dual = socket.v6 && (mapped || socket.local.ip().is_unspecified());
        if (family == FAMILY_V4 && socket.v6 && !dual) || (family == FAMILY_V6 && (!socket.v6 || mapped)) {
            return Ok(None);
        }
        let borrowed = owner::borrow_socket(&candidate.process, socket.inode, socket.cookie)?;
        if family == FAMILY_V4 && socket.v6 && socket2::SockRef::from(borrowed.fd()).only_v6()? {
            return Ok(None);
        }
        let slot = Slot::server(self.netns, family, port);
        match &borrowed {
            Borrowed::Plain(fd) => {
                maps.set_socket(slot, fd).context("the kernel does not take it as a target")?;
            }
            Borrowed::Multipath(_) => {
                ensure_apart(candidate)?;
                maps.set_multipath(slot).context("cannot note that it speaks Multipath TCP")?;
            }
        }
        Ok(Some(Pinned {
            address: socket.local,
            family,
            pid: candidate.process.pid,
            uid: socket.uid,
            comm: candidate.process.comm.clone(),
            cgroup: candidate.process.cgroup.clone(),
            multipath: matches!(borrowed, Borrowed::Multipath(_)),
            made_in: socket.cgroup,
            cookie: socket.cookie,
        }))
    }
}

/// The kernel takes no Multipath TCP socket as a target, so its server must be told from others by its cgroup.
fn ensure_apart(candidate: &Candidate) -> anyhow::Result<()> {
    let Process { pid, cgroup, .. } = &candidate.process;
    ensure!(
        cgroup != "/" && candidate.socket.cgroup.is_some(),
        "pid {pid} listens with Multipath TCP, whose sockets the kernel does not take as a target, and in the root cgroup it \
         cannot be told from others; start it as a unit or container of its own, or with plain TCP (a program in Go: \
         GODEBUG=multipathtcp=0; for all: `sysctl net.mptcp.enabled=0`)"
    );
    Ok(())
}

fn owner_of(candidate: &Candidate) -> Owner {
    Owner { uid: candidate.socket.uid, cgroup: candidate.process.cgroup_digest(), zero: 0 }
}

fn describe(candidate: &Candidate) -> String {
    let Process { pid, comm, cgroup, .. } = &candidate.process;
    format!(
        "{} of pid {pid} ({comm:?}, uid {}, cgroup {cgroup})",
        candidate.socket.local, candidate.socket.uid
    )
}

/// Which of several listeners to take: the one on loopback, where the guard would connect anyway, then one on all
/// addresses, then others. A listener of the very family goes before a dual-stack one.
fn rank(ip: IpAddr, family: u8) -> u8 {
    let own = ip.is_ipv4() == (family == FAMILY_V4);
    let canonical = ip.to_canonical();
    let place = if canonical.is_loopback() {
        0
    } else if canonical.is_unspecified() {
        1
    } else {
        2
    };
    place + if own { 0 } else { 3 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_goes_before_all_addresses_and_the_own_family_before_dual_stack() {
        let mut ips: Vec<IpAddr> =
            ["::", "10.0.0.1", "0.0.0.0", "127.0.0.1"].map(|ip| ip.parse().unwrap()).into();
        ips.sort_by_key(|ip| rank(*ip, FAMILY_V4));
        assert_eq!(
            ips.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["127.0.0.1", "0.0.0.0", "10.0.0.1", "::"]
        );
    }

    #[test]
    fn a_server_on_all_addresses_is_reached_over_loopback() {
        let pinned = |address: &str, family| Pinned {
            address: address.parse().unwrap(),
            family,
            pid: 1,
            uid: 1,
            comm: String::new(),
            cgroup: String::new(),
            multipath: false,
            made_in: None,
            cookie: 1,
        };
        assert_eq!(pinned("0.0.0.0:80", FAMILY_V4).target(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(pinned("[::]:80", FAMILY_V4).target(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(pinned("[::]:80", FAMILY_V6).target(), "[::1]:80".parse().unwrap());
        assert_eq!(pinned("10.1.2.3:80", FAMILY_V4).target(), "10.1.2.3:80".parse().unwrap());
    }
}
