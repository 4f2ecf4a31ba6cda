//! How often an agent may do it: exact sliding windows. Time comes in as an argument.
//!
//! Counts belong to an agent, an intent pattern and a window's length, not to a policy version: they outlive a
//! reload, and a changed `max_calls` judges the calls already made. They do not outlive the process.

mod window;

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use window::Window;

use crate::policy::{ExceededAction, IntentPattern, RuleName, VelocityRule};
use crate::types::AgentName;

/// Locks that agents are spread over.
const SHARDS: usize = 64;

/// All windows. Keys come from rules alone, so a peer cannot add any; each holds at most `max_calls` times 8 bytes.
#[derive(Debug)]
pub struct Velocity {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
}

type Shard = HashMap<AgentName, Vec<Counter>>;

/// One agent's window for one intent pattern.
#[derive(Debug)]
struct Counter {
    intent: IntentPattern,
    window_milliseconds: u64,
    window: Window,
}

/// Whether a call is within its rules.
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// It is, and was counted.
    Within,
    /// It is not, and was not counted by any rule.
    Exceeded(Exceeded),
}

/// Which rule a call exceeds. Of several, a deny rule before an escalate rule, then the one to wait for longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exceeded {
    pub rule: RuleName,
    pub action: ExceededAction,
    /// The rule's reason, or a sentence about its limit.
    pub reason: Arc<str>,
    /// Until this rule has room for one call.
    pub retry_after_milliseconds: u64,
    /// Calls in the window now.
    pub count: usize,
    pub max_calls: u64,
}

impl Default for Velocity {
    fn default() -> Self {
        Self::new()
    }
}

impl Velocity {
    pub fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// Counts a call of `agent` that began at `now` (milliseconds of a monotonic clock) against all `rules` or,
    /// if one of them has no room, against none. An agent's calls are judged one after another.
    pub fn admit(&self, now: u64, agent: &AgentName, rules: &[Arc<VelocityRule>]) -> Admission {
        if rules.is_empty() {
            return Admission::Within;
        }
        let mut shard = self.shard(agent);
        let counters = match shard.get_mut(agent) {
            Some(counters) => counters,
            None => shard.entry(agent.clone()).or_default(),
        };
        let mut exceeded: Option<Exceeded> = None;
        for rule in rules {
            let max_calls = usize::try_from(rule.max_calls).unwrap_or(usize::MAX);
            let (count, wait) = counter(counters, rule).room(now, rule.window_milliseconds, max_calls);
            let Some(wait) = wait else { continue };
            let found = over(rule, count, wait);
            let rank = |e: &Exceeded| (e.action == ExceededAction::Deny, e.retry_after_milliseconds);
            if exceeded.as_ref().is_none_or(|before| rank(&found) > rank(before)) {
                exceeded = Some(found);
            }
        }
        if let Some(exceeded) = exceeded {
            return Admission::Exceeded(exceeded);
        }
        for rule in rules {
            counter(counters, rule).count(now);
        }
        Admission::Within
    }

    /// Gives back the memory of windows that are empty. Call it now and then, and after a reload.
    pub fn tidy(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = lock(shard);
            shard.retain(|_, counters| {
                counters.retain_mut(|counter| !counter.window.tidy(now, counter.window_milliseconds));
                !counters.is_empty()
            });
        }
    }

    /// Windows that are held.
    pub fn keys(&self) -> usize {
        self.shards.iter().map(|shard| lock(shard).values().map(Vec::len).sum::<usize>()).sum()
    }

    fn shard(&self, agent: &AgentName) -> MutexGuard<'_, Shard> {
        let index = usize::try_from(self.hasher.hash_one(agent) % SHARDS as u64).unwrap_or(0);
        lock(&self.shards[index])
    }
}

/// The data is consistent between any two statements that can panic, so a poisoned lock is taken over.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An agent has a handful of rules, so a list is searched faster than a map.
fn counter<'c>(counters: &'c mut Vec<Counter>, rule: &VelocityRule) -> &'c mut Window {
    let is_it = |c: &Counter| c.window_milliseconds == rule.window_milliseconds && c.intent == rule.intent;
    let index = counters.iter().position(is_it).unwrap_or_else(|| {
        counters.push(Counter {
            intent: rule.intent.clone(),
            window_milliseconds: rule.window_milliseconds,
            window: Window::default(),
        });
        counters.len() - 1
    });
    &mut counters[index].window
}

fn over(rule: &VelocityRule, count: usize, retry_after_milliseconds: u64) -> Exceeded {
    let reason = rule.reason.clone().unwrap_or_else(|| {
        let seconds = rule.window_milliseconds / 1000;
        format!("more than {} calls with {} in {seconds} seconds", rule.max_calls, rule.intent).into()
    });
    Exceeded {
        rule: rule.name.clone(),
        action: rule.action,
        reason,
        retry_after_milliseconds,
        count,
        max_calls: rule.max_calls,
    }
}

#[cfg(test)]
mod tests;
