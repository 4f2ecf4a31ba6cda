//! A stand-in for the service manager: hears what a daemon tells by systemd's notify protocol.

use std::fs;
use std::io::{self, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::ensure;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// The first number of a descriptor that is passed.
const FIRST: i32 = 3;

/// A file descriptor that the daemon gave to be kept.
#[derive(Debug)]
pub struct Stored {
    pub name: String,
    pub fd: OwnedFd,
}

#[derive(Debug)]
pub struct Manager {
    socket: UnixDatagram,
    path: PathBuf,
    /// Everything that was told so far, a line each.
    pub told: Vec<(Instant, String)>,
    pub stored: Vec<Stored>,
}

impl Manager {
    /// Listens in `dir`.
    pub fn new(dir: &Path) -> anyhow::Result<Self> {
        let path = dir.join("notify.sock");
        drop(fs::remove_file(&path));
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        Ok(Self { socket, path, told: Vec::new(), stored: Vec::new() })
    }

    /// A command that is started with these descriptors, as the manager passes what it keeps.
    pub fn pass(command: &Command, stored: &[Stored]) -> Command {
        let mut shell = Command::new("sh");
        // The variable must name the process that the shell becomes.
        shell.args(["-c", "export LISTEN_PID=$$; exec \"$@\"", "sh"]);
        shell.arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => shell.env(name, value),
                None => shell.env_remove(name),
            };
        }
        let names: Vec<&str> = stored.iter().map(|one| one.name.as_str()).collect();
        shell.env("LISTEN_FDS", stored.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
        // Above all numbers that are used below. Copies, so that the manager's own stay.
        let high = stored.iter().map(|one| fcntl(&one.fd, FcntlArg::F_DUPFD_CLOEXEC(200)).expect("a copy"));
        // SAFETY: `fcntl` has just made it.
        let high: Vec<OwnedFd> = high.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect();
        // SAFETY: between fork and exec, the closure makes one dup2 call for each descriptor; it neither allocates nor locks.
        unsafe {
            shell.pre_exec(move || {
                for (number, fd) in (FIRST..).zip(&high) {
                    if libc::dup2(fd.as_raw_fd(), number) < 0 {
                        return Err(io::Error::last_os_error());
                    }
                }
                Ok(())
            });
        }
        shell
    }

    /// The variable that names this manager to a daemon.
    pub fn variable(&self) -> (String, String) {
        ("NOTIFY_SOCKET".into(), self.path.display().to_string())
    }

    /// Takes in what has been told meanwhile.
    pub fn listen(&mut self) -> anyhow::Result<()> {
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
            let mut control = RecvAncillaryBuffer::new(&mut space);
            let mut bytes = [0; 4096];
            let mut slices = [IoSliceMut::new(&mut bytes)];
            let read = match recvmsg(&self.socket, &mut slices, &mut control, RecvFlags::CMSG_CLOEXEC) {
                Ok(read) => read.bytes,
                Err(error) if io::Error::from(error).kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            };
            let text = String::from_utf8(bytes[..read].to_vec())?;
            let name =
                text.lines().find_map(|line| line.strip_prefix("FDNAME=")).unwrap_or_default().to_owned();
            for message in control.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    self.stored.extend(fds.map(|fd| Stored { name: name.clone(), fd }));
                }
            }
            self.told.extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
        }
    }

    /// Waits until a line that begins so was told after the first `seen` lines.
    pub fn wait_for(&mut self, line: &str, seen: usize, limit: Duration) -> anyhow::Result<()> {
        let end = Instant::now() + limit;
        while !self.told.iter().skip(seen).any(|(_, told)| told.starts_with(line)) {
            ensure!(Instant::now() < end, "{line} was not told in {limit:?}: {:?}", self.told);
            self.listen()?;
        }
        Ok(())
    }

    pub fn count(&self, line: &str) -> usize {
        self.told.iter().filter(|(_, told)| told == line).count()
    }
}
