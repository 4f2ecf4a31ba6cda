//! A guard's listeners on their way to the next guard. As long as somebody holds a listener, the kernel steers to it, and
//! connections wait in its backlog: nobody is refused, and nobody reaches the server.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::fd::OwnedFd;

use guard_common::{FAMILY_V4, FAMILY_V6};
use serde::{Deserialize, Serialize};

use super::guard::Inner;
use super::listeners::Listeners;

/// What is told about one namespace beside its listeners. Its ports have been swept and were served without a break.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Cookie of the namespace.
    pub netns: u64,
    /// Families of its listeners (4 or 6), in the order in which they are handed on.
    pub families: Vec<u8>,
    /// Of each port's finished handshakes, how many this guard and those before it have accepted.
    pub ports: BTreeMap<u16, u64>,
}

/// The listeners of all namespaces.
#[derive(Debug, Default)]
pub struct Handover {
    realms: BTreeMap<u64, (Manifest, Vec<OwnedFd>)>,
}

/// What one namespace gets.
pub(super) struct Legacy {
    pub listeners: Listeners,
    /// By swept port.
    pub accepted: BTreeMap<u16, u64>,
}

impl Handover {
    /// Puts together what was received. A manifest without its listeners counts for nothing.
    pub fn new(manifests: Vec<Manifest>, fds: impl IntoIterator<Item = OwnedFd>) -> Self {
        let mut fds = fds.into_iter();
        let realms = manifests.into_iter().filter_map(|manifest| {
            let own: Vec<OwnedFd> = fds.by_ref().take(manifest.families.len()).collect();
            (own.len() == manifest.families.len()).then_some((manifest.netns, (manifest, own)))
        });
        Self { realms: realms.collect() }
    }

    /// What is told, and the descriptors in its order.
    pub fn into_parts(self) -> (Vec<Manifest>, Vec<OwnedFd>) {
        let (manifests, fds): (Vec<_>, Vec<_>) = self.realms.into_values().unzip();
        (manifests, fds.into_iter().flatten().collect())
    }

    pub fn is_empty(&self) -> bool {
        self.realms.is_empty()
    }

    /// Copies of this guard's listeners. `accepted` says how many connections of a server were accepted so far.
    pub(super) fn of(
        inner: &Inner,
        accepted: impl Fn(&crate::types::ServerName) -> u64,
    ) -> std::io::Result<Self> {
        let mut realms = BTreeMap::new();
        for (netns, realm) in inner.realms().iter() {
            let (mut families, mut fds) = (vec![FAMILY_V4], vec![realm.listeners.v4.try_clone()?.into()]);
            if let Some(v6) = &realm.listeners.v6 {
                families.push(FAMILY_V6);
                fds.push(v6.try_clone()?.into());
            }
            let of_port = |(port, server): (&u16, &std::sync::Arc<crate::config::Server>)| {
                (*port, realm.established_before(*port) + accepted(&server.name))
            };
            let ports = realm.ports().iter().map(of_port).collect();
            realms.insert(*netns, (Manifest { netns: *netns, families, ports }, fds));
        }
        Ok(Self { realms })
    }

    /// Takes what belongs to a namespace. `None`: nothing, or nothing usable.
    pub(super) fn take(&mut self, netns: u64) -> Option<Legacy> {
        let (manifest, fds) = self.realms.remove(&netns)?;
        let (mut v4, mut v6) = (None, None);
        for (family, fd) in manifest.families.iter().zip(fds) {
            let listener = TcpListener::from(fd);
            let is_v4 = listener.local_addr().ok()?.is_ipv4();
            match *family {
                FAMILY_V4 if is_v4 => v4 = Some(listener),
                FAMILY_V6 if !is_v4 => v6 = Some(listener),
                _ => return None,
            }
        }
        let listeners = Listeners { v4: v4?, v6 };
        Some(Legacy { listeners, accepted: manifest.ports })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(netns: u64, families: &[u8]) -> Manifest {
        Manifest { netns, families: families.into(), ports: BTreeMap::from([(3001, 7)]) }
    }

    #[test]
    fn listeners_reach_their_namespace_and_only_with_all_of_its_families() {
        let v4 = || -> OwnedFd { TcpListener::bind("127.0.0.1:0").unwrap().into() };
        let v6 = || -> OwnedFd { TcpListener::bind("[::1]:0").unwrap().into() };
        let manifests = vec![manifest(1, &[4, 6]), manifest(2, &[4]), manifest(3, &[4])];
        let mut handed = Handover::new(manifests, [v4(), v6(), v4()]);
        let legacy = handed.take(1).unwrap();
        assert!(legacy.listeners.v6.is_some() && legacy.accepted[&3001] == 7);
        assert!(handed.take(1).is_none(), "each goes once");
        assert!(handed.take(2).is_some());
        assert!(handed.take(3).is_none(), "its listener did not come");
        let mut wrong = Handover::new(vec![manifest(1, &[4])], [v6()]);
        assert!(wrong.take(1).is_none(), "another family than was said");
    }
}
