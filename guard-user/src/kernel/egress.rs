//! The lock-down of servers: where the processes of a server's cgroup may connect.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use aya::maps::lpm_trie::Key;
use guard_common::{EGRESS_ALLOW, EGRESS_DENY, Egress as Place, Lock, PREFIX_BITS_FIXED};
use serde::Serialize;

use super::gates::{self, Gates};
use super::maps::{Maps, gone, lock};
use super::{address, cut, rules};
use crate::config::{Answer, Destination, Egress, Host, Server};

/// The programs of a lock, in the order in which they are attached.
const PROGRAMS: [&str; 5] = ["out4", "out6", "say4", "say6", "leave"];
/// How often names are resolved again. The library that asks does not tell how long an answer holds.
pub(super) const NAMES_EVERY: Duration = Duration::from_secs(30);
/// How long an address stays that its name has no more: clients go on with what they know.
pub(super) const NAMES_GRACE: Duration = Duration::from_secs(300);
/// Bits of an address before those of an IPv4 one.
const MAPPED_BITS: u32 = 96;
/// An entry's prefix length stands above its action.
const PREFIX_SHIFT: u32 = 8;

/// What EGRESS holds for one cgroup: prefix length in bits of the address, port (0: all), address → `EGRESS_` action.
type Entries = BTreeMap<(u32, u16, [u8; 16]), u32>;

/// Locks servers in.
pub(crate) struct Locks {
    gates: Arc<Gates>,
    root: PathBuf,
    /// By cgroup id.
    locked: Mutex<BTreeMap<u64, Locked>>,
    names: Mutex<BTreeMap<String, BTreeMap<IpAddr, Instant>>>,
    /// Cgroups of servers that are not to be locked in, and are not.
    free: Mutex<BTreeSet<u64>>,
    /// Servers that should be locked in and are not, and why.
    failed: Mutex<BTreeMap<String, String>>,
}

struct Locked {
    server: String,
    dir: PathBuf,
    entries: Entries,
}

/// What `status` shows of one lock.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LockStatus {
    pub server: String,
    pub cgroup: PathBuf,
    /// Entries in the kernel; a name has one for each of its addresses.
    pub destinations: usize,
    /// `connect` calls that were refused.
    pub connects: u64,
    /// Datagrams that were refused.
    pub sends: u64,
    /// Packets that were dropped beside.
    pub packets: u64,
}

impl Locks {
    pub(super) fn new(gates: Arc<Gates>, root: &Path) -> Self {
        Self {
            gates,
            root: root.to_owned(),
            locked: Mutex::default(),
            names: Mutex::default(),
            free: Mutex::default(),
            failed: Mutex::default(),
        }
    }

    /// Locks each server in at the cgroup of its pinned process (path as `/proc/<pid>/cgroup` gives it), and frees
    /// cgroups that are gone. Cheap when nothing has changed.
    pub(crate) fn refresh(&self, maps: &Maps, pinned: &[(Arc<Server>, String)]) {
        let mut failed = BTreeMap::new();
        for (server, path) in pinned {
            let done = match &server.egress {
                Some(egress) => self.lock_in(maps, server, egress, path),
                None => self.set_free(maps, path),
            };
            if let Err(error) = done {
                failed.insert(server.name.to_string(), format!("{error:#}"));
            }
        }
        if let Err(error) = self.free_gone(maps) {
            tracing::error!("cannot forget the locks of cgroups that are gone: {error:#}");
        }
        let mut told = lock(&self.failed);
        if *told != failed {
            for (server, words) in &failed {
                tracing::error!(server, "NOT LOCKED IN: {words}");
            }
            *told = failed;
        }
    }

