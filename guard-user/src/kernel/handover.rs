//! A guard's listeners on their way to the next guard. As long as somebody holds a listener, the kernel steers to it, and
//! connections wait in its backlog: nobody is refused, and nobody reaches the server.
//!
//! What comes from outside is told by what it is: a descriptor counts as a listener of a namespace if it listens for TCP
//! there, at the address that the manifest names. The order in which descriptors come says nothing.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};
use socket2::{Protocol, SockRef, Type};

use super::guard::Inner;
use super::listeners::Listeners;
use super::sys;

/// What is told about one namespace beside its listeners. Its ports have been swept and were served without a break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Cookie of the namespace.
    pub netns: u64,
    /// Addresses of its listeners.
    pub listeners: Vec<SocketAddr>,
    /// Of each port's finished handshakes, how many this guard and those before it have accepted.
    pub ports: BTreeMap<u16, u64>,
    /// The pins under which that is true: the id of the map of protected ports, and the start that wrote them last.
    pub policy: u32,
    pub generation: u32,
}

/// The listeners of all namespaces.
#[derive(Debug, Default)]
pub struct Handover {
    realms: BTreeMap<u64, (Manifest, Vec<TcpListener>)>,
}

/// What one namespace gets.
pub(super) struct Legacy {
    pub listeners: Listeners,
    /// By swept port.
    pub accepted: BTreeMap<u16, u64>,
}

/// A listening TCP socket, by what the kernel says of it.
struct Found {
    netns: u64,
    address: SocketAddr,
    listener: TcpListener,
}

impl Handover {
    /// Puts together what was received. A manifest without all of its listeners counts for nothing, and what no manifest
    /// names is closed; both are told in the log.
    pub fn new(manifests: Vec<Manifest>, fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        let mut found = Vec::new();
        for fd in fds {
            match Found::new(fd) {
                Ok(one) => found.push(one),
                Err(error) => tracing::warn!("a descriptor that was handed on is closed: {error:#}"),
            }
        }
        let mut realms = BTreeMap::new();
        for manifest in manifests {
            let mut take = |address: &SocketAddr| {
                let is_it = |one: &Found| one.netns == manifest.netns && one.address == *address;
                let at = found.iter().position(is_it);
                at.map(|at| found.swap_remove(at).listener).ok_or(*address)
            };
            match manifest.listeners.iter().map(&mut take).collect::<Result<Vec<_>, _>>() {
                Ok(own) => drop(realms.insert(manifest.netns, (manifest, own))),
                Err(missing) => tracing::warn!(
                    netns = manifest.netns,
                    "the listener on {missing} was announced and did not come; this guard opens its own, and who waited at the \
                     others is refused"
                ),
            }
        }
        for stranger in found {
            tracing::warn!(
                netns = stranger.netns,
                "a listener on {} that was handed on is none of the guard before; it is closed",
                stranger.address
            );
        }
        Self { realms }
    }

    /// What is told, and the descriptors.
    pub fn into_parts(self) -> (Vec<Manifest>, Vec<OwnedFd>) {
        let (manifests, listeners): (Vec<_>, Vec<_>) = self.realms.into_values().unzip();
        (manifests, listeners.into_iter().flatten().map(OwnedFd::from).collect())
    }

    pub fn is_empty(&self) -> bool {
        self.realms.is_empty()
    }

    /// Copies of this guard's listeners.
    pub(super) fn of(inner: &Inner) -> io::Result<Self> {
        let policy = inner.maps.ids().iter().find(|map| map.name == "POLICY").map_or(0, |map| map.id);
        let mut realms = BTreeMap::new();
        for (netns, realm) in inner.realms().iter() {
            let copies = [Some(&realm.listeners.v4), realm.listeners.v6.as_ref()]
                .into_iter()
                .flatten()
                .map(TcpListener::try_clone)
                .collect::<io::Result<Vec<_>>>()?;
            let listeners = copies.iter().map(TcpListener::local_addr).collect::<io::Result<_>>()?;
            let accepted = |port| realm.established_before(port) + inner.attendance.entered(*netns, port);
            let ports = realm.ports().keys().map(|port| (*port, accepted(*port))).collect();
            let generation = inner.generation;
            realms.insert(*netns, (Manifest { netns: *netns, listeners, ports, policy, generation }, copies));
        }
        Ok(Self { realms })
    }

    /// Keeps what is true of these pins. In the time of other pins the ports may have been open.
    pub(super) fn of_pins(mut self, policy: Option<u32>, generation: u32) -> Self {
        let is_true =
            |manifest: &Manifest| policy == Some(manifest.policy) && manifest.generation == generation;
        let before = self.realms.len();
        self.realms.retain(|_, (manifest, _)| is_true(manifest));
        if self.realms.len() < before {
            tracing::warn!(
                "the listeners that were handed on are of other pins than those that are there, so the ports may have been open \
                 meanwhile; they are closed, and this is an ordinary start"
            );
        }
        self
    }

