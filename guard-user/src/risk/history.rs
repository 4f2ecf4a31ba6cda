//! What agents did before: what they have called, how often today, and how often they were refused lately. Time comes in as an
//! argument: milliseconds since 1970.
//!
//! Keys come from policies alone, so there are few. Where one has no room all the same, its calls stay new, and are counted
//! together with all others that have none.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Known;
use crate::config::read_bounded;
use crate::types::{AgentName, ServerName};

/// In the state directory.
pub const HISTORY_FILE: &str = "risk.snapshot";
/// How long a call is remembered.
pub const KNOWN_DAYS: u64 = 31;
/// Calls that are told apart, of one agent.
pub const CALLS_PER_AGENT_MAX: usize = 16 * 1024;
/// Agents that are remembered.
pub const AGENTS_MAX: usize = 64 * 1024;
/// Refusals of one agent that are counted.
pub const REFUSALS_MAX: usize = 256;

const FORMAT: u32 = 1;
const FILE_BYTES_MAX: usize = 1024 * 1024 * 1024;
const SHARDS: usize = 64;
const HOUR: u64 = 60 * 60 * 1000;
const DAY: u64 = 24 * HOUR;

/// What all agents did. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History(Arc<Store>);

type Shard = Mutex<HashMap<AgentName, Agent>>;

#[derive(Debug)]
struct Store {
    first: Shard,
    others: [Shard; SHARDS - 1],
    hasher: RandomState,
    /// Moves with each change.
    version: AtomicU64,
}

#[derive(Debug, Default)]
struct Agent {
    calls: HashMap<Box<str>, Calls>,
    /// Those that have no room by themselves.
    others: Calls,
    /// When its last calls were refused, in milliseconds.
    refusals: VecDeque<u64>,
}

/// How often something was called on the last day on which it was.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Calls {
    /// Since 1970.
    day: u64,
    count: u64,
}

/// Where the trail goes on after a snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Restored {
    pub trail: String,
    pub next_record: u64,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Saved {
    format: u32,
    trail: String,
    next_record: u64,
    agents: BTreeMap<String, SavedAgent>,
}

#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SavedAgent {
    /// What, the day, and how often.
    calls: Vec<(String, u64, u64)>,
    others: (u64, u64),
    refusals: Vec<u64>,
}

impl History {
    pub fn new() -> Self {
        Self(Arc::new(Store {
            first: Shard::default(),
            others: std::array::from_fn(|_| Shard::default()),
            hasher: RandomState::new(),
            version: AtomicU64::new(0),
        }))
    }

    /// What is known before a call of `agent` at `now`; `what` is what the policy counts it as.
    pub fn known(&self, now: u64, agent: &AgentName, server: &ServerName, what: &str) -> Known {
        let shard = self.shard(agent);
        let Some(agent) = shard.get(agent) else { return Known { is_new: true, ..Known::default() } };
        let found = agent.calls.get(&*key(server, what)).filter(|calls| !calls.is_over(now));
        let today = match found {
            Some(calls) => calls.today(now),
            None if agent.is_full() => agent.others.today(now),
            None => 0,
        };
        let refused = agent.refusals.iter().filter(|at| now.saturating_sub(**at) < HOUR).count();
        let refused = u64::try_from(refused).unwrap_or(u64::MAX);
        Known { is_new: found.is_none(), today, refused, changed: None }
    }

