//! Every TCP socket that listens on this host, in whichever network namespace, with the process that holds it. Looks only;
//! needs no running guard and no kernel program.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::netns::{Netns, NetnsId};
use super::process::Place;
use super::{diag, host, owner, places};
use crate::config::Server;

/// Directories with named network namespaces: iproute2's, and Docker's.
const NAMED: [&str; 2] = ["/run/netns", "/run/docker/netns"];
/// Namespaces that are entered in one survey; a host with more is told so.
pub const NAMESPACES_MAX: usize = 4096;
/// Bytes read of a command line.
const COMMAND_BYTES_MAX: u64 = 4096;

/// What was seen.
#[derive(Debug, Default)]
pub struct Survey {
    pub listeners: Vec<Listener>,
    /// Namespaces that could not be looked into, and why.
    pub unseen: Vec<String>,
}

/// A socket that listens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Listener {
    pub address: SocketAddr,
    pub space: Space,
    /// Who made it.
    pub uid: u32,
    /// `None`: no process that this user may look into holds it.
    pub holder: Option<Holder>,
    /// The server of `guard.yaml` on this port.
    pub server: Option<String>,
}

/// The network namespace of a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Space {
    /// A file that stands for it: one with a name of its own, or that of one of its processes.
    pub path: PathBuf,
    /// It is the namespace of this process.
    pub is_own: bool,
    /// The file has a name that outlives processes.
    pub is_named: bool,
}

/// A process that holds a socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Holder {
    pub pid: u32,
    /// Chosen by the process.
    pub comm: String,
    /// Its words, as the process may have changed them.
    pub command: Vec<String>,
    /// cgroup2 path.
    pub cgroup: String,
    pub unit: Option<String>,
    pub container: Option<String>,
}

/// Looks at all namespaces of this host. `servers` are those of `guard.yaml`.
pub fn survey(servers: &[Server]) -> anyhow::Result<Survey> {
    let servers: Vec<_> = servers.iter().cloned().map(std::sync::Arc::new).collect();
    let none = BTreeSet::new();
    let search = places::Search {
        cgroup_root: &host::cgroup2_root()?,
        namespaces_max: NAMESPACES_MAX,
        known: &none,
        heard: &none,
    };
    let configured = places::find(&servers, &search).wanted;
    let mut found = Survey::default();
    let mut sockets = Vec::new();
    for (id, space) in spaces()? {
        match listening(&space) {
            Ok(listening) => sockets.extend(listening.into_iter().map(|socket| (id, space.clone(), socket))),
            Err(error) => found.unseen.push(format!("{}: {error:#}", space.path.display())),
        }
    }
    let holders = owner::of_sockets(sockets.iter().map(|(.., socket)| socket.inode));
    found.listeners = sockets
        .into_iter()
        .map(|(id, space, socket)| {
            let port = socket.local.port();
            let server = configured.get(&id).and_then(|wanted| wanted.servers.get(&port));
            Listener {
                address: socket.local,
                space,
                uid: socket.uid,
                holder: holders.get(&socket.inode).map(holder),
                server: server.map(|server| server.name.to_string()),
            }
        })
        .collect();
    found.listeners.sort_by(|a, b| {
        let key = |l: &Listener| (!l.space.is_own, l.space.path.clone(), l.address.port(), l.address);
        key(a).cmp(&key(b))
    });
    Ok(found)
}

impl Space {
    /// Runs `f` in this namespace, on a thread of its own.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        if self.is_own {
            return Ok(f());
        }
        Ok(Netns::open(&self.path)?.run(f)?)
    }
}

/// The cookies of all namespaces that this process can enter. An error if there is one that it cannot, or if there are more
/// than it looks at.
pub(super) fn cookies() -> anyhow::Result<BTreeSet<u64>> {
    let spaces = spaces()?;
    anyhow::ensure!(spaces.len() < NAMESPACES_MAX, "more than {NAMESPACES_MAX} network namespaces");
    spaces.values().map(|space| Ok(Netns::open(&space.path)?.cookie)).collect()
}

fn listening(space: &Space) -> anyhow::Result<Vec<diag::Socket>> {
    Ok(space.run(diag::listening)??)
}

fn holder(process: &owner::Process) -> Holder {
    let place = Place::of(&process.cgroup);
    Holder {
        pid: process.pid,
        comm: process.comm.clone(),
        command: command(process.pid),
        cgroup: process.cgroup.clone(),
        unit: place.unit.map(|unit| unit.to_string()),
        container: place.container.map(|container| container.to_string()),
    }
}

/// The words of a process's command line; none if it is gone or has none.
fn command(pid: u32) -> Vec<String> {
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(format!("/proc/{pid}/cmdline")) {
        // What could be read is enough for a hint.
        let _read = file.take(COMMAND_BYTES_MAX).read_to_end(&mut bytes);
    }
    let words = bytes.split(|byte| *byte == 0).filter(|word| !word.is_empty());
    words.map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// Each namespace once: this process's own, those with names, those of processes.
fn spaces() -> anyhow::Result<BTreeMap<NetnsId, Space>> {
    let own = NetnsId::own()?;
    let mut spaces = BTreeMap::new();
    spaces.insert(own, Space { path: "/proc/self/ns/net".into(), is_own: true, is_named: true });
    let mut add = |path: PathBuf, is_named| {
        if let Some(id) = NetnsId::of(&path)
            && spaces.len() < NAMESPACES_MAX
        {
            spaces.entry(id).or_insert(Space { path, is_own: false, is_named });
        }
    };
    for dir in NAMED {
        entries(Path::new(dir)).for_each(|path| add(path, true));
    }
    for path in entries(Path::new("/proc")) {
        let is_pid =
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok());
        if is_pid {
            add(path.join("ns/net"), false);
        }
    }
    Ok(spaces)
}

fn entries(dir: &Path) -> impl Iterator<Item = PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_listener_of_this_process_is_found_with_its_command_line() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server: Server =
            serde_json::from_value(serde_json::json!({"name": "mine", "port": address.port()})).unwrap();
        let survey = survey(&[server]).unwrap();
        let found = survey.listeners.iter().find(|found| found.address == address).unwrap();
        let holder = found.holder.as_ref().unwrap();
        assert_eq!(holder.pid, std::process::id());
        assert_eq!(holder.command, std::env::args().collect::<Vec<_>>());
        assert_eq!((found.space.is_own, found.server.as_deref()), (true, Some("mine")));
    }
}
