//! Which process holds a socket, and a handle of that very socket.

use std::collections::BTreeMap;
use std::os::fd::{OwnedFd, RawFd};
use std::sync::Once;
use std::{fs, iter};

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::net::sockopt::socket_cookie;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use sha2::{Digest, Sha256};
use socket2::{Protocol, SockRef};

/// Open files of one user's processes that a look goes through.
const LINKS_OF_USER_MAX: usize = 262_144;
/// The same of all users: some seconds.
const LINKS_MAX: usize = 1_048_576;
/// That these were too many is told once.
static TOLD: Once = Once::new();

/// A process that holds a listening socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Process {
    pub pid: u32,
    /// The number under which it holds the socket.
    fd: RawFd,
    /// Chosen by the process; without control characters, since it is shown to operators.
    pub comm: String,
    /// cgroup2 path, as `/proc/<pid>/cgroup` gives it.
    pub cgroup: String,
}

impl Process {
    pub(super) fn cgroup_digest(&self) -> [u8; 32] {
        Sha256::digest(self.cgroup.as_bytes()).into()
    }
}

/// The process for each of these socket inodes. With socket activation init holds the socket too; the service wins.
pub(super) fn of_sockets(inodes: impl IntoIterator<Item = u32>) -> BTreeMap<u32, Process> {
    among(inodes, pids())
}

/// The same, looking at these processes only.
pub(super) fn among(
    inodes: impl IntoIterator<Item = u32>,
    pids: impl IntoIterator<Item = u32>,
) -> BTreeMap<u32, Process> {
    let wanted: BTreeMap<String, u32> =
        inodes.into_iter().filter(|inode| *inode != 0).map(|inode| (link(inode), inode)).collect();
    if wanted.is_empty() {
        return BTreeMap::new();
    }
    let mut holders: BTreeMap<u32, (u32, RawFd)> = BTreeMap::new();
    let mut room = Room::default();
    for pid in pids {
        let user = user(pid);
        for (fd, target) in links(pid).take(room.left(user)) {
            room.take(user);
            if let Some(inode) = wanted.get(&target) {
                let holder = holders.entry(*inode).or_insert((pid, fd));
                if holder.0 == 1 {
                    *holder = (pid, fd);
                }
            }
        }
    }
    holders.into_iter().filter_map(|(inode, (pid, fd))| Some((inode, process(pid, fd)?))).collect()
}

/// How many more open files a look goes through. Processes may share a table of a million files, so that each of them has
/// them all: whose user has too many is not found, and a listener without a process stays closed.
struct Room {
    all: usize,
    by_user: BTreeMap<u32, usize>,
}

impl Default for Room {
    fn default() -> Self {
        Self { all: LINKS_MAX, by_user: BTreeMap::new() }
    }
}

impl Room {
    fn left(&mut self, user: u32) -> usize {
        let left = (*self.by_user.entry(user).or_insert(LINKS_OF_USER_MAX)).min(self.all);
        if left == 0 {
            TOLD.call_once(|| {
                tracing::warn!(
                    uid = user,
                    "a user has so many open files that not all are looked at for listeners; `ls /proc/*/fd | wc -l` as that user \
                     shows them"
                );
            });
        }
        left
    }

    fn take(&mut self, user: u32) {
        self.all = self.all.saturating_sub(1);
        self.by_user.entry(user).and_modify(|left| *left = left.saturating_sub(1));
    }
}

/// The user of a process by its own word: its files in /proc belong to root when it does not want to be looked at.
fn user(pid: u32) -> u32 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().next()?.parse().ok()).unwrap_or(u32::MAX)
}

/// Whether the process holds the socket.
pub(super) fn holds(pid: u32, inode: u32) -> bool {
    inode != 0 && links(pid).any(|(_, target)| target == link(inode))
}

/// A handle of a listening socket.
#[derive(Debug)]
pub(super) enum Borrowed {
    /// The very socket that was asked for.
    Plain(OwnedFd),
    /// A Multipath TCP socket, around the TCP socket that was asked for.
    Multipath(OwnedFd),
}

impl Borrowed {
    pub(super) fn fd(&self) -> &OwnedFd {
        match self {
            Self::Plain(fd) | Self::Multipath(fd) => fd,
        }
    }
}