    /// Takes in a call that goes on.
    pub fn allowed(&self, now: u64, agent: &AgentName, server: &ServerName, what: &str) {
        let mut shard = self.shard(agent);
        let Some(agent) = room_for(&mut shard, agent, now) else { return };
        let key = key(server, what);
        if !agent.calls.contains_key(&*key) && agent.is_full() {
            agent.calls.retain(|_, calls| !calls.is_over(now));
        }
        if agent.calls.contains_key(&*key) || !agent.is_full() {
            agent.calls.entry(key).or_default().add(now);
        } else {
            agent.others.add(now);
        }
        self.0.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes in a call that was refused.
    pub fn refused(&self, now: u64, agent: &AgentName) {
        let mut shard = self.shard(agent);
        let Some(agent) = room_for(&mut shard, agent, now) else { return };
        if agent.refusals.len() >= REFUSALS_MAX {
            agent.refusals.pop_front();
        }
        agent.refusals.push_back(now);
        self.0.version.fetch_add(1, Ordering::Relaxed);
    }

    /// Another one after each change.
    pub fn version(&self) -> u64 {
        self.0.version.load(Ordering::Relaxed)
    }

    /// Gives back what is over.
    pub fn tidy(&self, now: u64) {
        for shard in self.0.shards() {
            tidy(&mut lock(shard), now);
        }
    }

    /// Writes everything to `dir`. What comes meanwhile may be in it or not, so `about.next_record` must be from before.
    pub fn save(&self, dir: &Path, about: &Restored) -> io::Result<()> {
        let mut agents = BTreeMap::new();
        for shard in self.0.shards() {
            for (name, agent) in lock(shard).iter() {
                let calls = agent.calls.iter().map(|(key, calls)| (key.to_string(), calls.day, calls.count));
                let saved = SavedAgent {
                    calls: calls.collect(),
                    others: (agent.others.day, agent.others.count),
                    refusals: agent.refusals.iter().copied().collect(),
                };
                agents.insert(name.to_string(), saved);
            }
        }
        let Restored { trail, next_record } = about.clone();
        let saved = Saved { format: FORMAT, trail, next_record, agents };
        let mut next = tempfile::Builder::new().prefix(".risk-").tempfile_in(dir)?;
        next.write_all(&serde_json::to_vec(&saved)?)?;
        next.as_file().sync_all()?;
        next.persist(dir.join(HISTORY_FILE)).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    }

    /// Takes over what [`History::save`] wrote to `dir`; `None`: there is nothing. Only for one that knows nothing yet.
    pub fn restore(&self, dir: &Path) -> io::Result<Option<Restored>> {
        let bytes = match read_bounded(&dir.join(HISTORY_FILE), FILE_BYTES_MAX) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let saved: Saved = serde_json::from_slice(&bytes)?;
        if saved.format != FORMAT {
            return Err(io::Error::other("another version of the guard wrote it"));
        }
        for (name, saved) in saved.agents {
            let name = AgentName::parse(&name).map_err(io::Error::other)?;
            let calls = saved.calls.into_iter().take(CALLS_PER_AGENT_MAX);
            let calls = calls.map(|(key, day, count)| (key.into(), Calls { day, count })).collect();
            let others = Calls { day: saved.others.0, count: saved.others.1 };
            let refusals = saved.refusals.into_iter().take(REFUSALS_MAX).collect();
            self.shard(&name).insert(name, Agent { calls, others, refusals });
        }
        Ok(Some(Restored { trail: saved.trail, next_record: saved.next_record }))
    }

    fn shard(&self, agent: &AgentName) -> MutexGuard<'_, HashMap<AgentName, Agent>> {
        let hash = usize::try_from(self.0.hasher.hash_one(agent) >> 32).unwrap_or_default();
        lock(self.0.others.get(hash % SHARDS).unwrap_or(&self.0.first))
    }
}

impl Store {
    fn shards(&self) -> impl Iterator<Item = &Shard> {
        std::iter::once(&self.first).chain(&self.others)
    }
}

impl Default for History {
    fn default() -> Self {
        Self::new()
    }
}

impl Agent {
    fn is_full(&self) -> bool {
        self.calls.len() >= CALLS_PER_AGENT_MAX
    }

    fn is_over(&self, now: u64) -> bool {
        let is_lately = |at: &u64| now.saturating_sub(*at) < HOUR;
        !self.refusals.iter().any(is_lately) && self.calls.values().all(|calls| calls.is_over(now))
    }
}

impl Calls {
    fn add(&mut self, now: u64) {
        let day = now / DAY;
        // A clock that goes back begins no new day.
        if day > self.day {
            *self = Self { day, count: 0 };
        }
        self.count = self.count.saturating_add(1);
    }

    fn today(self, now: u64) -> u64 {
        if self.day >= now / DAY { self.count } else { 0 }
    }

    fn is_over(self, now: u64) -> bool {
        (now / DAY).saturating_sub(self.day) > KNOWN_DAYS
    }
}

fn room_for<'s>(
    shard: &'s mut HashMap<AgentName, Agent>,
    agent: &AgentName,
    now: u64,
) -> Option<&'s mut Agent> {
    let max = AGENTS_MAX / SHARDS;
    if !shard.contains_key(agent) && shard.len() >= max {
        tidy(shard, now);
        if shard.len() >= max {
            return None;
        }
    }
    Some(shard.entry(agent.clone()).or_default())
}

