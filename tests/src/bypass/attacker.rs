//! Who attacks, and from where.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use nix::sched::{CloneFlags, setns};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid, write};
use serde_json::Value;

use crate::cgroup::Cgroup;
use crate::world::{NOBODY, Netns, Process, World};

/// A position from which the program `attacker` runs.
#[derive(Debug)]
pub struct Attacker {
    /// For the output.
    pub name: &'static str,
    program: PathBuf,
    netns: PathBuf,
    userns: Option<PathBuf>,
    cgroup: Option<PathBuf>,
    /// As the user namespace counts.
    uid: u32,
}

impl Attacker {
    /// A process with this uid in a namespace; uid 0 is root of this host.
    pub fn new(world: &World, name: &'static str, netns: &Netns, uid: u32) -> Self {
        let program = world.public_program("attacker");
        Self { name, program, netns: netns.path(), userns: None, cgroup: None, uid }
    }

    /// An unprivileged process on the guard's host.
    pub fn local(world: &World) -> Self {
        Self::new(world, "a user of the host", &world.host, NOBODY)
    }

    /// Root of another host.
    pub fn remote(world: &World) -> Self {
        Self::new(world, "another host", &world.remote, 0)
    }

    /// The same process in another network namespace.
    #[must_use]
    pub fn in_netns(mut self, netns: &Netns) -> Self {
        self.netns = netns.path();
        self
    }

    /// The same process in a cgroup.
    #[must_use]
    pub fn in_cgroup(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.path().to_owned());
        self
    }

    /// As this `uid` of the user namespace.
    pub(super) fn inside(mut self, userns: PathBuf) -> Self {
        self.userns = Some(userns);
        self
    }

    /// Runs an attack to its end and returns what it met.
    pub fn run(&self, attack: &[&str]) -> Value {
        let output = self.command(attack).output().expect("the attacker runs");
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| {
            panic!("{attack:?} from {} said: {}", self.name, String::from_utf8_lossy(&output.stderr))
        })
    }

    /// Starts an attack that says when it is ready and goes on when it is told.
    pub fn start(&self, attack: &[&str]) -> Process {
        Process::start(&mut self.command(attack)).expect("the attacker starts")
    }

    fn command(&self, attack: &[&str]) -> Command {
        let netns = File::open(&self.netns).expect("the network namespace");
        let userns = self.userns.as_ref().map(|path| File::open(path).expect("the user namespace"));
        let cgroup = self.cgroup.as_ref().map(|path| {
            File::options().write(true).open(path.join("cgroup.procs")).expect("the cgroup's list")
        });
        let uid = self.uid;
        let mut command = Command::new(&self.program);
        command.args(attack);
        let enter = move || {
            if let Some(cgroup) = &cgroup {
                write(cgroup, b"0")?;
            }
            setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
            if let Some(userns) = &userns {
                setns(userns.as_fd(), CloneFlags::CLONE_NEWUSER)?;
            }
            setgroups(&[])?;
            setgid(Gid::from_raw(uid))?;
            setuid(Uid::from_raw(uid))?;
            Ok::<(), io::Error>(())
        };
        // SAFETY: between fork and exec, `enter` makes system calls on open descriptors and numbers. glibc's setuid takes
        // no lock in a process with one thread, which a child is after fork.
        unsafe { command.pre_exec(enter) };
        command
    }
}
