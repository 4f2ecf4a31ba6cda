//! What an agent may do. Pure: no I/O after loading, no clock.
//!
//! `load` reads and checks the files, `compile` turns them into one rule set per agent, server and target, and
//! `decide` answers from that. The order of files and rules has no meaning.

mod asked;
pub mod cases;
mod clear;
mod compile;
mod condition;
mod decide;
mod decision;
mod explain;
mod fact;
mod file;
mod flow;
mod holders;
mod label;
mod load;
mod meaning;
mod needs;
pub mod packs;
mod process;
mod profile;
mod risk;
mod rule;
pub mod schema;
mod sent;
mod shadows;
mod subjects;
mod suggest;
mod summary;
mod target;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::Arc;

pub use asked::{Asked, What};
pub use compile::VELOCITY_METERS_MAX;
pub use decision::{Allow, Decision, Deny, DenyCode, Hold};
pub use explain::{
    Applies, Explanation, JudgedRule, MeantIntent, NEAR_RULES_MAX, NearRule, Nearness, Written,
};
pub use file::{
    CONDITION_ENTRIES_MAX, DEFAULT_PROFILE, MIN_HITS_MAX, RISK_ADDITIONS_MAX, VELOCITY_MAX,
    VELOCITY_WEIGHT_MAX, WINDOW_SECONDS_MAX,
};
pub use flow::{Inspection, Inspector};
pub use label::{LABELS, LABELS_MAX};
pub use needs::{Needs, SUBJECT_BYTES_MAX, Token};
pub use rule::{
    Action, ExceededAction, IntentPattern, Measure, Meter, Part, Per, RuleName, ScopeId, VelocityRule,
};
pub use shadows::{Shadowed, Shadows};
pub use suggest::{Became, Count, Present, RARE_MAX, Row, Standing, Suggestion, Use, Uses};
pub use summary::{Effect, Grant};
pub use target::{PROTOCOL_METHODS, is_protocol_method};

use jiff::Timestamp;

use crate::config::Problem;
use crate::identity::{Candidate, Entry};
use crate::kernel::Client;
use crate::rpc::{Json, Target};
use crate::types::{AgentName, ArgumentPath, ClientId, LabelName, ProfileName, ServerName, UserName, Within};

/// One version of the policy: loaded whole, checked whole, then never changed.
#[derive(Debug)]
pub struct Policy {
    /// By agent, then server, then target.
    agents: HashMap<AgentName, decide::AgentRules>,
    /// What each target means, whoever asks.
    intents: HashMap<ServerName, target::Targets<Arc<[meaning::Meant]>>>,
    /// As written, for identity and tables.
    entries: HashMap<AgentName, AgentEntry>,
    /// Those that show nothing, sorted.
    known_by_process: Vec<AgentName>,
    profiles: profile::Profiles,
    /// Those that show a token.
    subjects: subjects::Subjects,
    /// Those whose clients show a certificate.
    holders: holders::Holders,
    /// The answer for the protocol's own methods.
    protocol: Decision,
    /// Every limit of every velocity rule.
    velocity: Vec<Arc<VelocityRule>>,
    scoring: risk::Scoring,
    /// Arguments that records show, of tools and prompts.
    in_clear: clear::InClear,
    /// Of what is read.
    labels: Arc<label::Labels>,
    /// What its files say and surely do not mean.
    warnings: Vec<Problem>,
    shadow_servers: Vec<ServerName>,
    has_flow_rules: bool,
    digest: Digest,
    rules: usize,
}

/// An agent as the policy files name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentEntry {
    pub client: ClientId,
    pub profiles: Vec<ProfileName>,
    /// What it has to show.
    pub needs: Needs,
}

impl AgentEntry {
    fn named<'p>(&'p self, agent: &'p AgentName) -> Entry<'p> {
        Entry { agent, client: &self.client, profiles: &self.profiles }
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    pub agent: &'a AgentName,
    /// What its caller leaves of its rights; `None` asks for all of them, for tables.
    pub profile: Option<&'a ProfileName>,
    pub server: &'a ServerName,
    pub method: &'a str,
    pub target: Target<'a>,
    /// The call's arguments, for conditions.
    pub arguments: Option<&'a Json>,
    pub around: Circumstances<'a>,
}

/// When, from where and for whom a call comes, for conditions. What is not known meets none.
#[derive(Debug, Clone, Copy, Default)]
pub struct Circumstances<'a> {
    pub moment: Option<Timestamp>,
    pub client: Option<&'a Client>,
    /// For whom the agent works.
    pub user: Option<&'a UserName>,
    /// The score of the call, 0 to 100.
    pub risk: Option<u8>,
    /// The labels of what its agent has read; `None`: nobody knows.
    pub read: Option<&'a [LabelName]>,
    /// Nothing in it is of its sender's choosing, so that it tells its server nothing.
    pub is_bare: bool,
    pub session: Within,
}

/// SHA-256 over the names and contents of the policy files. Credentials are no part of it: issuing a token
/// changes who can prove to be an agent, not what the agent may do, and each record names its credential.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Digest([u8; 32]);

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Policy {
    /// Which version this is, as every audit record names it.
    pub fn digest(&self) -> Digest {
        self.digest
    }

    pub fn agent(&self, name: &AgentName) -> Option<&AgentEntry> {
        self.entries.get(name)
    }

    /// Whether the policy has this agent with this client and profile.
    pub fn has_entry(&self, agent: &AgentName, client: &ClientId, profile: &ProfileName) -> bool {
        self.entries
            .get(agent)
            .is_some_and(|entry| entry.client == *client && entry.profiles.contains(profile))
    }

    /// Also of an agent that is not there: nobody is let in by less.
    pub fn needs_secret(&self, agent: &AgentName) -> bool {
        self.entries.get(agent).is_none_or(|entry| entry.needs.secret())
    }

    /// The agents that show nothing.
    pub fn known_by_process(&self) -> impl Iterator<Item = Candidate<'_>> + Clone {
        self.known_by_process.iter().filter_map(|agent| {
            let entry = self.entries.get(agent)?;
            let process = entry.needs.process()?;
            Some(Candidate { entry: entry.named(agent), process })
        })
    }

    pub fn agents(&self) -> impl Iterator<Item = (&AgentName, &AgentEntry)> {
        self.entries.iter()
    }

    /// Every limit of every velocity rule, by the rules' names.
    pub fn velocity(&self) -> &[Arc<VelocityRule>] {
        &self.velocity
    }

    /// What is taken all the same, each with its place.
    pub fn warnings(&self) -> &[Problem] {
        &self.warnings
    }

    /// Arguments of a call of `target` that its record shows.
    pub fn in_clear(&self, server: &ServerName, target: Target<'_>) -> &[Box<ArgumentPath>] {
        self.in_clear.of(server, target)
    }

    /// Servers whose rules bind nobody, by their names.
    pub fn shadow_servers(&self) -> &[ServerName] {
        &self.shadow_servers
    }

    /// `in shadow: crm, files`, for the record; `None`: each server's rules bind.
    pub fn in_shadow(&self) -> Option<String> {
        let names: Vec<_> = self.shadow_servers.iter().map(ServerName::as_str).collect();
        (!names.is_empty()).then(|| format!("in shadow: {}", names.join(", ")))
    }

    /// Policies and velocity rules, as written.
    pub fn rule_count(&self) -> usize {
        self.rules
    }
}
