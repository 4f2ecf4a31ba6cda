//! What can be seen only by doing it, done in namespaces of the probe's own: attaching, mounting, ending a connection.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::path::Path;
use std::time::Duration;

use aya::sys::NetlinkError;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags};
use socket2::{Domain, Protocol, Socket, Type};

use super::bpf::{self, Kind};
use super::host::{CGROUP2, mounts};
use super::{Outcome, Row};
use crate::kernel::host::{is_in_hosts_mounts, is_whole_tree};

pub(super) fn rows() -> Vec<Row> {
    // A thread of its own: its namespaces end with it, and the rest of the process stays where it was.
    let mut rows = std::thread::spawn(in_namespaces).join().unwrap_or_default();
    rows.extend(cgroups());
    rows.push(Row::needed(
        "taking hold of another process's socket (pidfd_getfd)",
        pidfd_getfd(),
        "the guard cannot pin a server's socket; give it CAP_SYS_PTRACE, and look at kernel.yama.ptrace_scope (3 forbids)",
    ));
    rows
}

fn in_namespaces() -> Vec<Row> {
    let own = unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS).map_err(io::Error::from);
    let then = |probe: fn() -> Outcome| match &own {
        Ok(()) => probe(),
        Err(error) => Outcome::refused("making namespaces for the probe", error),
    };
    vec![
        Row::needed(
            "attaching sk_lookup to a network namespace",
            then(attach_sk_lookup),
            "no port can be steered to the guard; use a kernel with CONFIG_INET and BPF links (5.9 or later)",
        ),
        Row::needed(
            "network namespace cookie of a socket",
            then(netns_cookie),
            "flows of different network namespaces cannot be told apart; use a kernel from 5.14 on",
        ),
        Row::useful(
            "ending a connection (SOCK_DESTROY)",
            then(sock_destroy),
            "the guard does not start while connections older than it are open; stop the server, start the guard, then the \
             server (kernel option CONFIG_INET_DIAG_DESTROY)",
        ),
        Row::needed(
            "bpffs",
            then(bpffs),
            "the port would open when the guard dies; load the kernel with CONFIG_BPF_SYSCALL, or mount bpffs by hand",
        ),
    ]
}

fn attach_sk_lookup() -> Outcome {
    let attached = bpf::load(bpf::SK_LOOKUP).and_then(|program| {
        let netns = File::open("/proc/thread-self/ns/net")?;
        bpf::attach(program, bpf::SK_LOOKUP, netns)
    });
    match attached {
        Ok(_) => Outcome::yes("attached in a namespace of the probe's own"),
        Err(error) => Outcome::refused("attaching", &error),
    }
}

fn netns_cookie() -> Outcome {
    let cookie = Socket::new(Domain::IPV4, Type::STREAM, None).and_then(bpf::netns_cookie);
    match cookie {
        Ok(cookie) => Outcome::yes(format!("SO_NETNS_COOKIE answers ({cookie} in the probe's namespace)")),
        Err(error) => Outcome::refused("SO_NETNS_COOKIE", &error),
    }
}

fn bpffs() -> Outcome {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(place) = mounts(&table, "bpf").first() {
        return Outcome::yes(format!("mounted at {}", place.point.display()));
    }
    if !is_in_hosts_mounts() {
        return Outcome::no("not mounted, and what this process mounts would end with its mount namespace");
    }
    let tried = tempfile::tempdir().and_then(|dir| {
        // In the probe's own mount namespace, and not passed on from it.
        mount(None::<&Path>, "/", None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&Path>)?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&Path>)?;
        nix::mount::umount(dir.path())?;
        Ok(())
    });
    match tried {
        Ok(()) => Outcome::yes("not mounted; the guard mounts it at its start"),
        Err(error) => Outcome::refused("mounting it", &error),
    }
}

fn sock_destroy() -> Outcome {
    match destroyed_connection() {
        Ok(Err(end)) if end.kind() == io::ErrorKind::ConnectionAborted => {
            Outcome::yes("ended a connection of the probe's own")
        }
        Ok(after) => Outcome::no(format!("the kernel agreed, but the connection goes on: {after:?}")),
        Err(error) => Outcome::refused("ending a connection of the probe's own", &error),
    }
}

/// Connects to itself, has the client's end destroyed, and returns what reading from it then says.
fn destroyed_connection() -> io::Result<io::Result<usize>> {
    loopback_up()?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let mut client = TcpStream::connect(listener.local_addr()?)?;
    let (_server, _) = listener.accept()?;
    let (SocketAddr::V4(local), SocketAddr::V4(remote)) = (client.local_addr()?, client.peer_addr()?) else {
        return Err(io::ErrorKind::AddrNotAvailable.into());
    };
    send_sock_destroy(local, remote)?;
    client.set_read_timeout(Some(Duration::from_secs(1)))?;
    Ok(client.read(&mut [0]))
}

/// Asks for the end of one TCP connection over netlink (`sock_diag(7)`).
fn send_sock_destroy(local: SocketAddrV4, remote: SocketAddrV4) -> io::Result<()> {
    const AF_NETLINK: i32 = 16;
    const NETLINK_SOCK_DIAG: i32 = 4;
    let mut message = Vec::with_capacity(72);
    // struct nlmsghdr: length, type SOCK_DESTROY, flags REQUEST | ACK, sequence, port.
    message.extend(72_u32.to_ne_bytes());
    message.extend(21_u16.to_ne_bytes());
    message.extend(5_u16.to_ne_bytes());
    message.extend([0; 8]);
    // struct inet_diag_req_v2: AF_INET, IPPROTO_TCP, no extensions, any state.
    message.extend([2, 6, 0, 0]);
    message.extend(u32::MAX.to_ne_bytes());
    message.extend(local.port().to_be_bytes());
    message.extend(remote.port().to_be_bytes());
    for address in [local, remote] {
        message.extend(address.ip().octets());
        message.extend([0; 12]);
    }
    // Any interface, any cookie.
    message.extend(0_u32.to_ne_bytes());
    message.extend([0xff; 8]);

    let socket = Socket::new(Domain::from(AF_NETLINK), Type::DGRAM, Some(Protocol::from(NETLINK_SOCK_DIAG)))?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.send(&message)?;
    let mut answer = [0; 128];
    let length = (&socket).read(&mut answer)?;
    // struct nlmsgerr: after the header, minus the error's number or zero.
    let code = answer.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.saturating_neg())),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// A new network namespace has only `lo`, and it is down.
