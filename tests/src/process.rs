//! Child processes that never outlive their test.

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::netns::spawn_in;

/// How long a program may take to start on a busy machine.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// How often a condition is looked at again.
const POLL: Duration = Duration::from_millis(20);

/// Copies a program, to be run from there. By a process of its own: a file that this one writes may still be open in
/// what another test's thread starts at this moment, and the kernel runs no such file.
pub fn copy_program(from: &Path, to: &Path) -> anyhow::Result<()> {
    let status = Command::new("cp").arg(from).arg(to).status().context("cp does not run")?;
    anyhow::ensure!(status.success(), "{} cannot be copied to {}", from.display(), to.display());
    Ok(())
}

/// A program of this workspace: in `MCP_GUARD_BIN_DIR`, or where this test was built.
pub fn program(name: &str) -> anyhow::Result<PathBuf> {
    let dir = if let Some(dir) = std::env::var_os("MCP_GUARD_BIN_DIR") {
        PathBuf::from(dir)
    } else {
        let own = std::env::current_exe()?;
        let dir = own.parent().context("the test has no folder")?;
        if dir.ends_with("deps") { dir.parent().unwrap_or(dir).to_owned() } else { dir.to_owned() }
    };
    let file = dir.join(name);
    anyhow::ensure!(
        file.is_file(),
        "{} is not built: run `cargo build --workspace`, or set MCP_GUARD_BIN_DIR",
        file.display()
    );
    Ok(file)
}

/// A running child. Dropping it kills it, by its pid, and waits for its end.
#[derive(Debug)]
pub struct Process {
    child: Child,
    name: String,
}

impl Process {
    pub fn spawn(netns: Option<&Path>, command: Command) -> anyhow::Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = spawn_in(netns, command).with_context(|| format!("cannot start {name}"))?;
        Ok(Self { child, name })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its stdin and stdout, once, if both are pipes.
    pub fn pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        self.child.stdin.take().zip(self.child.stdout.take())
    }

    /// Its stderr, once, if that is a pipe.
    pub fn errors(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    pub fn signal(&self, signal: Signal) -> io::Result<()> {
        kill_process(Pid::from_child(&self.child), signal)?;
        Ok(())
    }

    /// Its status if it has ended.
    pub fn ended(&mut self) -> io::Result<Option<ExitStatus>> {
        self.child.try_wait()
    }

    /// Waits for its end; an error if it still runs after `limit`.
    pub fn wait_for_end(&mut self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let status = eventually(limit, || Ok(self.child.try_wait()?))?;
        status.with_context(|| format!("{} still runs after {limit:?}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks `look` again and again until it has something, or until `limit` is over.
pub fn eventually<T>(
    limit: Duration,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<Option<T>> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = look()? {
            return Ok(Some(found));
        }
        if Instant::now() >= end {
            return Ok(None);
        }
        thread::sleep(POLL);
    }
}

/// One of this package's servers, running.
#[derive(Debug)]
pub struct Fixture {
    pub process: Process,
    pub address: SocketAddr,
}

impl Fixture {
    /// Starts the program `name` with `--listen ADDRESS` and waits until it listens. Port 0 takes a free port.
    pub fn start(
        name: &str,
        netns: Option<&Path>,
        listen: SocketAddr,
        arguments: &[&str],
    ) -> anyhow::Result<Self> {
        let mut command = Command::new(program(name)?);
        command.args(["--listen", &listen.to_string()]).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = Process::spawn(netns, command)?;
        let stdout = process.child.stdout.take().context("stdout is a pipe")?;
        let line = first_line(stdout, START_LIMIT)?;
        let Some(address) = line.trim().strip_prefix("listening on ") else {
            bail!("{name} said {line:?} instead of where it listens");
        };
        Ok(Self { process, address: address.parse()? })
    }

    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

/// The first line of `output`; the rest is read and dropped, so that the writer never waits.
fn first_line(output: impl Read + Send + 'static, limit: Duration) -> anyhow::Result<String> {
    let (send, receive) = mpsc::channel();
    thread::spawn(move || {
        let mut lines = BufReader::new(output).lines();
        // The test may be over; then nobody wants the line.
        let _ = send.send(lines.next());
        lines.for_each(drop);
    });
    let line = receive.recv_timeout(limit).context("the program said nothing in time")?;
    Ok(line.context("the program ended without a word")??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropping_a_process_ends_it() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let process = Process::spawn(None, command).unwrap();
        let entry = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(entry.exists());
        drop(process);
        assert!(!entry.exists());
    }

    #[test]
    fn a_process_that_goes_on_is_told_from_one_that_ended() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let mut process = Process::spawn(None, command).unwrap();
        assert!(process.wait_for_end(Duration::ZERO).is_err());
        process.signal(Signal::TERM).unwrap();
        assert!(!process.wait_for_end(START_LIMIT).unwrap().success());
    }
}
