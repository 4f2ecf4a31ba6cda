//! Attempts to reach the server past the guard, each from a process of its own that an ordinary user started.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use guard_tests::world::NOBODY;
use serde::{Deserialize, Serialize};

use crate::agent::finish;

/// The first argument of a process that tries.
const ARGUMENT: &str = "--bypass";
const PATIENCE: Duration = Duration::from_secs(10);

/// What such a process met.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct Met {
    pub(crate) pid: u32,
    /// The first line that came.
    pub(crate) answer: Option<String>,
    /// The error's symbol, such as `ECONNREFUSED`, or its text.
    pub(crate) error: Option<String>,
    pub(crate) micros: u64,
}

/// Runs as such a process if this is one.
pub(crate) fn child_main() -> Option<ExitCode> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, flag, kind, address] = arguments.as_slice() else { return None };
    if flag != ARGUMENT {
        return None;
    }
    let start = Instant::now();
    let result = match (kind.as_str(), address.parse()) {
        ("tcp", Ok(address)) => plain_http(address),
        ("udp", Ok(address)) => datagram(address),
        _ => return Some(ExitCode::FAILURE),
    };
    let mut met = Met { pid: std::process::id(), ..Met::default() };
    met.micros = start.elapsed().as_micros().try_into().unwrap_or(u64::MAX);
    match result {
        Ok(answer) => met.answer = Some(answer),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            met.error = Some("ECONNREFUSED".into());
        }
        Err(error) => met.error = Some(error.to_string()),
    }
    println!("{}", serde_json::to_string(&met).ok()?);
    Some(ExitCode::SUCCESS)
}

/// Starts such a process as an ordinary user; `kind` is `tcp` or `udp`.
pub(crate) fn attempt(kind: &str, address: SocketAddr) -> anyhow::Result<Met> {
    // By this name, the user needs no way through the folders above this program.
    let mut command = Command::new("/proc/self/exe");
    command.args([ARGUMENT, kind, &address.to_string()]).uid(NOBODY).gid(NOBODY).current_dir("/");
    let (_, out, complaint) = finish(command)?;
    serde_json::from_str(&out).with_context(|| format!("the attempt at {address} failed: {complaint}"))
}

fn plain_http(address: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    write!(stream, "GET /mcp HTTP/1.1\r\nHost: {address}\r\nAccept: text/event-stream\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

fn datagram(address: SocketAddr) -> io::Result<String> {
    let socket = UdpSocket::bind((address.ip(), 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(address)?;
    socket.send(b"hello")?;
    let mut bytes = [0; 64];
    let length = socket.recv(&mut bytes)?;
    Ok(format!("{length} bytes"))
}
