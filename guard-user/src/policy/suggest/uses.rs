//! What was asked in a period, counted.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::policy::What;
use crate::types::{AgentName, IntentName, ProfileName, ServerName};

/// Who asked what of whom.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Use {
    pub agent: AgentName,
    pub profile: Option<ProfileName>,
    pub server: ServerName,
    pub what: What,
}

/// How often.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    pub allowed: u64,
    /// A person had to decide.
    pub held: u64,
    pub refused: u64,
    /// The time of the last one, in UTC; of one that passed, if there is one.
    pub last: Option<String>,
    /// Intents that records name, beside those that the target means now.
    #[serde(skip)]
    pub intents: BTreeSet<IntentName>,
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Became {
    Allowed,
    Held,
    Refused,
}

/// All that was used in a period.
#[derive(Debug, Clone, Default)]
pub struct Uses {
    calls: BTreeMap<Use, Count>,
    /// What requests about tasks meant, which are judged as the calls that made them.
    tasks: BTreeSet<(AgentName, ServerName, IntentName)>,
}

impl Count {
    /// Those that the policy did not refuse.
    pub fn passed(&self) -> u64 {
        self.allowed.saturating_add(self.held)
    }

    fn add(&mut self, other: &Self) {
        let had_passed = self.passed() > 0;
        self.allowed = self.allowed.saturating_add(other.allowed);
        self.held = self.held.saturating_add(other.held);
        self.refused = self.refused.saturating_add(other.refused);
        if other.passed() > 0 || !had_passed {
            let before = if had_passed || other.passed() == 0 { self.last.take() } else { None };
            self.last = before.max(other.last.clone());
        }
        self.intents.extend(other.intents.iter().cloned());
    }
}

impl Uses {
    /// Counts a call that began at `time` (in the form of records).
    pub fn add(&mut self, used: Use, became: Became, intent: Option<IntentName>, time: &str) {
        let mut one = Count { last: Some(time.to_owned()), ..Count::default() };
        match became {
            Became::Allowed => one.allowed = 1,
            Became::Held => one.held = 1,
            Became::Refused => one.refused = 1,
        }
        if became != Became::Refused {
            one.intents.extend(intent);
        }
        self.calls.entry(used).or_default().add(&one);
    }

    /// Takes in that a task was asked about, and that this passed.
    pub fn add_task(&mut self, agent: AgentName, server: ServerName, intent: IntentName) {
        self.tasks.insert((agent, server, intent));
    }

    pub(super) fn of_tasks(&self) -> impl Iterator<Item = &(AgentName, ServerName, IntentName)> {
        self.tasks.iter()
    }

    pub fn iter(&self) -> impl Iterator<Item = (&Use, &Count)> {
        self.calls.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.calls.is_empty()
    }

    /// How often an agent used what has one of some meanings.
    pub(super) fn of(&self, agent: &AgentName, has: impl Fn(&Use, &Count) -> bool) -> Count {
        let mut sum = Count::default();
        let used = self.calls.iter().filter(|(used, count)| used.agent == *agent && has(used, count));
        used.for_each(|(_, count)| sum.add(count));
        sum
    }
}
