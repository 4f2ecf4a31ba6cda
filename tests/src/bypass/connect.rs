//! Connections with unusual sockets.

use std::io::{self, Write};
use std::mem::{offset_of, size_of};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use nix::libc;
use serde_json::{Value, json};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::checked;
use crate::probe::answer;

const CONNECT_LIMIT: Duration = Duration::from_secs(5);
/// How long the addresses of a connection that ended may stay taken.
const FREE_LIMIT: Duration = Duration::from_secs(10);
/// `TCPI_OPT_SYN_DATA` of `include/uapi/linux/tcp.h`: the first packet's data was acknowledged.
const SYN_DATA: u8 = 32;

/// Of `include/uapi/linux/in.h`.
const IP_LOCAL_PORT_RANGE: libc::c_int = 51;

/// How to connect, word by word:
///
/// `mptcp`, `fastopen` (data in the first packet), `uring` and `uring-sqpoll` (`io_uring` instead of a system call),
/// `device=lo`, `mark=1`, `transparent`, `freebind`, `reuse` (address and port), `bind=ADDRESS:PORT`,
/// `ports=PORT` (the kernel's choice is this one alone), `times=N` (one after the other from the same port),
/// `patient` (waits until the addresses of an earlier connection are free again).
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one for each word of the command line")]
struct How {
    mptcp: bool,
    fast_open: bool,
    uring: bool,
    sqpoll: bool,
    device: Option<String>,
    mark: Option<u32>,
    transparent: bool,
    free_bind: bool,
    reuse: bool,
    patient: bool,
    bind: Option<SocketAddr>,
    ports: Option<u32>,
    times: u32,
}

impl How {
    fn of(words: &[&str]) -> anyhow::Result<Self> {
        let mut how = Self { times: 1, ..Self::default() };
        for word in words {
            match word.split_once('=').unwrap_or((word, "")) {
                ("mptcp", "") => how.mptcp = true,
                ("fastopen", "") => how.fast_open = true,
                ("uring", "") => how.uring = true,
                ("uring-sqpoll", "") => (how.uring, how.sqpoll) = (true, true),
                ("device", name) => how.device = Some(name.to_owned()),
                ("mark", mark) => how.mark = Some(mark.parse()?),
                ("transparent", "") => how.transparent = true,
                ("freebind", "") => how.free_bind = true,
                ("reuse", "") => how.reuse = true,
                ("patient", "") => how.patient = true,
                ("bind", address) => how.bind = Some(address.parse()?),
                ("ports", port) => how.ports = Some(port.parse()?),
                ("times", times) => how.times = times.parse()?,
                other => bail!("no way to connect: {other:?}"),
            }
        }
        Ok(how)
    }
}

/// Connects so and says who answered.
pub fn run(target: &str, words: &[&str]) -> anyhow::Result<Value> {
    let target: SocketAddr = target.parse().with_context(|| format!("{target} is no address"))?;
    let how = How::of(words)?;
    let mut met = Value::Null;
    for _ in 0..how.times {
        met = once(target, &how);
        met["client_pid"] = json!(std::process::id());
        if met["server"] == true {
            break;
        }
    }
    Ok(met)
}

fn once(target: SocketAddr, how: &How) -> Value {
    let end = Instant::now() + FREE_LIMIT;
    let attempt = || open(target, how).and_then(|socket| connect(&socket, target, how).map(|()| socket));
    let mut met = attempt();
    let is_taken = |met: &io::Result<Socket>| {
        met.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrNotAvailable)
    };
    while how.patient && is_taken(&met) && Instant::now() < end {
        thread::sleep(Duration::from_millis(20));
        met = attempt();
    }
    match met {
        Ok(socket) => {
            let stream = TcpStream::from(socket);
            let mut met = answer(&stream);
            if how.fast_open {
                met["syn_data"] = json!(syn_data(&stream).unwrap_or(false));
            }
            met
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => json!({"refused": true}),
        Err(error) => json!({"error": error.to_string()}),
    }
}

