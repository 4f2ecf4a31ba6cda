//! Least privilege from what was used: a policy that allows what agents did, and nothing that the present one denies. Pure.
//!
//! Rules that allow or escalate are narrowed to the agents and intents that were used, and agents to the servers. All else stays as it
//! is written: deny rules, rules in shadow, velocity rules, profiles, and what intents mean, since an intent with fewer matchers could open
//! a target that has another one, too. For an agent and an intent either all rules stay or none of those that let through: a rule whose
//! condition cannot be judged denies, so that taking away one of several could widen.

mod uses;
mod writing;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use serde::Serialize;

use super::file::{Choice, Document, PolicyRule};
use super::target::{Key, Pattern};
use super::{Circumstances, Effect, Policy, Question, What, load, packs};
use crate::config::{Problem, Problems, Server};
use crate::types::{AgentName, IntentName, ServerName};

pub use uses::{Became, Count, Use, Uses};

/// Something used this often or less in the whole period is told to be rare.
pub const RARE_MAX: u64 = 2;

/// The policy as it stands, with its files' texts.
#[derive(Debug)]
pub struct Present {
    files: Vec<(PathBuf, String)>,
    /// Packs beside them.
    own_packs: Vec<(PathBuf, String)>,
    servers: Vec<Server>,
    document: Document,
    policy: Policy,
}

/// What follows from the uses of a period.
#[derive(Debug)]
pub struct Suggestion {
    /// One policy file in place of all that there are.
    pub yaml: String,
    /// What was used, and what is granted and was not; sorted by agent.
    pub rows: Vec<Row>,
    /// Agents whose rules stay as they are, with why.
    pub whole: BTreeMap<AgentName, &'static str>,
    /// How many pairs of an agent and an intent rules let through before and after.
    pub pairs: (usize, usize),
}

/// One line of the table.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Row {
    pub agent: String,
    pub server: String,
    /// `tool`, `resource`, `prompt`, `method` or `server_request`
    pub kind: String,
    pub name: String,
    pub intents: Vec<String>,
    #[serde(flatten)]
    pub count: Count,
    pub standing: Standing,
}

/// How something stands with the policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Used,
    /// Used at most [`RARE_MAX`] times.
    Rare,
    /// Granted, and nobody used it.
    NeverUsed,
    /// All that there was, was refused.
    Refused,
    /// It was let through, and the present policy denies it.
    DeniedNow,
}

impl Standing {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Used => "used",
            Self::Rare => "rare",
            Self::NeverUsed => "never used",
            Self::Refused => "refused",
            Self::DeniedNow => "denied now",
        }
    }
}

/// What stays.
#[derive(Debug, Default)]
struct Plan {
    intents: BTreeMap<AgentName, BTreeSet<IntentName>>,
    servers: BTreeMap<AgentName, BTreeSet<ServerName>>,
    whole: BTreeMap<AgentName, &'static str>,
}

impl Plan {
    fn keep_all<'a>(&mut self, agents: impl Iterator<Item = &'a AgentName>) {
        for agent in agents {
            self.whole.entry(agent.clone()).or_insert(INSEPARABLE);
        }
    }
}

/// What is tried, from the narrowest on.
const STEPS: u8 = 4;
const NOT_ASKED: &str = "--agent names another";
const ELSEWHERE: &str = "one of its rules stands in no policy file";
const INSEPARABLE: &str = "its uses need rules that cannot be told apart";

impl Present {
    /// Reads the files of `dir`.
    pub fn load(dir: &std::path::Path, servers: &[Server]) -> Result<Self, Problems> {
        Self::of(load::files(dir)?, packs::own(dir)?, servers)
    }

    /// The same from texts that are already in memory.
    pub fn from_texts(files: Vec<(PathBuf, String)>, servers: &[Server]) -> Result<Self, Problems> {
        Self::of(files, Vec::new(), servers)
    }