fn tidy(shard: &mut HashMap<AgentName, Agent>, now: u64) {
    shard.retain(|_, agent| {
        agent.calls.retain(|_, calls| !calls.is_over(now));
        !agent.is_over(now)
    });
}

/// No server's name holds a line's end.
fn key(server: &ServerName, what: &str) -> Box<str> {
    format!("{server}\n{what}").into()
}

/// The data is consistent between any two statements that can panic, so a poisoned lock is taken over.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: u64 = 20_000 * DAY + DAY / 2;

    fn names() -> (AgentName, ServerName) {
        (AgentName::parse("a").unwrap(), ServerName::parse("s").unwrap())
    }

    #[test]
    fn calls_are_counted_by_the_day_and_forgotten_after_a_month() {
        let (history, (agent, server)) = (History::new(), names());
        let known = |now, what: &str| history.known(now, &agent, &server, what);
        assert!(known(NOON, "tool:x").is_new);
        for _ in 0..5 {
            history.allowed(NOON, &agent, &server, "tool:x");
        }
        assert_eq!(known(NOON, "tool:x"), Known { is_new: false, today: 5, refused: 0, changed: None });
        assert!(known(NOON, "tool:y").is_new && known(NOON, "tool:y").today == 0);
        assert_eq!(known(NOON + DAY, "tool:x"), Known::default());
        assert!(!known(NOON + KNOWN_DAYS * DAY, "tool:x").is_new);
        assert!(known(NOON + (KNOWN_DAYS + 1) * DAY, "tool:x").is_new);
        // A clock that goes back makes nothing forgotten, and begins no day.
        assert_eq!(known(NOON - 3 * DAY, "tool:x").today, 5);
        history.allowed(NOON - 3 * DAY, &agent, &server, "tool:x");
        assert_eq!(known(NOON, "tool:x").today, 6);
        let other = AgentName::parse("b").unwrap();
        assert!(history.known(NOON, &other, &server, "tool:x").is_new);
    }

    #[test]
    fn refusals_are_counted_for_an_hour_and_make_nothing_known() {
        let (history, (agent, server)) = (History::new(), names());
        for at in [0, 1, 2] {
            history.refused(NOON + at, &agent);
        }
        let known = |now| history.known(now, &agent, &server, "tool:x");
        assert_eq!((known(NOON + 3).refused, known(NOON + HOUR + 1).refused), (3, 1));
        assert!(known(NOON + 3).is_new);
        for _ in 0..10_000 {
            history.refused(NOON, &agent);
        }
        assert_eq!(known(NOON).refused, 256);
    }

    #[test]
    fn what_has_no_room_stays_new_and_is_counted_with_all_that_has_none() {
        let (history, (agent, server)) = (History::new(), names());
        for number in 0..CALLS_PER_AGENT_MAX + 100 {
            history.allowed(NOON, &agent, &server, &format!("tool:{number}"));
        }
        let known = history.known(NOON, &agent, &server, "tool:of no room");
        assert_eq!((known.is_new, known.today), (true, 100));
        assert!(!history.known(NOON, &agent, &server, "tool:0").is_new);
        // After a month there is room again.
        let later = NOON + (KNOWN_DAYS + 2) * DAY;
        history.allowed(later, &agent, &server, "tool:new");
        assert!(!history.known(later, &agent, &server, "tool:new").is_new);
        history.tidy(later + (KNOWN_DAYS + 2) * DAY);
        assert!(history.0.shards().all(|shard| lock(shard).is_empty()));
    }

    #[test]
    fn what_is_known_outlives_the_guard_and_a_damaged_file_is_told() {
        let (dir, history, (agent, server)) = (tempfile::tempdir().unwrap(), History::new(), names());
        assert_eq!(History::new().restore(dir.path()).unwrap(), None);
        history.allowed(NOON, &agent, &server, "tool:x");
        history.refused(NOON, &agent);
        let about = Restored { trail: "t".into(), next_record: 7 };
        history.save(dir.path(), &about).unwrap();
        let next = History::new();
        assert_eq!(next.restore(dir.path()).unwrap(), Some(about));
        let known = next.known(NOON, &agent, &server, "tool:x");
        assert_eq!(known, Known { is_new: false, today: 1, refused: 1, changed: None });
        for bad in ["", "{", r#"{"format":2,"trail":"t","next_record":0,"agents":{}}"#] {
            std::fs::write(dir.path().join(HISTORY_FILE), bad).unwrap();
            assert!(History::new().restore(dir.path()).is_err(), "{bad}");
        }
    }
}
