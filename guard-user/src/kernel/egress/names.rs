//! What is known of the names in servers' lock-downs, how long it holds, and when to ask again. Pure: time is an argument.
//!
//! An address holds for the time that its answer says (TTL), within limits, and a moment longer for clients that asked just before.
//! When a name cannot be resolved, the addresses of its last answer stay for the time of grace.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// A name is asked for no more often than this, whatever its answers say.
pub(super) const REFRESH_MIN: Duration = Duration::from_secs(5);
/// A name is asked for no more rarely than this.
pub(super) const REFRESH_MAX: Duration = Duration::from_secs(300);
/// How long an address stays when its time is over: who asked just before still connects.
pub(super) const OVERLAP: Duration = Duration::from_secs(5);
/// How long the addresses of the last answer stay when there are no more answers.
pub(super) const GRACE: Duration = Duration::from_secs(300);
/// When to ask again after a question without an answer.
pub(super) const RETRY: Duration = Duration::from_secs(10);
/// Addresses of one name in one family; the newest ones count.
pub(super) const ADDRESSES_MAX: usize = 64;

/// IPv4 or IPv6: each is asked for on its own, and each may fail on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Family {
    V4,
    V6,
}

/// A question to the resolver.
pub(super) type Question = (String, Family);

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// The name's addresses, none too, and how long they hold.
    Addresses { addresses: Vec<IpAddr>, ttl: Duration, source: Source },
    /// Nobody answered, or the name does not exist, in words.
    Nothing(String),
}

/// Who says that a name has an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// This host's own file, or the name `localhost`.
    Host,
    /// The network.
    Dns,
}

/// All names.
#[derive(Debug, Default)]
pub(super) struct Names {
    known: BTreeMap<Question, Known>,
}

#[derive(Debug)]
struct Known {
    addresses: BTreeMap<IpAddr, Held>,
    /// When to ask again.
    due: Instant,
    /// Why there was no answer, the last time.
    failure: Option<String>,
    /// The last answer had more addresses than are held.
    is_cut: bool,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    until: Instant,
    /// Until when it stays if there is no newer answer.
    without_news: Instant,
    is_newest: bool,
    source: Source,
}

impl Held {
    fn holds(&self, now: Instant) -> bool {
        now < if self.is_newest { self.without_news } else { self.until }
    }
}

