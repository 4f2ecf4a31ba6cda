//! Which addresses are this host's.

use std::collections::HashSet;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use nix::ifaddrs::getifaddrs;

use super::maps::lock;

/// How long a list of the host's addresses is used.
const KEPT: Duration = Duration::from_secs(1);
/// Addresses of one namespace that are known.
const ADDRESSES_MAX: usize = 65_536;

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
    known: Arc<Mutex<HashSet<IpAddr>>>,
    asked: Option<Instant>,
    asking: Arc<AtomicBool>,
}

impl Local {
    /// `peer` and `own` are the two ends of a connection, v4-mapped addresses made plain.
    /// `addresses` lists what the namespace of the connection has. It runs on a thread of its own, since who owns a namespace
    /// may give it a million; until it answers, what was known stays, and a process of this host counts as remote at worst.
    /// Remote peers are trusted with nothing. To be called inside a tokio runtime.
    pub(crate) fn is_local(
        &mut self,
        peer: IpAddr,
        own: IpAddr,
        now: Instant,
        addresses: impl FnOnce() -> io::Result<Vec<IpAddr>> + Send + 'static,
    ) -> bool {
        if peer.is_loopback() || peer == own {
            return true;
        }
        let is_old = self.asked.is_none_or(|asked| now.duration_since(asked) > KEPT);
        if is_old && !self.asking.swap(true, Ordering::SeqCst) {
            self.asked = Some(now);
            let (known, asking) = (Arc::clone(&self.known), Arc::clone(&self.asking));
            tokio::task::spawn_blocking(move || {
                if let Ok(found) = addresses() {
                    *lock(&known) = found.into_iter().take(ADDRESSES_MAX).collect();
                }
                asking.store(false, Ordering::SeqCst);
            });
        }
        lock(&self.known).contains(&peer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn loopback_and_own_addresses_are_local_and_others_are_not() {
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
        while local.asking.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        lock(&local.known).insert(ip("192.0.2.7"));
        assert!(
            local.is_local(ip("192.0.2.7"), ip("192.0.2.8"), now, addresses),
            "from one own address to another"
        );
    }
}
