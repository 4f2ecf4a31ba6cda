//! Velocity rules: what each counts, and how often one call is counted.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::Check;
use crate::config::Problems;
use crate::policy::decide::AgentRules;
use crate::policy::file::{Document, Velocity};
use crate::policy::meaning::Counting;
use crate::policy::rule::{ExceededAction, IntentPattern, Measure, Meter, Part, ScopeId, VelocityRule};
use crate::policy::target::Key;
use crate::types::{AgentName, IntentName, ProfileName, ServerName};

/// The most counts that one call can have, over all velocity rules.
pub const VELOCITY_METERS_MAX: usize = 32;

/// One velocity rule, each of its limits by itself.
pub(super) struct Limits<'d> {
    pub rule: &'d Velocity,
    pub each: Vec<(ScopeId, Arc<VelocityRule>)>,
    /// The same, as they are for servers in shadow. What they count is the same, too.
    in_shadow: Vec<(ScopeId, Arc<VelocityRule>)>,
}

impl<'d> Limits<'d> {
    pub(super) fn of(rule: &'d Velocity) -> Self {
        let intent = rule.intent.as_ref().map_or_else(IntentPattern::every, |intent| intent.value.clone());
        let each = rule.limits.iter().map(|&(measure, max)| {
            let window = rule.window_milliseconds.filter(|_| measure != Measure::Concurrent);
            let limit = VelocityRule {
                name: rule.name.clone(),
                agent: rule.agent.as_ref().map(|agent| agent.value.clone()),
                server: rule.server.as_ref().map(|server| server.value.clone()),
                tool: rule.tool.as_ref().map(|tool| tool.value.clone()),
                profile: rule.profile.as_ref().map(|profile| profile.value.clone()),
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
        let each: Vec<_> = each.collect();
        let shadowed = |(scope, limit): &(ScopeId, Arc<VelocityRule>)| {
            (*scope, Arc::new(VelocityRule { action: ExceededAction::Shadow, ..VelocityRule::clone(limit) }))
        };
        Self { rule, in_shadow: each.iter().map(shadowed).collect(), each }
    }

    /// How the rule counts calls of `agent` that mean `intents`: once, or once for each intent that its keys name.
    pub(super) fn meters(
        &self,
        agent: &AgentName,
        (server, key): (&ServerName, &Key),
        intents: &[&IntentName],
        is_shadowed: bool,
    ) -> Vec<(Meter, Counting)> {
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
        let weight = self.cost(intents).unwrap_or(1);
        let each = if is_shadowed { &self.in_shadow } else { &self.each };
        let meters = each.iter().flat_map(|(scope, rule)| {
            let is_cost = rule.measure == Measure::Cost;
            let counted = &counted;
            named.iter().map(move |named| {
                let meter = Meter {
                    rule: rule.clone(),
                    scope: *scope,
                    intent: named.clone(),
                    weight: if is_cost { weight } else { 1 },
                };
                let counts = |intent: &IntentName| {
                    counted.contains(&intent) && named.as_ref().is_none_or(|named| named == intent)
                };
                let costs = |intent: &&IntentName| self.cost(&[*intent]).filter(|_| is_cost);
                let counting = Counting {
                    by: intents.iter().map(|intent| counts(intent)).collect(),
                    weights: intents.iter().map(costs).collect(),
                };
                (meter, counting)
            })
        });
        meters.collect()
    }

    /// Of what a call means, the dearest.
    fn cost(&self, intents: &[&IntentName]) -> Option<u32> {
        let costs = self.rule.costs.iter().map(|cost| &cost.value);
        let meant = costs.filter(|(pattern, _)| intents.iter().any(|i| pattern.matches(i.as_str())));
        meant.map(|(_, weight)| *weight).max()
    }
}

/// A call's record names every key that counted it, and has a bound.
pub(super) fn check_meters(
    document: &Document,
    agents: &HashMap<AgentName, AgentRules>,
) -> Result<(), Problems> {
    // A caller works in one of its agent's profiles.
    let of = |rules: &AgentRules, profiles: &[ProfileName]| {
        let sets = rules.servers.values().flat_map(|surface| surface.targets.values());
        let each = sets.flat_map(|set| profiles.iter().map(|profile| (&set.velocity, profile)));
        let counts = each.map(|(meters, profile)| {
            meters.iter().filter(|meter| meter.rule.counts_in(Some(profile))).count()
        });
        counts.max().unwrap_or_default()
    };
    let most = document
        .agents
        .iter()
        .filter_map(|agent| Some((&agent.name, of(agents.get(&agent.name.value)?, &agent.profiles))));
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

impl<'d> Check<'d> {
    /// One window counts a call once, whatever rules look at it.
    pub(super) fn costs_agree(&mut self, document: &'d Document) {
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
}
