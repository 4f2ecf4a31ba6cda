//! What is no mistake of form and locks agents out all the same, or lets nobody pass.

use std::collections::HashMap;

use super::flow::Flows;
use super::scoring;
use crate::config::Problem;
use crate::policy::decide::{AgentRules, IntentRules, RuleSet};
use crate::policy::file::{At, Clause, Document, Profile};
use crate::policy::profile::Profiles;
use crate::risk::{Base, Class, Inputs, Model};
use crate::types::{AgentName, ServerName};

/// Flow rules that speak of more than their author may think.
pub(super) fn labels(document: &Document, flows: &Flows<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    let (lowest, highest) = (flows.labels.names().next(), flows.labels.names().last());
    let unlabelled = flows.unlabelled(document);
    if let (Some(first), Some(highest)) = (unlabelled.first(), highest) {
        let what = format!(
            "flow rules are in force and {} matchers have no label (first: {} {}): what they answer counts as {highest}",
            unlabelled.len(),
            first.server.value,
            first.key.text()
        );
        found.push(first.server.place.problem(what, Some("set `default_label`, or label them".into())));
    }
    for rule in document.flow.rules.iter().filter(|rule| lowest == Some(rule.after.value.as_str())) {
        let what = format!("`after: {}` is always met, since no label is lower", rule.after.value);
        let hint = "name the lowest label of which nothing may go there";
        found.push(rule.after.place.problem(what, Some(hint.into())));
    }
    found
}

/// Profiles with a ceiling below all that an agent in them may do.
pub(super) fn ceilings(
    document: &Document,
    agents: &HashMap<AgentName, AgentRules>,
    profiles: &Profiles,
) -> Vec<Problem> {
    let model = scoring(document).model;
    let mut found = Vec::new();
    for profile in &document.profiles {
        let Profile { name, max_risk: Some(max), .. } = profile else { continue };
        let narrowing = profiles.narrowing(Some(&name.value));
        for agent in document.agents.iter().filter(|agent| agent.profiles.contains(&name.value)) {
            let agent = &agent.name.value;
            let surfaces = agents.get(agent).into_iter().flat_map(|rules| rules.servers.values());
            let sets = surfaces.flat_map(|surface| surface.targets.values()).filter(|set| {
                set.rules.iter().any(IntentRules::may_pass) && narrowing.may_admit(&set.admitted)
            });
            let least = sets.map(|set| least(set, &model)).min();
            if let Some(least) = least.filter(|least| least > max) {
                let what = format!(
                    "the profile {} leaves {agent} nothing: its max_risk is {max}, and the least score of what {agent} may is {least}",
                    name.value
                );
                let hint = "raise max_risk, or give what is harmless a `class: read`";
                found.push(name.place.problem(what, Some(hint.into())));
            }
        }
    }
    found
}

/// What each call of the target scores at least: of several intents the riskiest counts, and of those that not every call means, any.
fn least(set: &RuleSet, model: &Model) -> u8 {
    let points = |base: Option<u8>, class: Option<Class>| {
        let base = base.map_or_else(|| Base::Class(class.unwrap_or(Class::Unknown)), Base::Points);
        model.score(&Inputs { base, arguments: Vec::new(), off_hours: None, known: None }).score
    };
    let of = |is_always: bool| {
        let meant = set.meant.iter().filter(move |meant| meant.when.is_empty() == is_always);
        meant.map(|meant| points(meant.weights.base, meant.weights.class))
    };
    of(true).max().or(of(false).min()).unwrap_or_default()
}

/// Servers in shadow: nothing but the want of a rule refuses their calls.
pub(super) fn shadows(document: &Document) -> Vec<Problem> {
    let warning = |server: &At<ServerName>| {
        let what = format!("{} is in shadow: no rule refuses, holds or masks anything of it", server.value);
        let hint = "records and `mcp-guard status` tell what would be; take it out of shadow_servers to have the rules bind";
        server.place.problem(what, Some(hint.into()))
    };
    document.shadow_servers.iter().map(warning).collect()
}

/// Conditions on the user in rules for agents that name none.
pub(super) fn users(document: &Document) -> Vec<Problem> {
    let shows_token = |name: &At<AgentName>| {
        document.agents.iter().any(|agent| agent.name.value == name.value && agent.needs.token().is_some())
    };
    let rules = document.policies.iter().filter(|rule| !rule.agents.iter().any(shows_token));
    let asked = rules.flat_map(|rule| &rule.conditions).filter_map(|clause| {
        let Clause::Origin(origin) = &clause.value else { return None };
        let key = if origin.users.is_some() { "user_in" } else { "user_not_in" };
        (origin.users.is_some() || origin.not_users.is_some()).then_some((&clause.place, key))
    });
    let found = asked.map(|(place, key)| {
        let what =
            format!("{key} asks for a user, and no agent of this rule shows a token that could name one");
        place.problem(what, Some("give them a `token`, or remove the condition".into()))
    });
    found.collect()
}
