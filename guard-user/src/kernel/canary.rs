//! The canary: a child process that is nobody to the guard and tries to reach the protected ports.
//!
//! It runs outside of the guard's cgroup, as an ordinary user. The acceptor knows it by the process id that the
//! kernel noted and answers with a nonce, which the canary cannot know otherwise.

use std::collections::HashSet;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::Context;
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use serde::{Deserialize, Serialize};

use super::maps::lock;

/// The hidden argument under which a binary must call [`child_main`], before it reads its command line.
pub const ARGUMENT: &str = "__canary";
/// Bytes that only the guard's answer holds.
pub const NONCE_BYTES: usize = 16;
/// The user as which the canary tries.
const NOBODY: u32 = 65_534;
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(2);

/// The canaries that are out, and their password.
#[derive(Debug)]
pub struct Canaries {
    nonce: [u8; NONCE_BYTES],
    pids: Mutex<HashSet<u32>>,
}

impl Canaries {
    pub fn new() -> io::Result<Self> {
        let mut nonce = [0; NONCE_BYTES];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut nonce)?;
        Ok(Self { nonce, pids: Mutex::default() })
    }

    pub fn nonce(&self) -> [u8; NONCE_BYTES] {
        self.nonce
    }

    pub fn knows(&self, pid: u32) -> bool {
        lock(&self.pids).contains(&pid)
    }
}

/// One thing to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Attempt {
    Tcp(SocketAddr),
    Udp(SocketAddr),
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The first bytes that the other side sent, in hex; empty: it closed.
    Answered(String),
    Failed(String),
    Refused,
}

/// Sends a canary out and waits for what it tells. `cgroup` is where it runs.
pub fn send_out(canaries: &Canaries, cgroup: &Path, attempts: &[Attempt]) -> anyhow::Result<Vec<Outcome>> {
    let mut child = Command::new("/proc/self/exe")
        .arg(ARGUMENT)
        // Nothing that was meant for the guard alone, such as the service manager's socket.
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot start the canary")?;
    let pid = child.id();
    lock(&canaries.pids).insert(pid);
    let result = converse(&mut child, cgroup, attempts);
    // It may have ended already; waiting is what matters.
    let _ended = child.kill();
    // Before its pid can be another process's.
    lock(&canaries.pids).remove(&pid);
    let _status = child.wait();
    result
}

fn converse(child: &mut Child, cgroup: &Path, attempts: &[Attempt]) -> anyhow::Result<Vec<Outcome>> {
    let procs = cgroup.join("cgroup.procs");
    std::fs::write(&procs, child.id().to_string())
        .with_context(|| format!("cannot move the canary to {}", procs.display()))?;
    let mut input = child.stdin.take().context("the canary has no input")?;
    serde_json::to_writer(&mut input, attempts)?;
    input.write_all(b"\n")?;
    drop(input);
    let output = child.stdout.take().context("the canary has no output")?;
    serde_json::from_reader(output).context("the canary died; does the binary call `canary::child_main`?")
}

/// The canary's whole life: reads what to try from its input, becomes nobody, tries, tells.
pub fn child_main() -> ExitCode {
    match child() {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

fn child() -> anyhow::Result<()> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    let attempts: Vec<Attempt> = serde_json::from_str(&line)?;
    if Uid::effective().is_root() {
        setgroups(&[])?;
        setgid(Gid::from_raw(NOBODY))?;
        setuid(Uid::from_raw(NOBODY))?;
    }
    let outcomes: Vec<Outcome> = attempts.into_iter().map(attempt).collect();
    serde_json::to_writer(io::stdout(), &outcomes)?;
    Ok(())
}

fn attempt(attempt: Attempt) -> Outcome {
    let result = match attempt {
        Attempt::Tcp(target) => tcp(target),
        Attempt::Udp(target) => udp(target),
    };
    match result {
        Ok(bytes) => Outcome::Answered(hex::encode(bytes)),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => Outcome::Refused,
        Err(error) => Outcome::Failed(error.to_string()),
    }
}

fn tcp(target: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect_timeout(&target, ATTEMPT)?;
    stream.set_read_timeout(Some(ATTEMPT))?;
    let mut bytes = vec![0; NONCE_BYTES];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest)? {
            0 => break,
            more => filled += more,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

fn udp(target: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr =
        if target.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(ATTEMPT))?;
    socket.connect(target)?;
    socket.send(b"canary")?;
    let mut bytes = vec![0; NONCE_BYTES];
    let read = socket.recv(&mut bytes)?;
    bytes.truncate(read);
    Ok(bytes)
}