impl Names {
    /// Which of these names to ask for now.
    pub(super) fn due<'a>(&self, names: impl IntoIterator<Item = &'a str>, now: Instant) -> Vec<Question> {
        let questions = names
            .into_iter()
            .flat_map(|name| [Family::V4, Family::V6].map(|family| (name.to_owned(), family)));
        questions.filter(|question| self.known.get(question).is_none_or(|known| known.due <= now)).collect()
    }

    /// How long to wait until some name is due.
    pub(super) fn pause(&self, now: Instant) -> Duration {
        let next = self.known.values().map(|known| known.due.saturating_duration_since(now)).min();
        next.unwrap_or(REFRESH_MAX)
    }

    /// Notes what came of a question, and forgets what does not hold any more.
    pub(super) fn learn(&mut self, question: Question, found: Found, now: Instant) {
        let known = self.known.entry(question).or_insert_with(|| Known {
            addresses: BTreeMap::new(),
            due: now,
            failure: None,
            is_cut: false,
        });
        match found {
            Found::Addresses { addresses, ttl, source } => {
                let ttl = ttl.clamp(REFRESH_MIN, REFRESH_MAX);
                known.due = now + ttl;
                known.failure = None;
                known.is_cut = addresses.len() > ADDRESSES_MAX;
                known.addresses.values_mut().for_each(|held| held.is_newest = false);
                let until = now + ttl + OVERLAP;
                let held = Held { until, without_news: now + ttl + GRACE, is_newest: true, source };
                let newest = addresses.into_iter().take(ADDRESSES_MAX);
                known.addresses.extend(newest.map(|ip| (ip.to_canonical(), held)));
            }
            Found::Nothing(why) => {
                known.due = now + RETRY;
                known.failure = Some(why);
            }
        }
        known.addresses.retain(|_, held| held.holds(now));
        known.keep_newest();
    }

    /// The addresses of a name, and who says so.
    pub(super) fn addresses(&self, name: &str, now: Instant) -> impl Iterator<Item = (IpAddr, Source)> {
        let known = [Family::V4, Family::V6].into_iter().filter_map(|family| self.of(name, family));
        known.flat_map(move |known| {
            let holding = known.addresses.iter().filter(move |(_, held)| held.holds(now));
            holding.map(|(ip, held)| (*ip, held.source))
        })
    }

    /// What is wrong with a name, in words: nothing is said of one family as long as the other one works.
    pub(super) fn problems(&self, name: &str, now: Instant) -> Vec<String> {
        let families = || [Family::V4, Family::V6].into_iter().filter_map(|family| self.of(name, family));
        let mut problems = Vec::new();
        let has_none = self.addresses(name, now).next().is_none();
        for known in families() {
            let Some(why) = &known.failure else { continue };
            match known.addresses.values().filter(|held| held.holds(now)).count() {
                0 if has_none => problems.push(format!("{name} has no address: {why}")),
                0 => {}
                held => problems.push(format!(
                    "{name} cannot be resolved: {why}; what it had ({held}) holds for some minutes"
                )),
            }
        }
        problems.dedup();
        if families().any(|known| known.is_cut) {
            problems
                .push(format!("{name} has more than {ADDRESSES_MAX} addresses; the rest counts for nothing"));
        }
        let never: Vec<_> = self
            .addresses(name, now)
            .filter(|(ip, source)| !source.may_open(*ip))
            .map(|(ip, _)| ip.to_string())
            .collect();
        if !never.is_empty() {
            problems.push(format!(
                "{name} resolves to {}, which no name opens; if that is meant, name the address itself",
                never.join(", ")
            ));
        }
        problems
    }

    fn of(&self, name: &str, family: Family) -> Option<&Known> {
        // The map has few entries, and its keys are owned.
        self.known.get(&(name.to_owned(), family))
    }
}

impl Known {
    fn keep_newest(&mut self) {
        let Some(over) = self.addresses.len().checked_sub(ADDRESSES_MAX).filter(|over| *over > 0) else {
            return;
        };
        let mut oldest: Vec<_> =
            self.addresses.iter().map(|(ip, held)| (held.is_newest, held.until, *ip)).collect();
        oldest.sort_unstable();
        for (_, _, ip) in oldest.into_iter().take(over) {
            self.addresses.remove(&ip);
        }
    }
}

impl Source {
    /// Whether a name that this source resolves opens the address. The network must not decide that a server may
    /// connect to this host's own loopback or to the services of its link, as a cloud's metadata.
    pub(super) fn may_open(self, ip: IpAddr) -> bool {
        self == Self::Host || !is_local(ip)
    }
}

/// Where some clouds answer for their metadata beside 169.254.169.254.
const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254);

/// Addresses that mean this host, its link, or many.
fn is_local(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_local_v4(ip),
        IpAddr::V6(ip) => {
            ip.is_unspecified()
                || ip.is_loopback()
                || ip.is_unicast_link_local()
                || ip.is_multicast()
                || ip == METADATA_V6
                || embedded(ip).is_some_and(is_local_v4)
        }
    }
}

fn is_local_v4(ip: Ipv4Addr) -> bool {
    ip.octets().first() == Some(&0)
        || ip.is_loopback()
        || ip.is_link_local()
        || ip.is_multicast()
        || ip.is_broadcast()
}

/// The IPv4 address within one of IPv6: mapped, compatible, or for a translator (`64:ff9b::/96`).
fn embedded(ip: Ipv6Addr) -> Option<Ipv4Addr> {
    const TRANSLATED: [u8; 12] = [0, 0x64, 0xff, 0x9b, 0, 0, 0, 0, 0, 0, 0, 0];
    let octets = ip.octets();
    let [.., a, b, c, d] = octets;
    ip.to_ipv4().or_else(|| octets.starts_with(&TRANSLATED).then(|| Ipv4Addr::new(a, b, c, d)))
}

#[cfg(test)]
mod tests;
