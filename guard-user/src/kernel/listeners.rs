//! The guard's own listeners, to which protected ports are steered.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use guard_common::{FAMILY_V4, FAMILY_V6, Slot};
use socket2::{Domain, Protocol, Socket, Type};

use super::maps::Maps;

/// Connections that may wait to be accepted, per family; `net.core.somaxconn` may lower it.
const BACKLOG: i32 = 4096;

/// One listener per family, on loopback and a port that the kernel chose. Nobody joins them (no `SO_REUSEPORT`),
/// no child inherits them (close on exec), and their ports are reached by steering only.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub v4: TcpListener,
    /// Absent on a host without IPv6, where no IPv6 connection can come either.
    pub v6: Option<TcpListener>,
}

impl Listeners {
    pub(crate) fn open() -> io::Result<Self> {
        let v4 = listen((Ipv4Addr::LOCALHOST, 0).into())?;
        let v6 = match listen((Ipv6Addr::LOCALHOST, 0).into()) {
            Ok(listener) => Some(listener),
            Err(error) if no_ipv6(&error) => None,
            Err(error) => return Err(error),
        };
        Ok(Self { v4, v6 })
    }

    /// Addresses of the listeners.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        [Some(&self.v4), self.v6.as_ref()].into_iter().flatten().filter_map(|l| l.local_addr().ok()).collect()
    }

    /// From here on, steered connections arrive.
    pub(crate) fn install(&self, maps: &Maps, netns: u64) -> anyhow::Result<()> {
        maps.set_socket(Slot::guard(netns, FAMILY_V4), &self.v4)?;
        match &self.v6 {
            Some(v6) => maps.set_socket(Slot::guard(netns, FAMILY_V6), v6)?,
            None => maps.clear_socket(Slot::guard(netns, FAMILY_V6))?,
        }
        Ok(())
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    // Accepted connections have the server's port as their local one. Without this option, which they inherit, they
    // would keep a restarted server from binding its port as long as one of them is open, and a minute longer.
    // Set after `listen`: until then it would let a stranger share the port.
    socket.set_reuse_address(true)?;
    Ok(socket.into())
}

fn no_ipv6(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(nix::libc::EAFNOSUPPORT)
}
