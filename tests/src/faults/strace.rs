//! `strace` makes chosen system calls of a running program fail, wait or kill it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use rustix::process::Signal;

use crate::process::{Process, eventually};

/// How long it may take to attach, or to let go.
const LIMIT: Duration = Duration::from_secs(20);

/// How long it is asked to let go before it is made to.
const GOODBYE: Duration = Duration::from_secs(5);

/// Which threads it stops.
#[derive(Debug, Clone, Copy)]
pub enum Whom {
    /// One of them.
    Thread(u32),
    /// All of a process, also those that it starts.
    Process(u32),
}

/// A trace that goes on. Dropping it lets the program go.
#[derive(Debug)]
pub struct Strace {
    process: Process,
    log: PathBuf,
    _dir: tempfile::TempDir,
}

/// A system call that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub call: String,
    /// Whose it was; empty if only one is looked at. Injections count each thread's calls.
    pub thread: String,
    /// The line, as `strace` prints it.
    pub line: String,
    /// It was made to fail, or killed the program.
    pub is_struck: bool,
}

/// Whether there is an `strace` to use. With `GUARD_REQUIRE_PRIVILEGED` there must be.
///
/// # Panics
/// If there must be one and is none.
pub fn is_there() -> bool {
    let is_there = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    let is_there = is_there.is_ok_and(|status| status.success());
    assert!(
        is_there || std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(),
        "there is no strace; the package of that name has it"
    );
    if !is_there {
        println!("skipped: there is no strace; the package of that name has it");
    }
    is_there
}

impl Strace {
    /// Looks at the calls of `set` (such as `write,fdatasync`) on `paths`, or on any file if there are none, and does to them
    /// what `inject` says.
    pub fn attach(whom: Whom, set: &str, inject: Option<&str>, paths: &[PathBuf]) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        let log = dir.path().join("strace.log");
        let mut command = Command::new("strace");
        let id = match whom {
            Whom::Thread(id) => id,
            Whom::Process(id) => {
                command.arg("-f");
                id
            }
        };
        command.args(arguments(set, inject, &log, paths)).args(["-p", &id.to_string()]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut process = Process::spawn(None, command)?;
        let attached = eventually(LIMIT, || {
            ensure!(process.ended()?.is_none(), "strace ended at once: may it attach to {id}?");
            Ok(is_traced(id)?.then_some(()))
        })?;
        attached.context("strace does not attach")?;
        Ok(Self { process, log, _dir: dir })
    }

    /// Lets the program go on without it, and tells what it saw.
    pub fn detach(mut self) -> anyhow::Result<Vec<Seen>> {
        if self.process.ended()?.is_none() {
            self.process.signal(Signal::TERM)?;
            if self.process.wait_for_end(GOODBYE).is_err() {
                // It can wait for ever for a thread that dies just now. When it is gone, the kernel lets go of all others.
                self.process.signal(Signal::KILL)?;
                self.process.wait_for_end(LIMIT)?;
            }
        }
        self.seen()
    }

    /// What it has seen so far.
    pub fn seen(&self) -> anyhow::Result<Vec<Seen>> {
        Ok(seen(&fs::read_to_string(&self.log)?))
    }
}