#[expect(unsafe_code, reason = "the library marks this call unsafe")]
fn loopback_up() -> io::Result<()> {
    // SAFETY: it takes no pointer; the library marks its netlink calls so for their history.
    unsafe { aya::sys::netlink_set_link_up(1) }.map_err(|error: NetlinkError| io::Error::other(error))
}

fn cgroups() -> Vec<Row> {
    let table = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let found = mounts(&table, CGROUP2);
    let place = found.first();
    let mounted = match place {
        Some(place) if !is_whole_tree(&place.point).unwrap_or(true) => Outcome::no(format!(
            "what is mounted at {} is a cgroup namespace's part of the tree",
            place.point.display()
        )),
        Some(place) if place.root == "/" => Outcome::yes(format!("mounted at {}", place.point.display())),
        Some(place) => Outcome::no(format!(
            "mounted at {}, but only its part {}: processes outside of it would stay unnamed",
            place.point.display(),
            place.root
        )),
        None => Outcome::no("not mounted"),
    };
    let then = |probe: fn(&Path) -> Outcome| {
        place.map_or_else(|| Outcome::no("no cgroup2 to try it on"), |place| probe(&place.point))
    };
    vec![
        Row::needed(
            "cgroup2",
            mounted,
            "mount the whole of it: `mount -t cgroup2 none /sys/fs/cgroup/unified` (a directory of your choice)",
        ),
        Row::needed(
            "attaching to the guard's own cgroup",
            then(attach_to_child),
            "the guard's own connections cannot be told from others; run it where it may make cgroups",
        ),
        Row::needed(
            "attaching to the root cgroup",
            then(attach_to_root),
            "local clients stay unnamed; another program may hold the hook without sharing it (`bpftool cgroup tree`)",
        ),
    ]
}

const CGROUP_KINDS: [Kind; 3] = [bpf::CONNECT4, bpf::CONNECT6, bpf::SOCK_OPS];

fn attach_to_child(root: &Path) -> Outcome {
    let child = root.join(format!("mcp-guard-probe-{}", std::process::id()));
    if let Err(error) = fs::create_dir(&child) {
        return Outcome::refused("making a cgroup", &error);
    }
    let outcome = attach_all(&child);
    match fs::remove_dir(&child) {
        Ok(()) => outcome,
        Err(error) => {
            Outcome::partly(format!("the probe's cgroup {} cannot be removed: {error}", child.display()))
        }
    }
}

fn attach_to_root(root: &Path) -> Outcome {
    attach_all(root)
}

/// Programs that allow everything, for as long as this function runs.
fn attach_all(cgroup: &Path) -> Outcome {
    let attached = File::open(cgroup).and_then(|cgroup| {
        CGROUP_KINDS
            .into_iter()
            .map(|kind| bpf::attach(bpf::load(kind)?, kind, &cgroup))
            .collect::<io::Result<Vec<_>>>()
    });
    match attached {
        Ok(_) => Outcome::yes("connect4, connect6 and sock_ops attached"),
        Err(error) => Outcome::refused("attaching", &error),
    }
}

/// How many processes are asked for a descriptor.
const PROCESSES_ASKED_MAX: usize = 32;

/// Asks other processes for their descriptor 0. A copy is closed at once; nothing is read from it.
fn pidfd_getfd() -> Outcome {
    let (mut allowed, mut refused) = (0_usize, None);
    for pid in processes().take(PROCESSES_ASKED_MAX) {
        match copy_descriptor(pid) {
            Ok(()) => allowed += 1,
            Err(Errno::SRCH) => {}
            Err(error) => refused = Some((pid, error)),
        }
    }
    match refused {
        None => Outcome::yes(format!("{allowed} of {allowed} processes let it happen")),
        // Some processes are guarded from root too, such as a host's own init; the server's is asked when it matters.
        Some((pid, _)) if allowed > 0 && nix::unistd::geteuid().is_root() => {
            Outcome::yes(format!("{allowed} processes let it happen; not all do, such as {pid}"))
        }
        Some((pid, error)) => {
            Outcome::refused(&format!("copying a descriptor of process {pid}"), &error.into())
        }
    }
}

/// Programs that run here, without the kernel's own threads and without this process.
fn processes() -> impl Iterator<Item = Pid> {
    let own = rustix::process::getpid();
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let pid = Pid::from_raw(entry.file_name().to_str()?.parse().ok()?)?;
        let is_program = fs::read(entry.path().join("cmdline")).is_ok_and(|line| !line.is_empty());
        (is_program && pid != own).then_some(pid)
    })
}

fn copy_descriptor(pid: Pid) -> Result<(), Errno> {
    let pidfd = rustix::process::pidfd_open(pid, PidfdFlags::empty())?;
    match rustix::process::pidfd_getfd(pidfd, 0, PidfdGetfdFlags::empty()) {
        // Without a descriptor 0 it was allowed all the same.
        Ok(_) | Err(Errno::BADF) => Ok(()),
        Err(error) => Err(error),
    }
}
