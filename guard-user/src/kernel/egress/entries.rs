//! What the kernel is told of a server's destinations. Pure: time is an argument.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZero;
use std::time::{Duration, Instant};

use guard_common::{EGRESS_ALLOW, EGRESS_DENY};

use super::super::address;
use crate::config::{Answer, Destination, Egress, Host};

/// How often names are resolved again. The library that asks does not tell how long an answer holds.
pub(in crate::kernel) const NAMES_EVERY: Duration = Duration::from_secs(30);
/// How long an address stays that its name has no more: clients go on with what they know.
pub(super) const NAMES_GRACE: Duration = Duration::from_secs(300);
/// Bits of an address before those of an IPv4 one.
const MAPPED_BITS: u32 = 96;

/// What EGRESS holds for one cgroup: prefix length in bits of the address, port (0: all), address → `EGRESS_` action.
pub(super) type Entries = BTreeMap<(u32, u16, [u8; 16]), u32>;

/// The addresses of each name, and when it had them last.
pub(super) type Names = BTreeMap<String, BTreeMap<IpAddr, Instant>>;

/// Adds the addresses that a name has `now`, and forgets those that it has not had for long.
pub(super) fn renew(
    known: &mut BTreeMap<IpAddr, Instant>,
    found: impl Iterator<Item = IpAddr>,
    now: Instant,
) {
    known.extend(found.map(|ip| (ip.to_canonical(), now)));
    known.retain(|_, seen| now.duration_since(*seen) < NAMES_GRACE);
}

pub(super) fn action(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => EGRESS_ALLOW,
        Answer::Deny => EGRESS_DENY,
    }
}

/// What the kernel is told. `names` are the addresses that are known.
pub(super) fn entries(egress: &Egress, names: &Names) -> Entries {
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
                for ip in names.get(name).into_iter().flatten().map(|(ip, _)| *ip) {
                    add(port, ip, if ip.is_ipv4() { 32 } else { 128 });
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
    use super::*;

    fn egress(default: Answer, except: &[&str]) -> Egress {
        Egress { default, except: except.iter().map(|text| Destination::parse(text).unwrap()).collect() }
    }

    #[test]
    fn exceptions_get_the_other_answer_and_ipv4_is_counted_from_bit_96() {
        let found =
            entries(&egress(Answer::Deny, &["10.0.0.0/8:443", "[2001:db8::/32]:*"]), &BTreeMap::new());
        let v4 = address::key("10.0.0.0".parse().unwrap());
        let v6 = address::key("2001:db8::".parse().unwrap());
        assert_eq!(found, Entries::from([((104, 443, v4), EGRESS_ALLOW), ((32, 0, v6), EGRESS_ALLOW)]));
    }

    #[test]
    fn all_of_ipv6_does_not_mean_ipv4() {
        let mapped = (96, 0, address::key(Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, 0, 0).into()));
        let found = entries(&egress(Answer::Deny, &["[::/0]:*"]), &BTreeMap::new());
        assert_eq!(found.get(&mapped), Some(&EGRESS_DENY));
        let found = entries(&egress(Answer::Deny, &["[::/0]:*", "0.0.0.0/0:*"]), &BTreeMap::new());
        assert_eq!(found.get(&mapped), Some(&EGRESS_ALLOW));
        assert_eq!(entries(&egress(Answer::Deny, &["*:*", "[::/0]:*"]), &BTreeMap::new()).len(), 1);
    }

    #[test]
    fn an_address_that_its_name_has_no_more_stays_for_the_time_of_grace() {
        let (mut known, start) = (BTreeMap::new(), Instant::now());
        let [old, new]: [IpAddr; 2] = ["::ffff:192.0.2.1", "192.0.2.2"].map(|ip| ip.parse().unwrap());
        renew(&mut known, [old].into_iter(), start);
        renew(&mut known, [new].into_iter(), start + NAMES_EVERY);
        assert_eq!(known.len(), 2);
        renew(&mut known, [].into_iter(), start + NAMES_GRACE);
        assert_eq!(known.into_keys().collect::<Vec<_>>(), [new]);
    }

    #[test]
    fn a_name_has_an_entry_for_each_address() {
        let now = Instant::now();
        let ips = ["192.0.2.1", "2001:db8::1"].map(|ip| (ip.parse().unwrap(), now));
        let names = BTreeMap::from([("a.example".to_owned(), BTreeMap::from(ips))]);
        assert_eq!(entries(&egress(Answer::Allow, &["a.example:443", "b.example:443"]), &names).len(), 2);
    }
}