    fn of(
        files: Vec<(PathBuf, String)>,
        own_packs: Vec<(PathBuf, String)>,
        servers: &[Server],
    ) -> Result<Self, Problems> {
        let (document, policy) = load::compiled(&files, &own_packs, servers)?;
        Ok(Self { files, own_packs, servers: servers.to_vec(), document, policy })
    }

    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The narrowest policy of this form for `uses`; with `only`, the other agents stay as they are. `about` is told at its top, line
    /// by line.
    pub fn suggest(
        &self,
        uses: &Uses,
        only: Option<&AgentName>,
        about: &[String],
    ) -> Result<Suggestion, Problems> {
        let mut plan = self.plan(uses, only);
        let mut found = None;
        // Each step keeps more; with the last one all rules are as they were.
        for step in 0..STEPS {
            let yaml =
                writing::policy(&self.files, &self.document, &plan, uses, about, |what| self.intents(what))?;
            let text = [("suggested.yaml".into(), yaml.clone())];
            let missing: BTreeSet<_> = match load::compiled(&text, &self.own_packs, &self.servers) {
                Ok((_, proposal)) => self.missing(uses, &proposal).collect(),
                Err(_) if step + 1 < STEPS => {
                    plan.keep_all(self.agents());
                    continue;
                }
                Err(problems) => return Err(problems),
            };
            match step {
                _ if missing.is_empty() => {
                    found = Some(yaml);
                    break;
                }
                // A server's own methods are open to who has anything there, so something of it has to stay.
                0 => missing.iter().for_each(|(agent, server)| {
                    let all = self.granted_on(agent, server);
                    plan.intents.entry((*agent).clone()).or_default().extend(all);
                    plan.servers.entry((*agent).clone()).or_default().insert((*server).clone());
                }),
                1 => plan.keep_all(missing.iter().map(|(agent, _)| *agent)),
                _ => plan.keep_all(self.agents()),
            }
        }
        let yaml = found.ok_or_else(|| {
            let what = "no narrower policy was found that keeps what passed";
            Problem::of_file(std::path::Path::new("suggested.yaml"), what)
        })?;
        let before = self.agents().map(|agent| self.pairs_of(agent).count()).sum();
        let after = self.agents().map(|agent| {
            let kept = plan.intents.get(agent);
            let is_kept = |intent: &&IntentName| kept.is_some_and(|kept| kept.contains(*intent));
            let is_whole = plan.whole.contains_key(agent);
            self.pairs_of(agent).filter(|intent| is_whole || is_kept(intent)).count()
        });
        let after = after.sum();
        Ok(Suggestion { yaml, rows: self.rows(uses, only), whole: plan.whole, pairs: (before, after) })
    }

    fn plan(&self, uses: &Uses, only: Option<&AgentName>) -> Plan {
        let mut plan = Plan::default();
        if let Some(only) = only {
            let others = self.agents().filter(|agent| *agent != only);
            plan.whole.extend(others.map(|agent| (agent.clone(), NOT_ASKED)));
        }
        for (used, count) in uses.iter().filter(|(_, count)| count.passed() > 0) {
            if effect(&self.policy, used) == Effect::Deny {
                continue;
            }
            plan.servers.entry(used.agent.clone()).or_default().insert(used.server.clone());
            let intents = plan.intents.entry(used.agent.clone()).or_default();
            intents.extend(self.intents(used));
            intents.extend(count.intents.iter().cloned());
        }
        for (agent, server, intent) in uses.of_tasks() {
            plan.servers.entry(agent.clone()).or_default().insert(server.clone());
            plan.intents.entry(agent.clone()).or_default().insert(intent.clone());
        }
        self.settle(&mut plan);
        plan
    }

    /// An agent with a rule that cannot be narrowed keeps all of its rules.
    fn settle(&self, plan: &mut Plan) {
        let document = &self.document;
        let files: BTreeSet<_> = self.files.iter().map(|(file, _)| file.as_path()).collect();
        for rule in document.policies.iter().filter(|rule| may_narrow(rule)) {
            let is_here = files.contains(&*rule.place.file);
            for agent in rule.agents.iter().map(|agent| &agent.value) {
                if !is_here {
                    plan.whole.entry(agent.clone()).or_insert(ELSEWHERE);
                }
            }
        }
    }

