//! A container as far as the kernel is concerned: a user namespace whose root is an ordinary user of the host, and a network
//! namespace that belongs to it.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use super::attacker::Attacker;
use crate::world::{NOBODY, Netns, World};

/// Which users of the host a container's users are: uid 0 there is this one here.
pub const ROOT_OUTSIDE: u32 = 100_000;

/// Lives as long as this value.
#[derive(Debug)]
pub struct Jail {
    pub netns: Netns,
    holder: Child,
}

impl Jail {
    /// A jail with nothing but `lo`.
    pub fn new() -> Self {
        let mut command = Command::new("sleep");
        command.arg("3600").stdin(Stdio::null()).stdout(Stdio::null());
        let leave = || Ok::<(), io::Error>(unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)?);
        // SAFETY: between fork and exec, `leave` makes one system call.
        unsafe { command.pre_exec(leave) };
        let holder = command.spawn().expect("a process in new user and network namespaces");
        let of = |name: &str| format!("/proc/{}/{name}", holder.id());
        for map in ["uid_map", "gid_map"] {
            fs::write(of(map), format!("0 {ROOT_OUTSIDE} 65536")).expect("mapping the users");
        }
        let netns = Netns::of(File::open(of("ns/net")).expect("the namespace"));
        netns.ip("link set lo up");
        Self { netns, holder }
    }

    /// A jail with a link to `other`: `network` is the first three bytes of both addresses, the jail has .2 and `fd78::2`.
    pub fn linked(other: &Netns, network: &str) -> Self {
        let jail = Self::new();
        other.ip(&format!("link add jail0 type veth peer name jail1 netns {}", jail.netns.path().display()));
        for (netns, link, number) in [(other, "jail0", 1), (&jail.netns, "jail1", 2)] {
            netns.ip(&format!("addr add {network}.{number}/24 dev {link}"));
            netns.ip(&format!("addr add fd78::{number}/64 dev {link} nodad"));
            netns.ip(&format!("link set {link} up"));
        }
        jail.netns.ip(&format!("route add default via {network}.1"));
        jail
    }

    /// Root there: every capability over this network namespace, none over the host.
    pub fn root(&self, world: &World) -> Attacker {
        self.attacker(world, "root of a container", 0)
    }

    /// An ordinary user there.
    pub fn user(&self, world: &World) -> Attacker {
        self.attacker(world, "a user of a container", NOBODY)
    }

    fn attacker(&self, world: &World, name: &'static str, uid: u32) -> Attacker {
        let userns = format!("/proc/{}/ns/user", self.holder.id());
        Attacker::new(world, name, &self.netns, uid).inside(userns.into())
    }
}

impl Default for Jail {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Jail {
    fn drop(&mut self) {
        // It sleeps until then; an error says that it has ended already.
        let _ended = self.holder.kill();
        let _status = self.holder.wait();
    }
}