fn open(target: SocketAddr, how: &How) -> io::Result<Socket> {
    let protocol = if how.mptcp { Protocol::MPTCP } else { Protocol::TCP };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, Some(protocol))?;
    if how.reuse {
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
    }
    if let Some(device) = &how.device {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    if let Some(mark) = how.mark {
        socket.set_mark(mark)?;
    }
    if how.transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    if how.free_bind {
        socket.set_freebind_v4(true)?;
    }
    if let Some(port) = how.ports {
        let range = port << 16 | port;
        let length = libc::socklen_t::try_from(size_of::<u32>()).expect("a small number");
        // SAFETY: `range` is a number of the stated size.
        checked(unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::IPPROTO_IP,
                IP_LOCAL_PORT_RANGE,
                (&raw const range).cast(),
                length,
            )
        })?;
    }
    if let Some(address) = how.bind {
        socket.bind(&address.into())?;
    }
    Ok(socket)
}

fn connect(socket: &Socket, target: SocketAddr, how: &How) -> io::Result<()> {
    let address = SockAddr::from(target);
    if how.fast_open {
        return fast_open(socket, &address);
    }
    if how.uring {
        return uring(socket, &address, how.sqpoll);
    }
    socket.connect_timeout(&address, CONNECT_LIMIT)
}

/// `connect` and `send` in one call; with the namespace's `tcp_fastopen` at 0x607, the SYN has the data.
fn fast_open(socket: &Socket, address: &SockAddr) -> io::Result<()> {
    let data = b"early\n";
    // SAFETY: both pointers are good for the lengths beside them.
    let sent = unsafe {
        libc::sendto(
            socket.as_raw_fd(),
            data.as_ptr().cast(),
            data.len(),
            libc::MSG_FASTOPEN,
            address.as_ptr().cast(),
            address.len(),
        )
    };
    if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Whether the other side took the data of the first packet.
fn syn_data(stream: &TcpStream) -> io::Result<bool> {
    let mut info = [0_u8; size_of::<libc::tcp_info>()];
    let mut length = libc::socklen_t::try_from(info.len()).expect("a small structure");
    // SAFETY: the kernel writes at most `length` bytes into `info`.
    checked(unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    })?;
    Ok(info[offset_of!(libc::tcp_info, tcpi_options)] & SYN_DATA != 0)
}

fn uring(socket: &Socket, address: &SockAddr, sqpoll: bool) -> io::Result<()> {
    let mut builder = io_uring::IoUring::builder();
    if sqpoll {
        builder.setup_sqpoll(1000);
    }
    let mut ring: io_uring::IoUring = builder.build(4)?;
    let fd = io_uring::types::Fd(socket.as_raw_fd());
    let entry = io_uring::opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
    // SAFETY: the socket and the address outlive the wait for the entry's completion below.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let done = ring.completion().next().ok_or_else(|| io::Error::other("no completion"))?;
    if done.result() < 0 { Err(io::Error::from_raw_os_error(-done.result())) } else { Ok(()) }
}

/// A connection that waits: `say` sends a line, `read` says what came or how it ended.
pub fn keep(target: &str, words: &[&str]) -> anyhow::Result<()> {
    let target: SocketAddr = target.parse()?;
    let socket = open(target, &How::of(words)?)?;
    socket.connect_timeout(&target.into(), CONNECT_LIMIT)?;
    let mut stream = TcpStream::from(socket);
    super::attacker_loop(&json!({"ready": true, "client": stream.local_addr()?}), |words| match words {
        ["answer"] => answer(&stream),
        ["say", text] => match stream.write_all(format!("{text}\n").as_bytes()) {
            Ok(()) => json!({"said": true}),
            Err(error) => json!({"error": error.to_string()}),
        },
        other => json!({"error": format!("no such command: {other:?}")}),
    })
}

/// A descriptor that a raw call returned.
pub(super) fn owned(fd: libc::c_int) -> io::Result<OwnedFd> {
    let fd = checked(fd)?;
    // SAFETY: the call that made it succeeded, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
