//! Checks the names that rules use against each other, then builds one rule set per agent, server and target.

mod condition;
mod doubtful;
mod flow;
mod offered;
mod profile;
mod uncounted;
mod velocity;
mod words;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use condition::bind;
use flow::Flows;
use offered::{Facts, Meaning, Offered, meant};
use velocity::{Limits, check_meters};

pub use velocity::VELOCITY_METERS_MAX;
pub(super) use words::{clause_in_words, source_in_words};

use super::clear::InClear;
use super::decide::{AgentRules, AllowRule, DenyRule, HoldRule, IntentRules, RuleSet, ShadowRule, Surface};
use super::decision::{Allow, Decision};
use super::fact::Measure as FactMeasure;
use super::file::{At, Choice, Clause, Document, Matcher, PolicyRule};
use super::holders::Holders;
use super::profile::Profiles;
use super::risk::Scoring;
use super::rule::{IntentPattern, Measure, RuleName, VelocityRule};
use super::subjects::Subjects;
use super::target::{Key, Targets};
use super::{AgentEntry, Digest, Policy};
use crate::config::problem::suggest;
use crate::config::{Problems, Server};
use crate::types::{AgentName, IntentName, ServerName};

pub(super) fn compile(document: &Document, servers: &[Server], digest: Digest) -> Result<Policy, Problems> {
    let mut checked = check(document, servers);
    let (subjects, unclear) = Subjects::of(document);
    let (holders, shared) = Holders::of(document);
    checked.append(unclear);
    checked.append(shared);
    checked.or(())?;
    let offered = Offered::of(&document.intents);
    let profiles = Profiles::new(&document.profiles);
    let flows = Flows::of(document);
    let rules = RulesOf::new(document, &profiles, &flows);
    let agents: HashMap<_, _> = document
        .agents
        .iter()
        .map(|agent| {
            let granted = agent.servers.as_ref().map(|names| names.iter().map(|at| &at.value).collect());
            (agent.name.value.clone(), rules.agent(&agent.name.value, granted.as_ref(), &offered))
        })
        .collect();
    check_meters(document, &agents)?;
    let mut warnings = uncounted::find(document, &agents, &profiles);
    warnings.extend(doubtful::labels(document, &flows));
    warnings.extend(doubtful::ceilings(document, &agents, &profiles));
    warnings.extend(doubtful::users(document));
    warnings.extend(doubtful::shadows(document));
    let entries = document.agents.iter().map(|agent| {
        let entry = AgentEntry {
            client: agent.client.clone(),
            profiles: agent.profiles.clone(),
            needs: agent.needs.clone(),
        };
        (agent.name.value.clone(), entry)
    });
    let silent = document.agents.iter().filter(|agent| agent.needs.is_process_alone());
    let known_by_process: BTreeSet<_> = silent.map(|agent| agent.name.value.clone()).collect();
    let (rule, intents, velocity) = (RuleName::new("protocol"), Arc::default(), Arc::default());
    let velocity_rules = rules.limits();
    Ok(Policy {
        agents,
        entries: entries.collect(),
        known_by_process: known_by_process.into_iter().collect(),
        subjects,
        holders,
        intents: offered.targets(),
        velocity: velocity_rules,
        profiles,
        scoring: scoring(document),
        protocol: Decision::Allow(Allow { rule, intents, velocity, would_deny: Vec::new(), label: None }),
        in_clear: InClear::new(document),
        labels: Arc::clone(&flows.labels),
        warnings,
        shadow_servers: shadowed(document).into_iter().cloned().collect(),
        has_flow_rules: !document.flow.rules.is_empty(),
        digest,
        rules: document.policies.len() + document.velocity.len() + document.flow.len(),
    })
}

/// The rules of each agent and intent, patterns resolved.
struct RulesOf<'d> {
    policies: HashMap<(&'d AgentName, &'d IntentName), Vec<&'d PolicyRule>>,
    velocity: Vec<Limits<'d>>,
    profiles: &'d Profiles,
    flows: &'d Flows<'d>,
    /// Servers whose rules bind nobody.
    shadowed: BTreeSet<&'d ServerName>,
}

