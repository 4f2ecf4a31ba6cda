//! What more can be found out about a local client than the kernel programs recorded.
//!
//! The record is from the moment of `connect`; this is from later. It counts only where it is sure to be about the same
//! process and the same socket:
//!
//! ```text
//! socket      the client's socket has the cookie of the record             else: unknown local
//! living      the process was there before `connect`, and still runs       else: exited
//! cgroup      the path of the recorded id                                  → place: unit or container
//! executable  path and digest of the file that runs                        → relay, if it connects for others
//! ```
//!
//! Of an exited process, what the kernel recorded still counts: user, group, cgroup.

mod cgroup;
mod executable;
mod living;
mod place;
mod relay;
mod socket;

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

pub use executable::{DigestError, Executable, FileDigest};
pub use place::{Container, Place, PlaceError, Unit};

use anyhow::Context;

use crate::types::LocalProcess;
use cgroup::Cgroups;
use executable::Digests;
use living::{Living, Start};
use socket::{End, Sockets};

/// The initial pid and time namespaces have these inode numbers (`PROC_PID_INIT_INO`, `PROC_TIME_INIT_INO`).
const INITIAL: [(&str, u64); 2] = [("pid", 0xEFFF_FFFC), ("time", 0xEFFF_FFFA)];

/// Who is at the other end of a connection, as far as the guard could find out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Client {
    /// A process of this host.
    Process(Evidence),
    /// A process of this host that hands on the connections of others. Never evidence for anybody.
    Relay { name: &'static str, evidence: Evidence },
    /// A process of this host that connected from the guard's network namespace into another one, and whether it hands on
    /// connections. Whoever has a link between the two could speak in its place, so it is named, and evidence for nobody.
    Neighbour { relay: Option<&'static str>, evidence: Evidence },
    /// On this host, but which process cannot be told for sure. Never to be taken for a known one.
    UnknownLocal,
    /// On another host, or in another network namespace.
    Remote,
}

impl Client {
    /// The same, seen from another network namespace.
    #[must_use]
    pub fn as_neighbour(self) -> Self {
        match self {
            Self::Process(evidence) => Self::Neighbour { relay: None, evidence },
            Self::Relay { name, evidence } => Self::Neighbour { relay: Some(name), evidence },
            Self::Neighbour { .. } => self,
            Self::UnknownLocal | Self::Remote => Self::Remote,
        }
    }
}

/// What is known of a local process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// As of `connect`, from the kernel.
    pub process: LocalProcess,
    /// Path of its cgroup below the cgroup2 root.
    pub cgroup_path: Option<String>,
    /// What that path says.
    pub place: Place,
    /// `None`: the process has ended, or it could not be told from another one with its number.
    pub running: Option<Running>,
}

/// What only a process shows that still runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Running {
    /// From the host's boot to the process's start, in steps of 10 ms.
    pub started_milliseconds: u64,
    pub executable: Option<Executable>,
}

/// Finds out about the processes of this host. One for all network namespaces.
#[derive(Debug)]
struct Processes {
    cgroups: Cgroups,
    digests: Digests,
    /// Process numbers and times in /proc are those that the kernel programs see.
    is_initial: bool,
}

/// Finds out about the clients of one network namespace. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Witness {
    processes: Arc<Processes>,
    sockets: Arc<Sockets>,
}

impl Processes {
    fn new(cgroup2_root: &Path, executable_bytes_max: u64) -> anyhow::Result<Self> {
        let is_initial = is_initial();
        if !is_initial {
            tracing::warn!(
                "this is not the host's own pid or time namespace: clients are known by user and cgroup only, not by \
                 their executables"
            );
        }
        Ok(Self {
            cgroups: Cgroups::open(cgroup2_root)?,
            digests: Digests::new(executable_bytes_max),
            is_initial,
        })
    }

    fn evidence(&self, process: &LocalProcess, inode: Option<u32>) -> Evidence {
        let living = self.living(process, inode);
        let claimed = || cgroup::claimed(&living.as_ref()?.cgroups().ok()?);
        let cgroup_path = self.cgroups.path(process.cgroup, claimed);
        let place = cgroup_path.as_deref().map(Place::of).unwrap_or_default();
        let running = living.and_then(|living| {
            let executable = Executable::of(&living);
            let running = Running { started_milliseconds: living.started, executable };
            // Last, so that all of the above was read of this process.
            living.is_alive().then_some(running)
        });
        Evidence { process: process.clone(), cgroup_path, place, running }
    }