/// A duplicate of the process's socket with this inode; fails unless it has this cookie or speaks Multipath TCP.
pub(super) fn borrow_socket(holder: &Process, inode: u32, cookie: u64) -> anyhow::Result<Borrowed> {
    let pid = holder.pid;
    let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).context("not a pid")?;
    let process = pidfd_open(raw, PidfdFlags::empty()).with_context(|| format!("cannot open pid {pid}"))?;
    // It may have been closed under this number and live on under another.
    let others =
        links(pid).filter(|(fd, target)| *fd != holder.fd && *target == link(inode)).map(|(fd, _)| fd);
    for fd in iter::once(holder.fd).chain(others) {
        let socket = match pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()) {
            Err(Errno::BADF) => continue,
            taken => taken.with_context(|| {
                format!("cannot take a handle of the socket of pid {pid} (CAP_SYS_PTRACE is needed)")
            })?,
        };
        if socket_cookie(&socket).ok() == Some(cookie) {
            return Ok(Borrowed::Plain(socket));
        }
        // What is listed is the TCP socket inside of it, which has another cookie and no file.
        if SockRef::from(&socket).protocol().ok().flatten() == Some(Protocol::MPTCP) {
            return Ok(Borrowed::Multipath(socket));
        }
    }
    bail!("pid {pid} does not hold it any more")
}

fn process(pid: u32, fd: RawFd) -> Option<Process> {
    let comm = fs::read(format!("/proc/{pid}/comm")).ok()?;
    let comm = String::from_utf8_lossy(&comm);
    Some(Process { pid, fd, comm: printable(comm.trim_end()), cgroup: cgroup_path(pid)? })
}

/// The cgroup2 path of a process, counted from the root.
pub(super) fn cgroup_path(pid: u32) -> Option<String> {
    let cgroups = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroups.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// Escapes what could move a terminal's cursor or reorder its text.
pub(super) fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

fn link(inode: u32) -> String {
    format!("socket:[{inode}]")
}

fn pids() -> impl Iterator<Item = u32> {
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// The open files of a process: number and link text. Empty if it is gone.
fn links(pid: u32) -> impl Iterator<Item = (RawFd, String)> {
    fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten().filter_map(|entry| {
        let fd = entry.file_name().to_str()?.parse().ok()?;
        let target = fs::read_link(entry.path()).ok()?;
        Some((fd, target.to_str()?.to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use socket2::{Domain, Socket, Type};

    use super::*;
    use crate::kernel::diag;

    #[test]
    fn a_socket_leads_to_its_process_and_to_a_handle_of_itself() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let cookie = socket_cookie(&listener).unwrap();
        let found = diag::listening().unwrap().into_iter().find(|socket| socket.cookie == cookie).unwrap();
        let process = of_sockets([found.inode]).remove(&found.inode).unwrap();
        assert_eq!(process.pid, std::process::id());
        assert!(holds(process.pid, found.inode));
        let handle = borrow_socket(&process, found.inode, cookie).unwrap();
        assert!(matches!(&handle, Borrowed::Plain(fd) if socket_cookie(fd).unwrap() == cookie));
        assert!(borrow_socket(&process, found.inode, cookie + 1).is_err());
    }

    #[test]
    fn one_users_open_files_leave_room_for_others() {
        let mut room = Room::default();
        let (greedy, other) = (1, 2);
        for _ in 0..room.left(greedy) {
            room.take(greedy);
        }
        assert_eq!((room.left(greedy), room.left(other)), (0, LINKS_OF_USER_MAX));
        // Many users together have no more than there is.
        room.all = 5;
        assert_eq!(room.left(other), 5);
    }

    #[test]
    fn a_process_that_does_not_want_to_be_looked_at_counts_for_its_user() {
        assert_eq!(user(std::process::id()), nix::unistd::getuid().as_raw());
        assert_eq!(user(u32::MAX), u32::MAX, "there is none");
    }

    #[test]
    fn a_process_cannot_write_to_the_terminal_by_its_name() {
        let name = "a\u{1b}[2J\u{9b}\n\u{202e}";
        let shown = std::thread::spawn(move || {
            fs::write("/proc/thread-self/comm", name).unwrap();
            process(rustix::thread::gettid().as_raw_nonzero().get().unsigned_abs(), 0).unwrap().comm
        });
        let shown = shown.join().unwrap();
        assert!(shown.starts_with("a\\u{1b}[2J") && !shown.contains(char::is_control), "{shown:?}");
    }

    #[test]
    fn a_multipath_listener_is_known_for_one() {
        let Ok(listener) = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) else {
            return; // This kernel has none, so no server can have one.
        };
        listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        listener.listen(1).unwrap();
        let port = listener.local_addr().unwrap().as_socket().unwrap().port();
        let found =
            diag::listening().unwrap().into_iter().find(|socket| socket.local.port() == port).unwrap();
        let process = of_sockets([found.inode]).remove(&found.inode).unwrap();
        let borrowed = borrow_socket(&process, found.inode, found.cookie).unwrap();
        assert!(matches!(borrowed, Borrowed::Multipath(_)), "{borrowed:?}");
    }
}
