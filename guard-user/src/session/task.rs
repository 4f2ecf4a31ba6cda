//! Tasks: calls whose result is fetched later, by other requests.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::ages::Ages;
use super::{Owner, Refused};
use crate::types::ServerName;

/// Longest task id, in bytes.
pub const TASK_ID_BYTES_MAX: usize = 1024;

/// The call that made a task. Its result belongs to that call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Made {
    pub owner: Owner,
    /// What was called: who asks for the result must still be allowed to see it.
    pub tool: String,
    /// Decision id of the call.
    pub decision: String,
}

/// All tasks. Pure: time is an argument, in milliseconds since 1970.
#[derive(Debug, Default)]
pub(super) struct Tasks {
    all: HashMap<Key, Task>,
    ages: Ages<Key>,
}

pub(super) type Key = (ServerName, Box<str>);

#[derive(Debug)]
struct Task {
    made: Made,
    at: u64,
    /// Its number in `ages`.
    number: u64,
}

impl Tasks {
    /// Binds a task that a server has just made. Of an agent with more than `per_agent_max`, the oldest is forgotten: which one.
    /// When it is refused for being somebody's, it is nobody's from now on.
    pub(super) fn add(
        &mut self,
        server: &ServerName,
        id: &str,
        made: Made,
        per_agent_max: usize,
        now: u64,
    ) -> Result<Option<Key>, Refused> {
        if id.len() > TASK_ID_BYTES_MAX {
            return Err(Refused::TooLong);
        }
        let key = (server.clone(), Box::from(id));
        // A server that counts begins anew when it is started again: of the same owner, it is the newer task. Of another one,
        // what it says by this id may be of either, and is nobody's.
        if self.all.get(&key).is_some_and(|known| known.made.owner != made.owner) {
            self.take(&key);
            return Err(Refused::Taken);
        }
        self.take(&key);
        let oldest = self.ages.oldest_of(&made.owner.agent, per_agent_max).map(|(_, oldest)| oldest);
        if let Some(oldest) = &oldest {
            self.take(oldest);
        }
        self.insert(key, made, now);
        Ok(oldest)
    }

    fn insert(&mut self, key: Key, made: Made, at: u64) {
        self.take(&key);
        let number = self.ages.add(&made.owner.agent, key.clone());
        self.all.insert(key, Task { made, at, number });
    }

    fn take(&mut self, key: &Key) {
        if let Some(task) = self.all.remove(key) {
            self.ages.remove(&task.made.owner.agent, task.number);
        }
    }

    pub(super) fn of(&self, server: &ServerName, id: &str, owner: &Owner) -> Option<&Made> {
        let Task { made, .. } = self.all.get(&(server.clone(), Box::from(id)))?;
        (made.owner == *owner).then_some(made)
    }

    /// Takes in what a former guard wrote down.
    pub(super) fn restore(&mut self, server: ServerName, id: &str, made: Made, at: u64) {
        self.insert((server, id.into()), made, at);
    }

    /// Takes one out. Whether there was one.
    pub(super) fn remove(&mut self, server: &ServerName, id: &str) -> bool {
        let before = self.all.len();
        self.take(&(server.clone(), id.into()));
        self.all.len() < before
    }

    /// Takes out those that `ends` wants gone.
    pub(super) fn end(&mut self, ends: impl Fn(&ServerName, &Owner) -> bool) -> Vec<Key> {
        let meant = self.all.iter().filter(|((server, _), task)| ends(server, &task.made.owner));
        let keys: Vec<Key> = meant.map(|(key, _)| key.clone()).collect();
        for key in &keys {
            self.take(key);
        }
        keys
    }

    pub(super) fn sweep(&mut self, now: u64, milliseconds_max: u64) {
        let ages = &mut self.ages;
        self.all.retain(|_, Task { made, at, number }| {
            let is_kept = now.saturating_sub(*at) < milliseconds_max;
            if !is_kept {
                ages.remove(&made.owner.agent, *number);
            }
            is_kept
        });
    }

    pub(super) fn each(&self) -> impl Iterator<Item = (&ServerName, &str, &Made, u64)> {
        self.all.iter().map(|((server, id), Task { made, at, .. })| (server, &**id, made, *at))
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}

#[cfg(test)]
mod tests {
    use super::super::owner::tests::owner;
    use super::*;

    fn made(agent: &str) -> Made {
        Made { owner: owner(agent), tool: "report".into(), decision: "d".into() }
    }

    #[test]
    fn a_task_belongs_to_whoever_made_it() {
        let server = ServerName::parse("crm").unwrap();
        let mut tasks = Tasks::default();
        tasks.add(&server, "1", made("a"), 10, 0).unwrap();
        assert_eq!(tasks.of(&server, "1", &owner("a")), Some(&made("a")));
        assert_eq!(tasks.of(&server, "1", &owner("b")), None);
        assert_eq!(tasks.of(&ServerName::parse("other").unwrap(), "1", &owner("a")), None);
        assert_eq!(tasks.add(&server, "1", made("b"), 10, 0), Err(Refused::Taken));
        assert_eq!(tasks.of(&server, "1", &owner("a")), None, "it may be the other one's by now");
        tasks.add(&server, "1", made("a"), 10, 0).unwrap();
        // A server that counts begins anew when it is started again.
        let other = Made { tool: "other".into(), ..made("a") };
        tasks.add(&server, "1", other.clone(), 10, 1).unwrap();
        assert_eq!(tasks.of(&server, "1", &owner("a")), Some(&other));
        let long = "x".repeat(TASK_ID_BYTES_MAX + 1);
        assert_eq!(tasks.add(&server, &long, made("a"), 10, 0), Err(Refused::TooLong));
    }

    #[test]
    fn who_makes_many_loses_the_oldest_of_his_own() {
        let server = ServerName::parse("crm").unwrap();
        let mut tasks = Tasks::default();
        tasks.add(&server, "other", made("b"), 2, 0).unwrap();
        for (now, id) in [(1, "1"), (2, "2"), (3, "3")] {
            tasks.add(&server, id, made("a"), 2, now).unwrap();
        }
        let known = |agent: &str, id| tasks.of(&server, id, &owner(agent)).is_some();
        assert_eq!(
            [known("a", "1"), known("a", "2"), known("a", "3"), known("b", "other")],
            [false, true, true, true]
        );
        tasks.sweep(12, 10);
        assert_eq!(tasks.len(), 1);
        tasks.sweep(13, 10);
        assert!(tasks.len() == 0 && tasks.ages.is_empty());
    }
}
