//! Which addresses are this host's.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

/// How long a list of the host's addresses is used.
const KEPT: Duration = Duration::from_secs(1);

/// The addresses of this network namespace's interfaces that are up.
pub(crate) fn addresses() -> io::Result<Vec<IpAddr>> {
    let up = |flags: nix::net::if_::InterfaceFlags| flags.contains(nix::net::if_::InterfaceFlags::IFF_UP);
    let ip = |address: nix::sys::socket::SockaddrStorage| {
        let v4 = address.as_sockaddr_in().map(|v4| IpAddr::from(v4.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::from(v6.ip())))
    };
    Ok(getifaddrs()?
        .filter(|interface| up(interface.flags))
        .filter_map(|interface| ip(interface.address?))
        .collect())
}

/// Says whether a peer is on this host; asks the kernel again when what it knows is old.
#[derive(Debug, Default)]
pub(crate) struct Local {
    known: HashSet<IpAddr>,
    asked: Option<Instant>,
}

impl Local {
    /// `peer` and `own` are the two ends of a connection, v4-mapped addresses made plain.
    /// `addresses` lists what the namespace of the connection has.
    pub(crate) fn is_local(
        &mut self,
        peer: IpAddr,
        own: IpAddr,
        now: Instant,
        addresses: impl FnOnce() -> io::Result<Vec<IpAddr>>,
    ) -> bool {
        if peer.is_loopback() || peer == own {
            return true;
        }
        if self.asked.is_none_or(|asked| now.duration_since(asked) > KEPT) {
            // With no answer, what was known stays; a process of this host counts as remote at worst, and remote
            // peers are trusted with nothing.
            if let Ok(known) = addresses() {
                self.known = known.into_iter().collect();
                self.asked = Some(now);
            }
        }
        self.known.contains(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_and_own_addresses_are_local_and_others_are_not() {
        let mut local = Local::default();
        let now = Instant::now();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(local.is_local(ip("127.0.0.9"), ip("127.0.0.1"), now, addresses));
        assert!(local.is_local(ip("::1"), ip("::1"), now, addresses));
        assert!(
            local.is_local(ip("192.0.2.1"), ip("192.0.2.1"), now, addresses),
            "a connection to the own address"
        );
        assert!(!local.is_local(ip("192.0.2.1"), ip("192.0.2.2"), now, addresses));
        local.known.insert(ip("192.0.2.7"));
        assert!(
            local.is_local(ip("192.0.2.7"), ip("192.0.2.8"), now, addresses),
            "from one own address to another"
        );
    }
}
