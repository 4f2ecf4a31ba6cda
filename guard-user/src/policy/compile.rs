//! Checks the names that rules use against each other, then builds one rule set per agent, server and target.

mod condition;
mod profile;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use condition::bind;

use super::decide::{AgentRules, AllowRule, DenyRule, HoldRule, IntentRules, RuleSet, ShadowRule, Surface};
use super::decision::{Allow, Decision};
use super::fact::{Measure as FactMeasure, Source};
use super::file::{At, Choice, Document, Intent, PolicyRule, Velocity};
use super::profile::Profiles;
use super::rule::{IntentPattern, Measure, Meter, Part, RuleName, ScopeId, VelocityRule};
use super::subjects::Subjects;
use super::target::{Key, Targets};
use super::{AgentEntry, Digest, Needs, Policy};
use crate::config::problem::suggest;
use crate::config::{Problems, Server};
use crate::types::{AgentName, IntentName, ServerName};

/// The most counts that one call can have, over all velocity rules.
pub const VELOCITY_METERS_MAX: usize = 32;

pub(super) fn compile(document: &Document, servers: &[Server], digest: Digest) -> Result<Policy, Problems> {
    let mut checked = check(document, servers);
    let (subjects, unclear) = Subjects::of(document);
    checked.append(unclear);
    checked.or(())?;
    let offered = Offered::of(&document.intents);
    let profiles = Profiles::new(&document.profiles);
    let rules = RulesOf::new(document, &profiles);
    let agents: HashMap<_, _> = document
        .agents
        .iter()
        .map(|agent| {
            let granted = agent.servers.as_ref().map(|names| names.iter().map(|at| &at.value).collect());
            (agent.name.value.clone(), rules.agent(&agent.name.value, granted.as_ref(), &offered))
        })
        .collect();
    check_meters(document, &agents)?;
    let entries = document.agents.iter().map(|agent| {
        let entry = AgentEntry {
            client: agent.client.clone(),
            profiles: agent.profiles.clone(),
            needs: agent.needs.clone(),
        };
        (agent.name.value.clone(), entry)
    });
    let silent = document.agents.iter().filter(|agent| matches!(agent.needs, Needs::Process(_)));
    let known_by_process: BTreeSet<_> = silent.map(|agent| agent.name.value.clone()).collect();
    let (rule, intents, velocity) = (RuleName::new("protocol"), Arc::default(), Arc::default());
    Ok(Policy {
        agents,
        entries: entries.collect(),
        known_by_process: known_by_process.into_iter().collect(),
        subjects,
        intents: offered.targets(),
        velocity: rules.limits(),
        profiles,
        protocol: Decision::Allow(Allow { rule, intents, velocity, would_deny: Vec::new() }),
        digest,
        rules: document.policies.len() + document.velocity.len(),
    })
}

/// What each server offers: the intents of each target, those of keys that cover it included.
struct Offered<'d> {
    servers: BTreeMap<&'d ServerName, BTreeMap<&'d Key, Meaning<'d>>>,
}

/// The intents of one target, sorted, each with the facts that its matchers provide here.
type Meaning<'d> = BTreeMap<&'d IntentName, Facts<'d>>;
type Facts<'d> = BTreeMap<&'d str, &'d Source>;

impl<'d> Offered<'d> {
    fn of(intents: &'d [Intent]) -> Self {
        let matchers = || intents.iter().flat_map(|i| i.matchers.iter().map(move |m| (&i.name.value, m)));
        let mut servers: BTreeMap<_, BTreeMap<_, Meaning<'d>>> = BTreeMap::new();
        for (intent, matcher) in matchers() {
            let server = servers.entry(&matcher.server.value).or_default();
            let facts = server.entry(&matcher.key).or_default().entry(intent).or_default();
            facts.extend(matcher.facts.iter().map(|(name, source)| (&**name, source)));
        }
        for targets in servers.values_mut() {
            let patterns: Vec<_> = targets
                .iter()
                .filter(|(key, _)| matches!(key, Key::Resource(_) | Key::Method(_) | Key::ServerRequest(_)))
                .map(|(key, meaning)| (*key, meaning.clone()))
                .collect();
            for (key, meaning) in targets.iter_mut() {
                for (_, more) in patterns.iter().filter(|(wider, _)| wider != key && wider.covers(key)) {
                    for intent in more.keys() {
                        meaning.entry(intent).or_default();
                    }
                }
            }
        }
        Self { servers }
    }