    fn lock_in(&self, maps: &Maps, server: &Server, egress: &Egress, path: &str) -> anyhow::Result<()> {
        check_cgroup(server, path)?;
        let dir = gates::directory(&self.root, path);
        let id = gates::id(&dir).with_context(|| format!("cannot look at {}", dir.display()))?;
        let wanted = entries(egress, &lock(&self.names));
        let mut locked = lock(&self.locked);
        let known = locked.get(&id);
        if known.is_some_and(|known| known.entries == wanted) {
            return Ok(());
        }
        // What an older start wrote for this cgroup is not known here.
        let before = match known {
            Some(known) => known.entries.clone(),
            None => stored(maps, id),
        };
        write(maps, id, &before, &wanted).context("cannot write the destinations")?;
        let default = action(egress.default);
        let value = Lock { default, zero: 0, server: rules::server_key(server.name.as_str()) };
        lock(&maps.locks).insert(id, value, 0).context("cannot lock the cgroup")?;
        for program in PROGRAMS {
            // The calls are refused all the same; `status` tells of the missing program.
            if self.gates.missing(program).is_none() {
                self.gates.attach(program, &dir, id)?;
            }
        }
        if known.is_none() {
            tracing::info!(server = %server.name, cgroup = %dir.display(), "locked in");
        }
        locked.insert(id, Locked { server: server.name.to_string(), dir, entries: wanted });
        Ok(())
    }

    /// A guard before this one may have locked in what is not to be locked in any more.
    fn set_free(&self, maps: &Maps, path: &str) -> anyhow::Result<()> {
        let Ok(id) = gates::id(&gates::directory(&self.root, path)) else { return Ok(()) };
        if lock(&self.free).insert(id) && lock(&maps.locks).get(&id, 0).is_ok() {
            self.unlock(maps, id, &stored(maps, id))?;
        }
        Ok(())
    }

    /// Forgets locks of cgroups that went while no guard ran.
    pub(super) fn free_left(&self, maps: &Maps) -> anyhow::Result<()> {
        let locked: Vec<u64> = lock(&maps.locks).keys().filter_map(Result::ok).collect();
        if locked.is_empty() {
            return Ok(());
        }
        let there = cut::below(&self.root);
        for id in locked.into_iter().filter(|id| !there.contains(id)) {
            self.unlock(maps, id, &stored(maps, id))?;
        }
        Ok(())
    }

    fn unlock(&self, maps: &Maps, id: u64, entries: &Entries) -> anyhow::Result<()> {
        for program in PROGRAMS {
            self.gates.detach(program, id)?;
        }
        gone(lock(&maps.locks).remove(&id)).context("cannot free a cgroup")?;
        write(maps, id, entries, &Entries::new()).context("cannot forget destinations")
    }

    fn free_gone(&self, maps: &Maps) -> anyhow::Result<()> {
        let mut locked = lock(&self.locked);
        let over: Vec<u64> = locked
            .iter()
            .filter(|(id, known)| gates::id(&known.dir).ok() != Some(**id))
            .map(|(id, _)| *id)
            .collect();
        for id in over {
            if let Some(known) = locked.remove(&id) {
                self.unlock(maps, id, &known.entries)?;
            }
        }
        Ok(())
    }

    /// Resolves every name anew. Takes as long as the host's resolver does; the kernel follows at the next `refresh`.
    pub(super) fn resolve(&self, servers: &[Arc<Server>], now: Instant) {
        let names: BTreeSet<&str> = servers
            .iter()
            .filter_map(|server| server.egress.as_ref())
            .flat_map(|egress| &egress.except)
            .filter_map(|destination| match &destination.host {
                Host::Name(name) => Some(name.as_str()),
                _ => None,
            })
            .collect();
        for name in names {
            let found = (name, 0).to_socket_addrs();
            if let Err(error) = &found {
                tracing::warn!(name, %error, "cannot resolve; the addresses that are known stay for a while");
            }
            let found = found.into_iter().flatten().map(|address| address.ip());
            renew(lock(&self.names).entry(name.to_owned()).or_default(), found, now);
        }
    }

    pub(crate) fn status(&self, maps: &Maps) -> Vec<LockStatus> {
        lock(&self.locked)
            .iter()
            .map(|(id, known)| {
                let refused = maps.egress_refused(*id);
                LockStatus {
                    server: known.server.clone(),
                    cgroup: known.dir.clone(),
                    destinations: known.entries.len(),
                    connects: refused.connects,
                    sends: refused.sends,
                    packets: refused.packets,
                }
            })
            .collect()
    }