impl<'d> RulesOf<'d> {
    fn new(document: &'d Document, profiles: &'d Profiles, flows: &'d Flows<'d>) -> Self {
        let mut policies: HashMap<_, Vec<_>> = HashMap::new();
        let mut in_order: Vec<_> = document.policies.iter().collect();
        // The order has no meaning, so what is reported must not depend on it either.
        in_order.sort_by(|a, b| a.name.cmp(&b.name));
        let names: HashMap<&str, &IntentName> =
            document.intents.iter().map(|intent| (intent.name.value.as_str(), &intent.name.value)).collect();
        for rule in in_order {
            for intent in matched(&rule.intent.value, &names) {
                let agents: BTreeSet<_> = rule.agents.iter().map(|agent| &agent.value).collect();
                for agent in agents {
                    policies.entry((agent, intent)).or_default().push(rule);
                }
            }
        }
        let mut velocity: Vec<_> = document.velocity.iter().map(Limits::of).collect();
        velocity.sort_by(|a, b| a.rule.name.cmp(&b.rule.name));
        let shadowed = shadowed(document);
        Self { policies, velocity, profiles, flows, shadowed }
    }

    fn agent(
        &self,
        agent: &AgentName,
        granted: Option<&BTreeSet<&ServerName>>,
        offered: &Offered<'_>,
    ) -> AgentRules {
        let servers =
            offered.servers.iter().filter(|(name, _)| granted.is_none_or(|set| set.contains(*name)));
        let servers = servers.filter_map(|(name, targets)| {
            let surface = self.surface(agent, name, targets);
            surface.targets.values().next()?;
            Some(((*name).clone(), surface))
        });
        AgentRules { servers: servers.collect() }
    }

    fn limits(&self) -> Vec<Arc<VelocityRule>> {
        self.velocity.iter().flat_map(|limits| &limits.each).map(|(_, rule)| rule.clone()).collect()
    }

    fn surface(
        &self,
        agent: &AgentName,
        server: &ServerName,
        targets: &BTreeMap<&Key, Meaning<'_>>,
    ) -> Surface {
        let targets = Targets::new(targets.iter().filter_map(|(key, meaning)| {
            let set = self.rule_set(agent, (server, key), meaning);
            let is_named =
                set.rules.iter().any(|r| !r.deny.is_empty() || !r.hold.is_empty() || !r.allow.is_empty());
            is_named.then(|| ((*key).clone(), set))
        }));
        let granted = || targets.values().filter(|set| set.rules.iter().any(IntentRules::opens));
        let is_granted = granted().next().is_some();
        // Which profiles leave something of it.
        let mut admitted = self.profiles.none();
        for set in granted() {
            for (all, one) in admitted.iter_mut().zip(&set.admitted) {
                *all |= one;
            }
        }
        let inspected = self.flows.of_server(agent, server);
        Surface { is_granted, admitted, targets, inspected, flow: self.flows.widest(agent, server) }
    }

    fn rule_set(&self, agent: &AgentName, target: (&ServerName, &Key), meaning: &Meaning<'_>) -> RuleSet {
        let is_shadowed = self.shadowed.contains(target.0);
        let rules = meaning
            .iter()
            .map(|(intent, offer)| self.intent_rules(agent, intent, &offer.facts, is_shadowed))
            .collect();
        let intents: Vec<&IntentName> = meaning.keys().copied().collect();
        let meant = meant(target.1, meaning);
        let meters =
            self.velocity.iter().flat_map(|limits| limits.meters(agent, target, &intents, is_shadowed));
        let (velocity, counting): (Vec<_>, Vec<_>) = meters.unzip();
        RuleSet {
            admitted: self.profiles.admitting(target.0, target.1, &meant),
            velocity: velocity.into(),
            counting,
            meant,
            flow: self.flows.set(agent, target, &intents),
            intents: intents.into_iter().cloned().collect(),
            rules,
        }
    }

