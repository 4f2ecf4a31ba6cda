//! The places of open connections: so many in all, and of those so many for one peer.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, PoisonError};

/// Whose connections share one allowance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Peer {
    /// Processes of one user of this host.
    User(u32),
    /// Processes of this host whose user is not known.
    UnknownLocal,
    /// One address; of IPv6 the network of 64 bits, from which one host may take any address.
    Address(IpAddr),
}

impl Peer {
    pub(super) fn at(address: IpAddr) -> Self {
        Self::Address(match address.to_canonical() {
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
            v4 @ IpAddr::V4(_) => v4,
        })
    }
}

/// What is taken. Cheap to clone; all clones see the same.
#[derive(Debug, Clone)]
pub(super) struct Places {
    /// In all, and for one peer.
    max: (usize, usize),
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    /// Only peers that have one.
    by_peer: BTreeMap<Peer, usize>,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub struct Place {
    peer: Peer,
    taken: Arc<Mutex<Taken>>,
}

impl Places {
    pub(super) fn new(max: usize, of_one_peer_max: usize) -> Self {
        Self { max: (max, of_one_peer_max), taken: Arc::default() }
    }

    /// `None`: none is free, or the peer has its share.
    pub(super) fn take(&self, peer: Peer) -> Option<Place> {
        let mut taken = lock(&self.taken);
        let own = taken.by_peer.get(&peer).copied().unwrap_or_default();
        if taken.all >= self.max.0 || own >= self.max.1 {
            return None;
        }
        taken.all += 1;
        taken.by_peer.insert(peer, own + 1);
        Some(Place { peer, taken: Arc::clone(&self.taken) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        taken.all -= 1;
        match taken.by_peer.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                taken.by_peer.remove(&self.peer);
            }
        }
    }
}

fn lock(taken: &Mutex<Taken>) -> std::sync::MutexGuard<'_, Taken> {
    // Nothing in here panics between two changes that belong together.
    taken.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_ipv6_network_is_one_peer_and_a_mapped_address_is_its_ipv4_self() {
        let at = |text: &str| Peer::at(text.parse().unwrap());
        assert_eq!(at("2001:db8::1"), at("2001:db8::ffff:1"));
        assert_ne!(at("2001:db8::1"), at("2001:db8:0:1::1"));
        assert_eq!(at("::ffff:192.0.2.1"), at("192.0.2.1"));
        assert_ne!(at("192.0.2.1"), at("192.0.2.2"));
    }

    proptest! {
        #[test]
        fn neither_limit_is_passed_and_what_is_given_back_is_free_again(
            max in 0_usize..8, share in 0_usize..8, steps in prop::collection::vec((0_u32..4, any::<bool>()), 0..60),
        ) {
            let places = Places::new(max, share);
            let mut held: Vec<(u32, Place)> = Vec::new();
            for (user, is_coming) in steps {
                let own = held.iter().filter(|(other, _)| *other == user).count();
                if is_coming {
                    let place = places.take(Peer::User(user));
                    prop_assert_eq!(place.is_some(), held.len() < max && own < share);
                    held.extend(place.map(|place| (user, place)));
                } else if let Some(at) = held.iter().position(|(other, _)| *other == user) {
                    held.swap_remove(at);
                }
            }
            drop(held);
            let taken = lock(&places.taken);
            prop_assert!(taken.all == 0 && taken.by_peer.is_empty());
        }
    }
}
