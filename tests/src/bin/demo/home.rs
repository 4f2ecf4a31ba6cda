//! Which network the demo happens in: one of its own, or the host's.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use anyhow::{Context, bail};
use nix::sched::{CloneFlags, unshare};

/// `lo` is the first interface of every network namespace.
const LOOPBACK: i32 = 1;

/// Moves this process into a new network namespace with nothing but `lo`. Call it while there is one thread.
///
/// The namespace has no name. It is gone when the last process of the demo is.
pub(crate) fn leave() -> anyhow::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("cannot make a network namespace for the demo")?;
    // SAFETY: the call takes no pointer; the library marks its netlink calls unsafe as a whole.
    unsafe { aya::sys::netlink_set_link_up(LOOPBACK) }.context("cannot bring lo up")?;
    Ok(())
}

/// An error in words if somebody on this host has the port.
pub(crate) fn check_free(port: u16) -> anyhow::Result<()> {
    for address in [SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), (Ipv6Addr::UNSPECIFIED, port).into()] {
        match TcpListener::bind(address) {
            // A host without IPv6 has no such port to take.
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
                "port {port} of this host is taken: `ss -ltnp sport = :{port}` shows by whom.\n  End that server, or \
                 take another port: cargo xtask demo --stay --port {}",
                port.saturating_add(10)
            ),
            _ => {}
        }
    }
    Ok(())
}