    /// Where the server is in shadow, an escalate rule opens what it opened, and holds nothing.
    fn intent_rules(
        &self,
        agent: &AgentName,
        intent: &IntentName,
        facts: &Facts<'_>,
        is_shadowed: bool,
    ) -> IntentRules {
        let mut compiled = IntentRules {
            intent: intent.clone(),
            deny: Vec::new(),
            hold: Vec::new(),
            allow: Vec::new(),
            shadow: Vec::new(),
        };
        for rule in self.policies.get(&(agent, intent)).into_iter().flatten() {
            let conditions = || {
                rule.conditions.iter().map(|clause| bind(&clause.value, facts, Some(self.flows))).collect()
            };
            match rule.decision {
                Choice::Deny | Choice::Escalate if rule.is_shadow || is_shadowed => {
                    let opens = rule.decision == Choice::Escalate && rule.conditions.is_empty();
                    if opens && !rule.is_shadow {
                        compiled.allow.push(AllowRule { name: rule.name.clone(), conditions: Vec::new() });
                    }
                    compiled.shadow.push(ShadowRule { name: rule.name.clone(), conditions: conditions() });
                }
                Choice::Deny => compiled.deny.push(DenyRule {
                    name: rule.name.clone(),
                    reason: rule.reason.clone(),
                    conditions: conditions(),
                }),
                Choice::Escalate => compiled.hold.push(HoldRule {
                    name: rule.name.clone(),
                    reason: rule.reason.clone(),
                    reviewers: rule.reviewers.clone().into(),
                    conditions: conditions(),
                }),
                Choice::Allow => {
                    compiled.allow.push(AllowRule { name: rule.name.clone(), conditions: conditions() });
                }
            }
        }
        // The first that holds is told, and one with a reason says more than one without.
        compiled.deny.sort_by_key(|rule| rule.reason.is_none());
        compiled
    }
}

fn shadowed(document: &Document) -> BTreeSet<&ServerName> {
    document.shadow_servers.iter().map(|server| &server.value).collect()
}

fn scoring(document: &Document) -> Scoring {
    let written = document.risk.first().map(|at| &at.value);
    let mut matchers = document.intents.iter().flat_map(|intent| &intent.matchers);
    let mut clauses = document.policies.iter().flat_map(|rule| &rule.conditions);
    Scoring {
        model: written.map(|risk| risk.model.clone()).unwrap_or_default(),
        working_hours: written.and_then(|risk| risk.working_hours.clone()),
        is_used: written.is_some()
            || document.profiles.iter().any(|profile| profile.max_risk.is_some())
            || clauses.any(|clause| matches!(clause.value, Clause::Risk(..)))
            || matchers.any(Matcher::speaks_of_risk),
    }
}

fn matched<'d>(pattern: &IntentPattern, names: &HashMap<&str, &'d IntentName>) -> Vec<&'d IntentName> {
    if pattern.is_exact() {
        return names.get(pattern.as_str()).copied().into_iter().collect();
    }
    names.values().copied().filter(|name| pattern.matches(name.as_str())).collect()
}

/// Every name that a rule uses must exist, and nothing may be said twice in different words.
fn check(document: &Document, servers: &[Server]) -> Problems {
    let mut check = Check {
        agents: HashMap::new(),
        intents: HashMap::new(),
        servers: servers.iter().map(|server| server.name.as_str()).collect(),
        facts: HashMap::new(),
        problems: Problems::default(),
    };
    check.entries(document);
    check.profiles(document);
    check.one_risk(document);
    check.rules(document);
    check.flow(document);
    check.problems
}

struct Check<'d> {
    agents: HashMap<&'d str, &'d At<AgentName>>,
    intents: HashMap<&'d str, &'d At<IntentName>>,
    servers: BTreeSet<&'d str>,
    /// Facts that some matcher of the intent provides.
    facts: HashMap<&'d str, BTreeMap<&'d str, BTreeSet<FactMeasure>>>,
    problems: Problems,
}

impl<'d> Check<'d> {
    fn entries(&mut self, document: &'d Document) {
        for agent in &document.agents {
            if let Some(first) = self.agents.insert(agent.name.value.as_str(), &agent.name) {
                let what = format!("the agent {} is already defined", agent.name.value);
                self.problems
                    .push(agent.name.place.problem(what, Some(format!("see {}", first.place.short()))));
            }
            for server in agent.servers.iter().flatten() {
                self.server(server);
            }
        }
        for server in &document.shadow_servers {
            self.server(server);
        }
        for intent in &document.intents {
            if let Some(first) = self.intents.insert(intent.name.value.as_str(), &intent.name) {
                let what = format!("the intent {} is already defined", intent.name.value);
                let hint = format!("see {}; put all matchers in one list", first.place.short());
                self.problems.push(intent.name.place.problem(what, Some(hint)));
            }
            let mut seen = BTreeSet::new();
            for matcher in &intent.matchers {
                self.server(&matcher.server);
                if !seen.insert((&matcher.server.value, &matcher.key)) {
                    let what = format!("the intent {} has this matcher twice", intent.name.value);
                    self.problems
                        .push(matcher.server.place.problem(what, Some("keep one of the two".into())));
                }
                self.own_facts(intent.name.value.as_str(), matcher);
                let facts = self.facts.entry(intent.name.value.as_str()).or_default();
                for (name, source) in &matcher.facts {
                    facts.entry(&**name).or_default().insert(source.measure);
                }
            }
        }
    }

