//! Taking a connection out of another process.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::Duration;

use nix::libc;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use serde_json::{Value, json};

use super::connect::owned;
use crate::probe::who;

/// Descriptors that are tried; the victims of the tests have fewer.
const DESCRIPTORS_MAX: i32 = 128;

/// Tries every way into the process: its descriptors, its memory, a debugger, a signal. `server`: a stolen connection leads to
/// an echoing server.
pub fn run(pid: i32) -> anyhow::Result<Value> {
    let stolen = descriptors(pid);
    let talks = stolen.iter().flatten().any(|number| *number);
    // SAFETY: without options, PTRACE_SEIZE reads and writes no memory of ours, and stops nobody.
    let ptrace = unsafe { libc::ptrace(libc::PTRACE_SEIZE, pid, 0, 0) } == 0;
    let proc = format!("/proc/{pid}");
    Ok(json!({
        "server": talks,
        "descriptors": stolen.as_ref().map_or(0, Vec::len),
        "ptrace": ptrace,
        "memory": fs::File::open(format!("{proc}/mem")).is_ok(),
        "links": fs::read_link(format!("{proc}/fd/0")).is_ok(),
        "signal": kill(Pid::from_raw(pid), None).is_ok(),
        "error": stolen.err().map(|error| error.to_string()),
    }))
}

/// For each descriptor that could be taken, whether an echoing server is behind it.
fn descriptors(pid: i32) -> io::Result<Vec<bool>> {
    // SAFETY: both calls take numbers alone.
    let call = |number, first: i32, second: i32| unsafe { libc::syscall(number, first, second, 0) };
    let process = owned(libc::c_int::try_from(call(libc::SYS_pidfd_open, pid, 0)).expect("a descriptor"))?;
    let mut all = Vec::new();
    let mut denied = None;
    for number in 0..DESCRIPTORS_MAX {
        let fd = call(libc::SYS_pidfd_getfd, process.as_raw_fd(), number);
        match owned(libc::c_int::try_from(fd).expect("a descriptor")) {
            Ok(fd) => all.push(echoes(TcpStream::from(fd)).unwrap_or(false)),
            Err(error) if error.raw_os_error() == Some(libc::EBADF) => {}
            Err(error) => denied = Some(error),
        }
    }
    match denied {
        Some(error) if all.is_empty() => Err(error),
        _ => Ok(all),
    }
}

fn echoes(mut stream: TcpStream) -> io::Result<bool> {
    // An error: no connection.
    stream.peer_addr()?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    stream.write_all(b"server\n")?;
    // Its greeting, if nobody has read it yet, or the echo.
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(who(&line)["server"] == true)
}