    /// What is not as `guard.yaml` wants it, in words.
    pub(crate) fn problems(&self, has_locks: bool) -> Vec<String> {
        let mut problems: Vec<_> =
            lock(&self.failed).iter().map(|(server, words)| format!("{server}: {words}")).collect();
        if has_locks && let Some(why) = self.gates.missing("leave") {
            problems.push(format!(
                "this kernel cannot look at packets, so raw ones and connections from before the lock leave: {why} (Linux \
                 6.15 has what it needs)"
            ));
        }
        problems
    }

    /// The locked cgroup of a server, for who records a refusal.
    pub(crate) fn server_of(&self, cgroup: u64) -> Option<String> {
        lock(&self.locked).get(&cgroup).map(|known| known.server.clone())
    }
}

/// Adds the addresses that a name has `now`, and forgets those that it has not had for long.
fn renew(known: &mut BTreeMap<IpAddr, Instant>, found: impl Iterator<Item = IpAddr>, now: Instant) {
    known.extend(found.map(|ip| (ip.to_canonical(), now)));
    known.retain(|_, seen| now.duration_since(*seen) < NAMES_GRACE);
}

/// A lock on the root cgroup would be one on the whole host.
pub(super) fn check_cgroup(server: &Server, path: &str) -> anyhow::Result<()> {
    if server.egress.is_some() && path.trim_matches('/').is_empty() {
        bail!(
            "server {} runs in the root cgroup, as any process may, so `egress` would lock in the whole host; start it in a \
             unit of its own (`systemd-run --unit NAME ...`), or remove its `egress`",
            server.name
        );
    }
    Ok(())
}

fn action(answer: Answer) -> u32 {
    match answer {
        Answer::Allow => EGRESS_ALLOW,
        Answer::Deny => EGRESS_DENY,
    }
}

/// What the kernel is told. `names` are the addresses that are known.
fn entries(egress: &Egress, names: &BTreeMap<String, BTreeMap<IpAddr, Instant>>) -> Entries {
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
        let port = port.map_or(0, std::num::NonZero::get);
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
        let port = port.map_or(0, std::num::NonZero::get);
        let has_any = egress.except.iter().any(|other| {
            other.host == Host::Any
                && (other.port.is_none() || other.port.map_or(0, std::num::NonZero::get) == port)
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

/// Writes what is new or other, then removes what is no more.
fn write(maps: &Maps, cgroup: u64, before: &Entries, after: &Entries) -> anyhow::Result<()> {
    let key = |(bits, port, address): &(u32, u16, [u8; 16])| {
        Key::new(PREFIX_BITS_FIXED + bits, Place::new(cgroup, *port, *address))
    };
    let mut egress = lock(&maps.egress);
    for (place, action) in after.iter().filter(|(place, action)| before.get(*place) != Some(*action)) {
        egress.insert(&key(place), place.0 << PREFIX_SHIFT | action, 0)?;
    }
    for place in before.keys().filter(|place| !after.contains_key(*place)) {
        gone(egress.remove(&key(place)))?;
    }
    Ok(())
}

/// What EGRESS holds for a cgroup.
fn stored(maps: &Maps, cgroup: u64) -> Entries {
    let own = Place::new(cgroup, 0, [0; 16]).cgroup;
    let egress = lock(&maps.egress);
    let entries = egress.iter().filter_map(Result::ok).filter_map(|(key, value)| {
        let (bits, place) = (key.prefix_len(), key.data());
        (place.cgroup == own)
            .then(|| ((bits.saturating_sub(PREFIX_BITS_FIXED), place.port, place.address), value & 0xff))
    });
    entries.collect()
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
        renew(&mut known, [new].into_iter(), start + NAMES_GRACE.saturating_sub(NAMES_EVERY));
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