    fn one_risk(&mut self, document: &Document) {
        let mut sections = document.risk.iter();
        let first = sections.next();
        for (more, first) in sections.zip(std::iter::repeat(first).flatten()) {
            let hint = format!("see {}; keep one", first.place.short());
            self.problems.push(more.place.problem("there is another `risk` already", Some(hint)));
        }
    }

    fn rules(&mut self, document: &'d Document) {
        let mut names: HashMap<&RuleName, String> = HashMap::new();
        let policies = document.policies.iter().map(|rule| (&rule.name, &rule.place));
        let velocity = document.velocity.iter().map(|rule| (&rule.name, &rule.place));
        for (name, place) in policies.chain(velocity).chain(document.flow.names()) {
            if let Some(first) = names.insert(name, place.short()) {
                let hint = Some(format!("see {first}; each rule has a name of its own"));
                self.problems.push(place.problem(format!("the rule name {name} is used twice"), hint));
            }
        }
        for rule in &document.policies {
            rule.agents.iter().for_each(|agent| self.agent(agent));
            if self.intent(&rule.intent) {
                rule.conditions.iter().for_each(|condition| self.condition(&rule.intent.value, condition));
            }
        }
        let tools: BTreeSet<&str> = document
            .intents
            .iter()
            .flat_map(|intent| &intent.matchers)
            .filter_map(|matcher| if let Key::Tool(name) = &matcher.key { Some(&**name) } else { None })
            .collect();
        let mut windows = HashMap::new();
        for rule in &document.velocity {
            rule.agent.iter().for_each(|agent| self.agent(agent));
            rule.server.iter().for_each(|server| self.server(server));
            rule.profile.iter().for_each(|profile| self.profile(profile, document));
            if let Some(tool) = rule.tool.as_ref().filter(|tool| !tools.contains(&*tool.value)) {
                let what =
                    format!("no intent names the tool {:?}, so no call of it is let through", tool.value);
                let hint = suggest(&tool.value, tools.iter().copied());
                self.problems.push(tool.place.problem(what, hint));
            }
            if let Some(intent) = &rule.intent {
                self.intent(intent);
            }
            for cost in &rule.costs {
                self.intent(&At { value: cost.value.0.clone(), place: cost.place.clone() });
            }
            for (_, limit) in Limits::of(rule).each {
                let key = (limit.scope(), limit.action);
                if let Some(first) = windows.insert(key, &rule.place).filter(|first| **first != rule.place) {
                    let what = format!(
                        "another velocity rule counts the same {} with the same action",
                        match limit.measure {
                            Measure::Calls => "calls",
                            Measure::Cost => "costs",
                            Measure::Concurrent => "calls under way",
                        }
                    );
                    self.problems
                        .push(rule.place.problem(what, Some(format!("see {}; keep one", first.short()))));
                }
            }
        }
        self.costs_agree(document);
    }

    fn server(&mut self, server: &At<ServerName>) {
        if !self.servers.contains(server.value.as_str()) {
            let what = format!("guard.yaml has no server {:?}", server.value);
            let hint = suggest(server.value.as_str(), self.servers.iter().copied());
            self.problems.push(server.place.problem(what, hint));
        }
    }

    fn agent(&mut self, agent: &At<AgentName>) {
        if !self.agents.contains_key(agent.value.as_str()) {
            let hint = suggest(agent.value.as_str(), self.agents.keys().copied())
                .unwrap_or_else(|| "define it under `agents:`".into());
            self.problems
                .push(agent.place.problem(format!("there is no agent {:?}", agent.value), Some(hint)));
        }
    }

    fn intent(&mut self, intent: &At<IntentPattern>) -> bool {
        let pattern = &intent.value;
        if pattern.is_exact() && self.intents.contains_key(pattern.as_str()) {
            return true;
        }
        if !pattern.is_exact() && self.intents.keys().any(|name| pattern.matches(name)) {
            return true;
        }
        let what = if pattern.is_exact() {
            format!("there is no intent {pattern:?}")
        } else {
            format!("no intent matches {pattern:?}")
        };
        let hint = suggest(pattern.as_str(), self.intents.keys().copied())
            .unwrap_or_else(|| "define it under `intents:`".into());
        self.problems.push(intent.place.problem(what, Some(hint)));
        false
    }
}
