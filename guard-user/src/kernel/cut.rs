//! Ends open connections, in whatever network namespace they are, with or without a running guard.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::net::UdpSocket;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use anyhow::Context;
use guard_common::Port;
use nix::sched::{CloneFlags, setns};

use super::{diag, gates, sys};

/// Looks at a port before it counts as clean: a handshake under way makes one more.
const LOOKS: usize = 3;

/// Ends every connection at these ports: clients' to the guard, and the guard's to the servers. Returns how many, and
/// what went wrong.
pub(super) fn at_ports(ports: &[Port]) -> (usize, Vec<String>) {
    let mut by_netns: BTreeMap<u64, BTreeSet<u16>> = BTreeMap::new();
    for port in ports {
        by_netns.entry(port.netns).or_default().insert(port.port);
    }
    let (mut ended, mut problems) = (0, Vec::new());
    let mut missing: BTreeSet<u64> = by_netns.keys().copied().collect();
    visit(|cookie| {
        let Some(ports) = by_netns.get(&cookie) else { return Ok(true) };
        missing.remove(&cookie);
        for _ in 0..LOOKS {
            let mut found = 0;
            for port in ports {
                for connection in diag::connections(Some(*port))? {
                    found += usize::from(diag::destroy(&connection)?);
                }
            }
            ended += found;
            if found == 0 {
                break;
            }
        }
        Ok(!missing.is_empty())
    })
    .unwrap_or_else(|error| problems.push(format!("not every connection could be ended: {error:#}")));
    (ended, problems)
}

/// Ends the connections of a cgroup's processes to protected ports, by whatever namespace they are made from.
pub(super) fn of_cgroup(ports: &[Port], dir: &Path) -> (usize, Vec<String>) {
    let ports: BTreeSet<u16> = ports.iter().map(|port| port.port).collect();
    let ids = below(dir);
    let (mut ended, mut problems) = (0, Vec::new());
    visit(|_cookie| {
        for connection in diag::of_cgroups(&ids)? {
            if ports.contains(&connection.remote.port()) {
                ended += usize::from(diag::destroy(&connection)?);
            }
        }
        Ok(true)
    })
    .unwrap_or_else(|error| problems.push(format!("not every connection could be ended: {error:#}")));
    (ended, problems)
}

/// Ids of a cgroup and of all below it.
pub(super) fn below(dir: &Path) -> BTreeSet<u64> {
    let mut ids: BTreeSet<u64> = gates::id(dir).into_iter().collect();
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        ids.extend(below(&child.path()));
    }
    ids
}

/// Calls `look` in each network namespace of this host with its cookie, this process's own first, until it returns
/// false. On a thread of its own, which does not come back from where it went.
fn visit(look: impl FnMut(u64) -> anyhow::Result<bool> + Send) -> anyhow::Result<()> {
    thread::scope(|scope| {
        scope.spawn(|| visit_here(look)).join().map_err(|_panic| anyhow::anyhow!("the search broke off"))?
    })
}

fn visit_here(mut look: impl FnMut(u64) -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let mut seen = BTreeSet::new();
    let mut result = Ok(());
    for path in namespaces() {
        // A process may end while we look.
        let Ok(file) = File::open(&path) else { continue };
        let Ok(meta) = file.metadata() else { continue };
        if !seen.insert((meta.dev(), meta.ino())) || setns(&file, CloneFlags::CLONE_NEWNET).is_err() {
            continue;
        }
        match here().and_then(&mut look) {
            Ok(true) => {}
            Ok(false) => break,
            // The others are looked at all the same.
            Err(error) => result = Err(error),
        }
    }
    result
}

fn here() -> anyhow::Result<u64> {
    let socket = UdpSocket::bind("0.0.0.0:0").context("cannot make a socket")?;
    sys::netns_cookie(&socket).context("this kernel has no SO_NETNS_COOKIE")
}

fn namespaces() -> impl Iterator<Item = PathBuf> {
    let children = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = children("/proc").filter(|path| {
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.parse::<u32>().is_ok())
    });
    [PathBuf::from("/proc/thread-self/ns/net")]
        .into_iter()
        .chain(children("/run/netns"))
        .chain(processes.map(|path| path.join("ns/net")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_namespace_comes_first() {
        assert_eq!(namespaces().next(), Some("/proc/thread-self/ns/net".into()));
        assert!(namespaces().any(|path| path == Path::new("/proc/1/ns/net")));
    }
}
