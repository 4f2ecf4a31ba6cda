//! Starting a program in another network namespace of this host.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Starts `command` in the network namespace of the file `netns` (such as `/run/netns/x`), or in this one.
///
/// Only the network namespace changes. `ip netns exec` would also mount a new sysfs, which hides the host's bpffs.
pub fn spawn_in(netns: Option<&Path>, mut command: Command) -> io::Result<Child> {
    if let Some(netns) = netns {
        let netns = File::open(netns)?;
        let enter = move || {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(())
        };
        // SAFETY: between fork and exec, `enter` makes one setns call on an open descriptor. It neither allocates
        // nor takes locks.
        unsafe { command.pre_exec(enter) };
    }
    command.spawn()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Stdio;

    #[test]
    fn a_namespace_that_is_not_there_is_an_error() {
        let missing = spawn_in(Some(Path::new("/run/netns/no-such-namespace")), Command::new("true"));
        assert_eq!(missing.unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn without_a_namespace_the_program_stays_in_ours() {
        let mut command = Command::new("readlink");
        command.arg("/proc/self/ns/net").stdout(Stdio::piped());
        let output = spawn_in(None, command).unwrap().wait_with_output().unwrap();
        let ours = std::fs::read_link("/proc/self/ns/net").unwrap();
        assert_eq!(String::from_utf8(output.stdout).unwrap().trim(), ours.to_str().unwrap());
    }
}