    fn targets(&self) -> HashMap<ServerName, Targets<Arc<[IntentName]>>> {
        let of_server = |targets: &BTreeMap<&Key, Meaning<'_>>| {
            Targets::new(targets.iter().map(|(key, meaning)| {
                ((*key).clone(), meaning.keys().map(|intent| (*intent).clone()).collect())
            }))
        };
        self.servers.iter().map(|(name, targets)| ((*name).clone(), of_server(targets))).collect()
    }
}

/// The rules of each agent and intent, patterns resolved.
struct RulesOf<'d> {
    policies: HashMap<(&'d AgentName, &'d IntentName), Vec<&'d PolicyRule>>,
    velocity: Vec<Limits<'d>>,
    profiles: &'d Profiles,
}

/// One velocity rule, each of its limits by itself.
struct Limits<'d> {
    rule: &'d Velocity,
    each: Vec<(ScopeId, Arc<VelocityRule>)>,
}

impl<'d> RulesOf<'d> {
    fn new(document: &'d Document, profiles: &'d Profiles) -> Self {
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
        Self { policies, velocity, profiles }
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
        let granted = || targets.values().filter(|set| set.rules.iter().any(IntentRules::may_pass));
        let is_granted = granted().next().is_some();
        // Which profiles leave something of it.
        let mut admitted = self.profiles.none();
        for set in granted() {
            for (all, one) in admitted.iter_mut().zip(&set.admitted) {
                *all |= one;
            }
        }
        Surface { is_granted, admitted, targets }
    }

    fn rule_set(&self, agent: &AgentName, target: (&ServerName, &Key), meaning: &Meaning<'_>) -> RuleSet {
        let rules = meaning.iter().map(|(intent, facts)| self.intent_rules(agent, intent, facts)).collect();
        let intents: Vec<&IntentName> = meaning.keys().copied().collect();
        RuleSet {
            admitted: self.profiles.admitting(target.0, target.1, &intents),
            velocity: self
                .velocity
                .iter()
                .flat_map(|limits| limits.meters(agent, target, &intents))
                .collect(),
            intents: intents.into_iter().cloned().collect(),
            rules,
        }
    }