    /// The process that connected, if it is sure to be the one with its number now.
    fn living(&self, process: &LocalProcess, inode: Option<u32>) -> Option<Living> {
        let living = self.is_initial.then(|| Living::open(process.pid).ok()).flatten()?;
        let is_same = match living.start(process.connected_at) {
            Start::Before => true,
            Start::After => false,
            // For a number to be given out again within a tick, all others must have been used up in it. The one that
            // has the client's socket is the right one all the same.
            Start::SameTick => inode.is_some_and(|inode| living.holds_socket(inode).unwrap_or_default()),
        };
        is_same.then_some(living)
    }
}

impl Witness {
    /// For clients in the network namespace of the calling thread. Executables above `executable_bytes_max` are not read.
    pub fn here(cgroup2_root: &Path, executable_bytes_max: u64) -> anyhow::Result<Self> {
        let processes = Processes::new(cgroup2_root, executable_bytes_max)?;
        let sockets = Sockets::open().context("cannot ask the kernel for sockets (sock_diag)")?;
        Ok(Self { processes: Arc::new(processes), sockets: Arc::new(sockets) })
    }

    /// The same for clients in another network namespace: that of the thread that calls this.
    pub fn also_here(&self) -> io::Result<Self> {
        Ok(Self { processes: Arc::clone(&self.processes), sockets: Arc::new(Sockets::open()?) })
    }

    /// Looks at the process that connected from `peer` to `original_dst`. Makes some 30 system calls: not for async
    /// threads.
    pub fn look(&self, process: &LocalProcess, peer: SocketAddr, original_dst: SocketAddr) -> Client {
        self.look_at(process, peer, original_dst, false)
    }

    /// The same for a client in another namespace. A record there may be of an older connection with the same numbers, so
    /// the socket must be open still.
    pub fn look_next_door(
        &self,
        process: &LocalProcess,
        peer: SocketAddr,
        original_dst: SocketAddr,
    ) -> Client {
        self.look_at(process, peer, original_dst, true).as_neighbour()
    }

    fn look_at(
        &self,
        process: &LocalProcess,
        peer: SocketAddr,
        original_dst: SocketAddr,
        must_be_open: bool,
    ) -> Client {
        let inode = match self.sockets.end(peer, original_dst) {
            Ok(End::Open { cookie, inode, .. }) if cookie == process.cookie => Some(inode),
            Ok(End::Gone) if must_be_open => return Client::UnknownLocal,
            Ok(End::Gone) => None,
            Ok(End::Open { .. }) => {
                tracing::warn!(%peer, pid = process.pid, "the client's socket is not the one that the kernel recorded");
                return Client::UnknownLocal;
            }
            Err(error) => {
                tracing::warn!(%peer, pid = process.pid, %error, "cannot ask for the client's socket");
                return Client::UnknownLocal;
            }
        };
        let evidence = self.processes.evidence(process, inode);
        let executable = evidence.running.as_ref().and_then(|running| running.executable.as_ref());
        match executable.and_then(|executable| relay::named(&executable.path)) {
            Some(name) => Client::Relay { name, evidence },
            None => Client::Process(evidence),
        }
    }

    /// The user and the cgroup of the listener that took the connection from `client` to `server`, both in this namespace.
    /// `None`: its handshake is under way yet.
    pub(super) fn listener_of(
        &self,
        server: SocketAddr,
        client: SocketAddr,
    ) -> io::Result<Option<(u32, Option<u64>)>> {
        match self.sockets.end(server, client)? {
            End::Open { uid, cgroup, is_established: true, .. } => Ok(Some((uid, cgroup))),
            End::Open { .. } | End::Gone => Ok(None),
        }
    }

    /// SHA-256 of the executable that `evidence` names. May read all of it: not for async threads.
    pub fn digest(&self, evidence: &Evidence) -> Result<FileDigest, DigestError> {
        let running = evidence.running.as_ref().ok_or(DigestError::Gone)?;
        let executable = running.executable.as_ref().ok_or(DigestError::Gone)?;
        let living = Living::open(evidence.process.pid).map_err(|_ended| DigestError::Gone)?;
        if living.started != running.started_milliseconds {
            return Err(DigestError::Gone);
        }
        let digest = self.processes.digests.of(&living, executable.file)?;
        if living.is_alive() { Ok(digest) } else { Err(DigestError::Gone) }
    }
}

fn is_initial() -> bool {
    use std::os::unix::fs::MetadataExt;
    INITIAL.iter().all(|(kind, inode)| {
        // A kernel without that kind of namespace has one for all.
        std::fs::metadata(format!("/proc/self/ns/{kind}")).map_or(true, |meta| meta.ino() == *inode)
    })
}
