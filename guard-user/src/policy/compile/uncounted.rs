//! Velocity rules that no call can ever be counted by: no mistake of form, and surely not what was meant.

use std::collections::{HashMap, HashSet};

use crate::config::Problem;
use crate::policy::decide::{AgentRules, IntentRules};
use crate::policy::file::{Agent, Document, Intent, Matcher, Velocity};
use crate::policy::profile::Profiles;
use crate::policy::rule::RuleName;
use crate::policy::target::Key;
use crate::types::AgentName;

/// Each of them with its place and the likely cause.
pub(super) fn find(
    document: &Document,
    agents: &HashMap<AgentName, AgentRules>,
    profiles: &Profiles,
) -> Vec<Problem> {
    let (mut counted, mut left_out) = (HashSet::new(), HashSet::new());
    for agent in &document.agents {
        let surfaces = agents.get(&agent.name.value).into_iter().flat_map(|rules| rules.servers.values());
        let sets = surfaces.flat_map(|surface| surface.targets.values());
        for set in sets.filter(|set| set.rules.iter().any(IntentRules::may_pass)) {
            for profile in &agent.profiles {
                let meters = set.velocity.iter().filter(|meter| meter.rule.counts_in(Some(profile)));
                let names = meters.map(|meter| &meter.rule.name);
                if profiles.narrowing(Some(profile)).may_admit(&set.admitted) {
                    counted.extend(names);
                } else {
                    left_out.extend(names);
                }
            }
        }
    }
    let idle = document.velocity.iter().filter(|rule| !counted.contains(&rule.name));
    idle.map(|rule| problem(rule, document, &left_out)).collect()
}

fn problem(rule: &Velocity, document: &Document, left_out: &HashSet<&RuleName>) -> Problem {
    let what = format!("the velocity rule {} can never count a call", rule.name);
    rule.place.problem(what, Some(cause(rule, document, left_out)))
}

fn cause(rule: &Velocity, document: &Document, left_out: &HashSet<&RuleName>) -> String {
    let Velocity { agent, server, tool, profile, intent, .. } = rule;
    let matchers =
        || document.intents.iter().flat_map(|intent| intent.matchers.iter().map(move |m| (intent, m)));
    let is_there = |(_, matcher): &(&Intent, &Matcher)| {
        server.as_ref().is_none_or(|server| server.value == matcher.server.value)
            && tool
                .as_ref()
                .is_none_or(|tool| matches!(&matcher.key, Key::Tool(name) if **name == *tool.value))
    };
    let is_meant = |(meant, _): &(&Intent, &Matcher)| {
        intent.as_ref().is_none_or(|pattern| pattern.value.matches(meant.name.value.as_str()))
    };
    let at = server.as_ref().map_or(String::new(), |server| format!(" of the server {}", server.value));
    if !matchers().any(|one| is_there(&one)) {
        return match tool {
            Some(tool) => format!("no intent names the tool {:?}{at}", tool.value),
            None => format!("no intent names anything{at}"),
        };
    }
    if let Some(intent) = intent.as_ref().filter(|_| !matchers().any(|one| is_there(&one) && is_meant(&one)))
    {
        let what = tool
            .as_ref()
            .map_or("nothing".to_owned(), |tool| format!("no matcher of the tool {:?}", tool.value));
        return format!("{what}{at} means {}", intent.value);
    }
    let agents = || {
        document.agents.iter().filter(|one| agent.as_ref().is_none_or(|only| only.value == one.name.value))
    };
    let who = agent.as_ref().map_or("no agent".to_owned(), |agent| agent.value.to_string());
    let has = if agent.is_some() { "does not have" } else { "has" };
    if let Some(profile) =
        profile.as_ref().filter(|at| !agents().any(|agent| agent.profiles.contains(&at.value)))
    {
        return format!("{who} {has} the profile {}", profile.value);
    }
    let reaches = |agent: &Agent| {
        matchers().filter(|one| is_there(one) && is_meant(one)).any(|(_, matcher)| {
            agent
                .servers
                .as_ref()
                .is_none_or(|servers| servers.iter().any(|at| at.value == matcher.server.value))
        })
    };
    if !agents().any(reaches) {
        return format!("{who} {has} a server of its calls among its `servers`");
    }
    if left_out.contains(&rule.name) {
        return "the profiles in which it would count admit no such call".into();
    }
    let to = agent.as_ref().map_or(String::new(), |agent| format!(" to {}", agent.value));
    format!("no rule allows such a call{to}")
}