/// A program that is started under `strace`, which writes to `log` and stays out of its way: the process is the program's own.
pub fn around(program: &Command, set: &str, inject: Option<&str>, log: &Path, paths: &[PathBuf]) -> Command {
    let mut command = Command::new("strace");
    command.args(["-D", "-f"]).args(arguments(set, inject, log, paths)).arg(program.get_program());
    command.args(program.get_args());
    for (name, value) in program.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

/// The system calls in a log of `strace`.
pub fn seen(log: &str) -> Vec<Seen> {
    let mut all: Vec<Seen> = Vec::new();
    // By thread, where its call is that another thread's came between.
    let mut unfinished = BTreeMap::new();
    for line in log.lines() {
        let (thread, rest) = split(line);
        if rest.starts_with("<... ") {
            if let Some(call) = unfinished.remove(thread).and_then(|at: usize| all.get_mut(at)) {
                call.line.push_str(rest);
                call.is_struck = is_struck(rest);
            }
        } else if let Some(call) = one(thread, rest) {
            if rest.ends_with("<unfinished ...>") {
                unfinished.insert(thread, all.len());
            }
            all.push(call);
        }
    }
    all
}

fn arguments(set: &str, inject: Option<&str>, log: &Path, paths: &[PathBuf]) -> Vec<String> {
    let mut arguments: Vec<String> = ["-q", "-y", "-s", "0", "-o"].map(str::to_owned).to_vec();
    arguments.extend([log.display().to_string(), "-e".into(), format!("trace={set}")]);
    arguments.extend(["-e".into(), "signal=none".into()]);
    if let Some(inject) = inject {
        arguments.extend(["-e".into(), format!("inject={inject}")]);
    }
    arguments.extend(paths.iter().flat_map(|path| ["-P".to_owned(), path.display().to_string()]));
    arguments
}

/// The thread's number, if it is there, and the rest.
fn split(line: &str) -> (&str, &str) {
    let rest = line.trim_start_matches(|c: char| c.is_ascii_digit() || c == ' ');
    (line.strip_suffix(rest).unwrap_or_default().trim(), rest)
}

fn is_struck(line: &str) -> bool {
    line.contains("(INJECTED)") || line.contains("= ?")
}

/// `write(7</a/b>, ""..., 724) = -1 EIO (Input/output error) (INJECTED)`
fn one(thread: &str, rest: &str) -> Option<Seen> {
    let (call, _) = rest.split_once('(')?;
    let is_call = !call.is_empty() && call.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
    let (call, thread) = (call.to_owned(), thread.to_owned());
    is_call.then(|| Seen { call, thread, line: rest.to_owned(), is_struck: is_struck(rest) })
}

fn is_traced(id: u32) -> anyhow::Result<bool> {
    let status = fs::read_to_string(format!("/proc/{id}/status"))?;
    let tracer = status.lines().find_map(|line| line.strip_prefix("TracerPid:"));
    Ok(tracer.is_some_and(|tracer| tracer.trim() != "0"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_strace_is_read_and_what_was_struck_is_known() {
        let log = "12  write(7</a/1.jsonl>, \"\"..., 724) = 724\n\
                   12  fdatasync(7</a/1.jsonl>) = -1 EIO (Input/output error) (INJECTED)\n\
                   12  +++ exited with 0 +++\n\
                   write(7</a/1.jsonl>, \"\"..., 724) = ?\n";
        let calls: Vec<_> = seen(log).into_iter().map(|seen| (seen.call, seen.is_struck)).collect();
        assert_eq!(calls, [("write".into(), false), ("fdatasync".into(), true), ("write".into(), true)]);
    }

    #[test]
    fn a_call_that_anothers_came_between_is_one() {
        let log = "12  openat(AT_FDCWD, \"/a\" <unfinished ...>\n\
                   13  write(7</a/1.jsonl>, \"\"..., 724) = 724\n\
                   12  <... openat resumed>, O_RDONLY) = -1 EIO (Input/output error) (INJECTED)\n\
                   13  fsync(7</a> <unfinished ...>\n\
                   13  <... fsync resumed>) = 0\n";
        let calls: Vec<_> = seen(log).into_iter().map(|seen| (seen.call, seen.is_struck)).collect();
        assert_eq!(calls, [("openat".into(), true), ("write".into(), false), ("fsync".into(), false)]);
    }

    #[test]
    fn a_call_of_another_program_is_made_to_fail() {
        if !is_there() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let (log, file) = (dir.path().join("log"), dir.path().join("file"));
        let mut program = Command::new("sh");
        program.arg("-c").arg(format!("echo a > {0}; rm {0}", file.display()));
        let paths = [file.clone()];
        let status = around(&program, "unlink,unlinkat", Some("unlink,unlinkat:error=EIO"), &log, &paths)
            .stderr(Stdio::null())
            .status()
            .unwrap();
        assert!(!status.success() && file.exists());
        let log =
            eventually(LIMIT, || Ok(fs::read_to_string(&log).ok().filter(|log| log.contains("INJECTED"))));
        assert!(seen(&log.unwrap().unwrap()).iter().any(|seen| seen.is_struck));
    }
}