    fn intent_rules(&self, agent: &AgentName, intent: &IntentName, facts: &Facts<'_>) -> IntentRules {
        let mut compiled = IntentRules {
            intent: intent.clone(),
            deny: Vec::new(),
            hold: Vec::new(),
            allow: Vec::new(),
            shadow: Vec::new(),
        };
        for rule in self.policies.get(&(agent, intent)).into_iter().flatten() {
            let conditions = || rule.conditions.iter().map(|clause| bind(&clause.value, facts)).collect();
            match rule.decision {
                _ if rule.is_shadow => {
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

impl<'d> Limits<'d> {
    fn of(rule: &'d Velocity) -> Self {
        let intent = rule.intent.as_ref().map_or_else(IntentPattern::every, |intent| intent.value.clone());
        let each = rule.limits.iter().map(|&(measure, max)| {
            let window = rule.window_milliseconds.filter(|_| measure != Measure::Concurrent);
            let limit = VelocityRule {
                name: rule.name.clone(),
                agent: rule.agent.as_ref().map(|agent| agent.value.clone()),
                server: rule.server.as_ref().map(|server| server.value.clone()),
                tool: rule.tool.as_ref().map(|tool| tool.value.clone()),
                intent: intent.clone(),
                per: rule.per,
                measure,
                window_milliseconds: window.unwrap_or_default(),
                max,
                action: rule.action,
                reason: rule.reason.clone(),
            };
            (limit.scope(), Arc::new(limit))
        });
        Self { rule, each: each.collect() }
    }

    /// How the rule counts calls of `agent` that mean `intents`: once, or once for each intent that its keys name.
    fn meters(
        &self,
        agent: &AgentName,
        (server, key): (&ServerName, &Key),
        intents: &[&IntentName],
    ) -> Vec<Meter> {
        let Velocity { agent: only_agent, server: only_server, tool, intent: pattern, .. } = self.rule;
        let is_meant = only_agent.as_ref().is_none_or(|only| only.value == *agent)
            && only_server.as_ref().is_none_or(|only| only.value == *server)
            && tool.as_ref().is_none_or(|only| matches!(key, Key::Tool(name) if **name == *only.value));
        let counted = |intent: &IntentName| {
            pattern.as_ref().is_none_or(|pattern| pattern.value.matches(intent.as_str()))
        };
        let counted: Vec<_> = intents.iter().filter(|intent| is_meant && counted(intent)).copied().collect();
        let named: Vec<_> = if self.rule.per.names(Part::Intent) {
            counted.iter().map(|intent| Some((*intent).clone())).collect()
        } else {
            counted.first().map(|_| None).into_iter().collect()
        };
        let weight = self.weight(intents);
        let meters = self.each.iter().flat_map(|(scope, rule)| {
            let weight = if rule.measure == Measure::Cost { weight } else { 1 };
            named.iter().map(move |intent| Meter {
                rule: rule.clone(),
                scope: *scope,
                intent: intent.clone(),
                weight,
            })
        });
        meters.collect()
    }

    /// Of what a call means, the dearest.
    fn weight(&self, intents: &[&IntentName]) -> u32 {
        let costs = self.rule.costs.iter().map(|cost| &cost.value);
        let meant = costs.filter(|(pattern, _)| intents.iter().any(|i| pattern.matches(i.as_str())));
        meant.map(|(_, weight)| *weight).max().unwrap_or(1)
    }
}

/// A call's record names every key that counted it, and has a bound.
fn check_meters(document: &Document, agents: &HashMap<AgentName, AgentRules>) -> Result<(), Problems> {
    let of = |rules: &AgentRules| {
        let sets = rules.servers.values().flat_map(|surface| surface.targets.values());
        sets.map(|set| set.velocity.len()).max().unwrap_or_default()
    };
    let most =
        document.agents.iter().filter_map(|agent| Some((&agent.name, of(agents.get(&agent.name.value)?))));
    let Some((agent, count)) = most.max_by_key(|(_, count)| *count) else { return Ok(()) };
    if count <= VELOCITY_METERS_MAX {
        return Ok(());
    }
    let what = format!(
        "velocity rules count one call of {} {count} times; at most {VELOCITY_METERS_MAX} are possible",
        agent.value
    );
    let hint = "write fewer rules, each for more intents";
    let place = document.velocity.last().map_or(&agent.place, |rule| &rule.place);
    Err(place.problem(what, Some(hint.into())).into())
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
    check.rules(document);
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
                let facts = self.facts.entry(intent.name.value.as_str()).or_default();
                for (name, source) in &matcher.facts {
                    facts.entry(&**name).or_default().insert(source.measure);
                }
            }
        }
    }

    fn rules(&mut self, document: &'d Document) {
        let mut names: HashMap<&RuleName, String> = HashMap::new();
        let policies = document.policies.iter().map(|rule| (&rule.name, &rule.place));
        for (name, place) in policies.chain(document.velocity.iter().map(|rule| (&rule.name, &rule.place))) {
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

    /// One window counts a call once, whatever rules look at it.
    fn costs_agree(&mut self, document: &'d Document) {
        let mut seen: HashMap<ScopeId, &Velocity> = HashMap::new();
        for rule in &document.velocity {
            let limits = Limits::of(rule).each.into_iter();
            for (scope, _) in limits.filter(|(_, limit)| limit.measure == Measure::Cost) {
                let first = seen.entry(scope).or_insert(rule);
                let costs = |rule: &Velocity| -> BTreeSet<(IntentPattern, u32)> {
                    rule.costs.iter().map(|cost| cost.value.clone()).collect()
                };
                if costs(first) != costs(rule) {
                    let what = "another velocity rule counts the same calls with other costs";
                    let hint = format!("see {}; write the same `costs` in both", first.place.short());
                    self.problems.push(rule.place.problem(what, Some(hint)));
                }
            }
        }
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
