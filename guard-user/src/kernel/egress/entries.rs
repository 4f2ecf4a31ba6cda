//! What the kernel is told of a server's destinations. Pure: time is an argument.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZero;
use std::time::Instant;

use guard_common::{EGRESS_ALLOW, EGRESS_DENY};

use super::super::address;
use super::names::Names;
use crate::config::{Answer, Destination, Egress, Host};

/// Bits of an address before those of an IPv4 one.
const MAPPED_BITS: u32 = 96;

/// What EGRESS holds for one cgroup: prefix length in bits of the address, port (0: all), address → `EGRESS_` action.
pub(super) type Entries = BTreeMap<(u32, u16, [u8; 16]), u32>;

pub(super) fn action(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => EGRESS_ALLOW,
        Answer::Deny => EGRESS_DENY,
    }
}

/// What the kernel is told. `names` has the addresses that are known.
pub(super) fn entries(egress: &Egress, names: &Names, now: Instant) -> Entries {
    let other = match egress.default {
        Answer::Allow => EGRESS_DENY,
        Answer::Deny => EGRESS_ALLOW,
    };
    let mut entries = Entries::new();
    let mut add = |port, ip: IpAddr, prefix: u32| {
        let bits = if ip.is_ipv4() { MAPPED_BITS + prefix } else { prefix };
        entries.insert((bits, port, address::key(ip)), other);
    };
    for Destination { host, port } in &egress.except {
        let port = port.map_or(0, NonZero::get);
        match host {
            Host::Any => add(port, Ipv6Addr::UNSPECIFIED.into(), 0),
            Host::Net(ip, prefix) => add(port, *ip, (*prefix).into()),
            Host::Name(name) => {
                for (ip, source) in names.addresses(name, now) {
                    // Whoever answers for a name may close what it likes, and open no more than what may be elsewhere.
                    if egress.default == Answer::Allow || source.may_open(ip) {
                        add(port, ip, if ip.is_ipv4() { 32 } else { 128 });
                    }
                }
            }
        }
    }
    keep_ipv4_out(egress, &mut entries);
    entries
}

/// IPv4 addresses are keyed within `::ffff:0:0/96`, but a network of IPv6 that contains it does not mean them.
fn keep_ipv4_out(egress: &Egress, entries: &mut Entries) {
    let mapped: IpAddr = Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0).into();
    let contains = |ip: &IpAddr, prefix: u8| {
        ip.is_ipv6() && u32::from(prefix) <= MAPPED_BITS && covers(ip, prefix, &mapped)
    };
    for Destination { host, port } in &egress.except {
        let port = port.map_or(0, NonZero::get);
        let has_any = egress.except.iter().any(|other| {
            other.host == Host::Any && (other.port.is_none() || other.port.map_or(0, NonZero::get) == port)
        });
        if matches!(host, Host::Net(ip, prefix) if contains(ip, *prefix)) && !has_any {
            entries.entry((MAPPED_BITS, port, address::key(mapped))).or_insert(action(egress.default));
        }
    }
}

fn covers(net: &IpAddr, prefix: u8, ip: &IpAddr) -> bool {
    let (net, ip) = (u128::from_be_bytes(address::key(*net)), u128::from_be_bytes(address::key(*ip)));
    let keep = u128::MAX.checked_shl(128_u32.saturating_sub(prefix.into())).unwrap_or(0);
    net & keep == ip & keep
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::names::{Family, Found, Source};
    use super::*;

    fn egress(default: Answer, except: &[&str]) -> Egress {
        Egress { default, except: except.iter().map(|text| Destination::parse(text).unwrap()).collect() }
    }

    /// What a resolver said of a.example.
    fn names(addresses: &[&str]) -> Names {
        let mut names = Names::default();
        for family in [Family::V4, Family::V6] {
            let addresses = addresses.iter().map(|ip| ip.parse::<IpAddr>().unwrap());
            let addresses = addresses.filter(|ip| ip.is_ipv4() == (family == Family::V4)).collect();
            let found = Found::Addresses { addresses, ttl: Duration::from_secs(60), source: Source::Dns };
            names.learn(("a.example".to_owned(), family), found, Instant::now());
        }
        names
    }

    #[test]
    fn exceptions_get_the_other_answer_and_ipv4_is_counted_from_bit_96() {
        let found = entries(
            &egress(Answer::Deny, &["10.0.0.0/8:443", "[2001:db8::/32]:*"]),
            &Names::default(),
            Instant::now(),
        );
        let v4 = address::key("10.0.0.0".parse().unwrap());
        let v6 = address::key("2001:db8::".parse().unwrap());
        assert_eq!(found, Entries::from([((104, 443, v4), EGRESS_ALLOW), ((32, 0, v6), EGRESS_ALLOW)]));
    }

    #[test]
    fn all_of_ipv6_does_not_mean_ipv4() {
        let mapped = (96, 0, address::key(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0).into()));
        let found = entries(&egress(Answer::Deny, &["[::/0]:*"]), &Names::default(), Instant::now());
        assert_eq!(found.get(&mapped), Some(&EGRESS_DENY));
        let found =
            entries(&egress(Answer::Deny, &["[::/0]:*", "0.0.0.0/0:*"]), &Names::default(), Instant::now());
        assert_eq!(found.get(&mapped), Some(&EGRESS_ALLOW));
        assert_eq!(
            entries(&egress(Answer::Deny, &["*:*", "[::/0]:*"]), &Names::default(), Instant::now()).len(),
            1
        );
    }

    #[test]
    fn a_name_has_an_entry_for_each_address() {
        let egress = egress(Answer::Allow, &["a.example:443", "b.example:443"]);
        assert_eq!(entries(&egress, &names(&["192.0.2.1", "2001:db8::1"]), Instant::now()).len(), 2);
    }

    #[test]
    fn a_name_opens_nothing_local_and_closes_whatever_it_has() {
        let names = names(&["192.0.2.1", "127.0.0.1", "169.254.169.254", "::1"]);
        let keys = |default| -> Vec<_> {
            let entries = entries(&egress(default, &["a.example:443"]), &names, Instant::now());
            entries.into_keys().map(|(_, _, address)| address).collect()
        };
        assert_eq!(keys(Answer::Deny), [address::key("192.0.2.1".parse().unwrap())]);
        assert_eq!(keys(Answer::Allow).len(), 4);
    }
}