    /// Takes what belongs to a namespace. `None`: nothing, or nothing usable.
    pub(super) fn take(&mut self, netns: u64) -> Option<Legacy> {
        let (manifest, listeners) = self.realms.remove(&netns)?;
        let (mut v4, mut v6) = (None, None);
        for (address, listener) in manifest.listeners.iter().zip(listeners) {
            if address.is_ipv4() { v4 = Some(listener) } else { v6 = Some(listener) }
        }
        let listeners = Listeners { v4: v4?, v6 };
        Some(Legacy { listeners, accepted: manifest.ports })
    }
}

impl Found {
    fn new(fd: OwnedFd) -> anyhow::Result<Self> {
        let socket = SockRef::from(&fd);
        let kind = socket.r#type().context("it is no socket")?;
        let protocol = socket.protocol().context("its protocol is not to be had")?;
        ensure!(kind == Type::STREAM && protocol == Some(Protocol::TCP), "it is no TCP socket");
        ensure!(socket.is_listener().context("whether it listens is not to be had")?, "it does not listen");
        let address = socket.local_addr().context("its address is not to be had")?;
        let address = address.as_socket().context("it has no IP address")?;
        ensure!(
            address.ip().is_loopback(),
            "it listens on {address}, and the guard listens on loopback only"
        );
        let netns = sys::netns_cookie(&fd).context("its network namespace is not to be had")?;
        socket.set_nonblocking(true).context("it cannot be waited for")?;
        Ok(Self { netns, address, listener: fd.into() })
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn listener(address: &str) -> (SocketAddr, OwnedFd) {
        let listener = TcpListener::bind(address).unwrap();
        (listener.local_addr().unwrap(), listener.into())
    }

    fn here() -> u64 {
        sys::netns_cookie(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap()
    }

    fn manifest(netns: u64, listeners: &[SocketAddr]) -> Manifest {
        let ports = BTreeMap::from([(3001, 7)]);
        Manifest { netns, listeners: listeners.into(), ports, policy: 5, generation: 2 }
    }

    #[test]
    fn listeners_are_told_by_what_they_are_and_not_by_their_order() {
        let ((v4, a), (v6, b)) = (listener("127.0.0.1:0"), listener("[::1]:0"));
        let mut handed = Handover::new(vec![manifest(here(), &[v4, v6])], [b, a]);
        let legacy = handed.take(here()).unwrap();
        assert_eq!(legacy.listeners.v4.local_addr().unwrap(), v4);
        assert_eq!(legacy.listeners.v6.unwrap().local_addr().unwrap(), v6);
        assert_eq!(legacy.accepted[&3001], 7);
        assert!(handed.take(here()).is_none(), "each goes once");
    }

    #[test]
    fn what_is_not_the_listener_of_a_manifest_counts_for_nothing() {
        let (v4, fd) = listener("127.0.0.1:0");
        let connected = std::net::TcpStream::connect(v4).unwrap();
        let copy = || fd.try_clone().unwrap();
        let strange: [(u64, SocketAddr, OwnedFd); 6] = [
            (here() + 1, v4, copy()),
            (here(), listener("127.0.0.1:0").0, copy()),
            (here(), connected.local_addr().unwrap(), connected.into()),
            (here(), v4, File::open("/proc/self/status").unwrap().into()),
            (here(), v4, std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()),
            (here(), v4, std::os::unix::net::UnixStream::pair().unwrap().0.into()),
        ];
        for (netns, address, fd) in strange {
            let told = format!("{netns} {address} {fd:?}");
            assert!(Handover::new(vec![manifest(netns, &[address])], [fd]).is_empty(), "{told}");
        }
        let (open, fd) = listener("0.0.0.0:0");
        assert!(Handover::new(vec![manifest(here(), &[open])], [fd]).is_empty(), "it is not on loopback");
        let half = Handover::new(vec![manifest(here(), &[v4, "[::1]:1".parse().unwrap()])], [copy()]);
        assert!(half.is_empty(), "one of two");
    }

    #[test]
    fn what_was_true_of_other_pins_counts_for_nothing() {
        let handed = || {
            let (v4, fd) = listener("127.0.0.1:0");
            Handover::new(vec![manifest(here(), &[v4])], [fd])
        };
        assert!(!handed().of_pins(Some(5), 2).is_empty());
        for (policy, generation) in [(None, 2), (Some(6), 2), (Some(5), 3)] {
            assert!(handed().of_pins(policy, generation).is_empty(), "{policy:?} {generation}");
        }
    }
}