    /// Agents and servers with a use that passed, that the present policy lets pass, and that `proposal` would not.
    fn missing<'a>(
        &'a self,
        uses: &'a Uses,
        proposal: &Policy,
    ) -> impl Iterator<Item = (&'a AgentName, &'a ServerName)> {
        let passed = uses.iter().filter(|(_, count)| count.passed() > 0);
        let missing: Vec<_> = passed
            .filter(|(used, _)| {
                let now = effect(&self.policy, used);
                now != Effect::Deny && effect(proposal, used) != now
            })
            .map(|(used, _)| (&used.agent, &used.server))
            .collect();
        missing.into_iter()
    }

    fn intents(&self, used: &Use) -> Vec<IntentName> {
        let targets = self.policy().intents.get(&used.server);
        let found = targets.and_then(|targets| targets.find(used.what.target(), used.what.method()));
        found.into_iter().flat_map(|meant| meant.iter()).map(|meant| meant.intent.clone()).collect()
    }

    fn agents(&self) -> impl Iterator<Item = &AgentName> {
        self.document.agents.iter().map(|agent| &agent.name.value)
    }

    /// Intents that some rule lets the agent have.
    fn pairs_of<'a>(&'a self, agent: &'a AgentName) -> impl Iterator<Item = &'a IntentName> {
        let document = &self.document;
        document.intents.iter().map(|intent| &intent.name.value).filter(move |intent| {
            let lets = |rule: &&PolicyRule| {
                may_narrow(rule) && rule.agents.iter().any(|named| named.value == *agent)
            };
            document.policies.iter().filter(lets).any(|rule| rule.intent.value.matches(intent.as_str()))
        })
    }

    fn granted_on(&self, agent: &AgentName, server: &ServerName) -> BTreeSet<IntentName> {
        let of_agent: BTreeSet<_> = self.pairs_of(agent).collect();
        let intents = self.document.intents.iter();
        intents
            .filter(|intent| intent.matchers.iter().any(|matcher| matcher.server.value == *server))
            .map(|intent| &intent.name.value)
            .filter(|intent| of_agent.contains(intent))
            .cloned()
            .collect()
    }

    fn rows(&self, uses: &Uses, only: Option<&AgentName>) -> Vec<Row> {
        let mut rows = Vec::new();
        let is_asked = |agent: &AgentName| only.is_none_or(|only| only == agent);
        for (used, count) in uses.iter().filter(|(used, _)| is_asked(&used.agent)) {
            let standing = match count.passed() {
                0 => Standing::Refused,
                _ if effect(&self.policy, used) == Effect::Deny => Standing::DeniedNow,
                1..=RARE_MAX => Standing::Rare,
                _ => Standing::Used,
            };
            let intents = self.intents(used).iter().map(ToString::to_string).collect();
            let (kind, name) = (used.what.kind().to_owned(), used.what.name().to_owned());
            let (agent, server) = (used.agent.to_string(), used.server.to_string());
            rows.push(Row { agent, server, kind, name, intents, count: count.clone(), standing });
        }
        for agent in self.agents().filter(|agent| is_asked(agent)) {
            rows.extend(self.unused(agent, uses));
        }
        rows.sort_by(|a, b| {
            (&a.agent, &a.server, &a.kind, &a.name).cmp(&(&b.agent, &b.server, &b.kind, &b.name))
        });
        rows
    }

    /// What `agent` is granted and did not use.
    fn unused(&self, agent: &AgentName, uses: &Uses) -> Vec<Row> {
        let mut keys: BTreeMap<(&ServerName, &Key), Vec<String>> = BTreeMap::new();
        for intent in &self.document.intents {
            for matcher in &intent.matchers {
                let names = keys.entry((&matcher.server.value, &matcher.key)).or_default();
                names.push(intent.name.value.to_string());
            }
        }
        let rows = keys.into_iter().filter_map(|((server, key), intents)| {
            let is_used = uses.iter().any(|(used, count)| {
                used.agent == *agent
                    && used.server == *server
                    && count.passed() > 0
                    && covers(key, &used.what)
            });
            let (what, name) = sample(key);
            let asked = Use { agent: agent.clone(), profile: None, server: server.clone(), what };
            let is_granted = !is_used && effect(&self.policy, &asked) != Effect::Deny;
            is_granted.then(|| Row {
                agent: agent.to_string(),
                server: server.to_string(),
                kind: asked.what.kind().to_owned(),
                name,
                intents,
                count: Count::default(),
                standing: Standing::NeverUsed,
            })
        });
        rows.collect()
    }
}

/// What the policy says, whatever the arguments are.
fn effect(policy: &Policy, used: &Use) -> Effect {
    let question = Question {
        agent: &used.agent,
        profile: used.profile.as_ref(),
        server: &used.server,
        method: used.what.method(),
        target: used.what.target(),
        arguments: None,
        around: Circumstances::default(),
    };
    policy.decide_assuming_conditions(&question).effect()
}

/// A rule that lets something through, so that it can let less through.
fn may_narrow(rule: &PolicyRule) -> bool {
    rule.decision != Choice::Deny && !rule.is_shadow
}

fn covers(key: &Key, what: &What) -> bool {
    match (key, what) {
        (Key::Tool(name), What::Tool(used)) | (Key::Prompt(name), What::Prompt(used)) => **name == **used,
        (Key::Resource(pattern), What::Resource(used))
        | (Key::Method(pattern), What::Method(used))
        | (Key::ServerRequest(pattern), What::ServerRequest(used)) => pattern.matches(used),
        _ => false,
    }
}

/// Something that `key` matches, and how the key is written.
fn sample(key: &Key) -> (What, String) {
    let of = |pattern: &Pattern| match pattern {
        Pattern::Exact(text) => (text.to_string(), text.to_string()),
        Pattern::Prefix(text) => (text.to_string(), format!("{text}*")),
    };
    match key {
        Key::Tool(name) => (What::Tool(name.to_string()), name.to_string()),
        Key::Prompt(name) => (What::Prompt(name.to_string()), name.to_string()),
        Key::Resource(pattern) => {
            let (sample, shown) = of(pattern);
            (What::Resource(sample), shown)
        }
        Key::Method(pattern) => {
            let (sample, shown) = of(pattern);
            (What::Method(sample), shown)
        }
        Key::ServerRequest(pattern) => {
            let (sample, shown) = of(pattern);
            (What::ServerRequest(sample), shown)
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
