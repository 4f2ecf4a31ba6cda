//! What an author may have meant: rules and names that are nearly those of a call. Nothing here decides anything.

use std::collections::BTreeSet;

use serde::Serialize;

use super::{JudgedRule, MeantIntent};
use crate::config::problem::{distance, suggest};
use crate::policy::file::{Document, Intent, PolicyRule};
use crate::policy::rule::{IntentPattern, RuleName};
use crate::policy::target::{Key, Pattern, is_plain_uri, is_protocol_method};
use crate::policy::{Asked, Decision, DenyCode, Effect, What};
use crate::types::IntentName;

/// Rules that are named as near ones; a longer list helps nobody.
pub const NEAR_RULES_MAX: usize = 20;
/// Agents of another rule that are named.
const AGENTS_SHOWN_MAX: usize = 6;

/// A rule that is not for this call, but nearly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NearRule {
    pub rule: RuleName,
    /// Where it stands.
    pub at: String,
    pub effect: Effect,
    pub nearness: Nearness,
    /// Why it is not for this call.
    pub why: String,
}

/// What keeps a rule from a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Nearness {
    /// The agent's entry does not name the server.
    Server,
    /// Its intent is nearly one of the call's.
    Intent,
    /// It is for others.
    Agent,
    /// It binds nobody.
    Shadow,
}

/// The nearest rules, and how many more there are.
pub(super) fn rules(
    document: &Document,
    asked: &Asked,
    intents: &[IntentName],
    judged: &[JudgedRule],
) -> (Vec<NearRule>, usize) {
    let mut near: Vec<NearRule> = document
        .policies
        .iter()
        .filter(|rule| !judged.iter().any(|judged| judged.rule == rule.name))
        .filter_map(|rule| {
            let (nearness, why) = nearness(rule, asked, intents)?;
            let (name, at) = (rule.name.clone(), rule.place.short());
            Some(NearRule { rule: name, at, effect: rule.effect(), nearness, why })
        })
        .collect();
    near.sort_by(|a, b| (a.nearness, &a.rule).cmp(&(b.nearness, &b.rule)));
    let left_off = near.len().saturating_sub(NEAR_RULES_MAX);
    near.truncate(NEAR_RULES_MAX);
    (near, left_off)
}

fn nearness(rule: &PolicyRule, asked: &Asked, intents: &[IntentName]) -> Option<(Nearness, String)> {
    let pattern = &rule.intent.value;
    let is_own = rule.agents.iter().any(|agent| agent.value == asked.agent);
    let is_matched = intents.iter().any(|intent| pattern.matches(intent.as_str()));
    match (is_own, is_matched) {
        (true, true) => {
            if rule.is_shadow {
                let what = format!("it is in shadow, and no other rule of {} is about this", asked.agent);
                return Some((Nearness::Shadow, what));
            }
            // It would have been judged if the agent could come here at all; what needs no rule is judged by none.
            let what = format!("the entry of {} does not name the server {}", asked.agent, asked.server);
            Some((Nearness::Server, what))
        }
        (true, false) => {
            let near = intents.iter().find_map(|intent| nearly(pattern, intent))?;
            Some((Nearness::Intent, near))
        }
        (false, true) => {
            let agents: BTreeSet<&str> = rule.agents.iter().map(|agent| agent.value.as_str()).collect();
            let more = agents.len().saturating_sub(AGENTS_SHOWN_MAX);
            let shown: Vec<&str> = agents.into_iter().take(AGENTS_SHOWN_MAX).collect();
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            Some((Nearness::Agent, format!("it is for {}{more}", shown.join(", "))))
        }
        (false, false) => None,
    }
}

/// Why `pattern` does not match `intent`, where it looks as if it did.
fn nearly(pattern: &IntentPattern, intent: &IntentName) -> Option<String> {
    let (text, intent) = (pattern.as_str(), intent.as_str());
    if let Some(above) = text.strip_suffix(".*") {
        return (above == intent)
            .then(|| format!("{text} matches what is below {intent}, and not {intent} itself"));
    }
    if intent.strip_prefix(text).is_some_and(|rest| rest.starts_with('.')) {
        return Some(format!("{text} is not {intent}; {text}.* would match it"));
    }
    (distance(text, intent) <= 1).then(|| format!("{text} is not {intent}"))
}

/// What else could explain the decision, and what to write.
pub(super) fn hints(
    document: &Document,
    asked: &Asked,
    (intents, meant): (&[IntentName], &[MeantIntent]),
    judged: &[JudgedRule],
    decision: &Decision,
) -> Vec<String> {
    let code = match decision {
        Decision::Allow(allow) if allow.intents.is_empty() => return protocol(&asked.what),
        Decision::Allow(_) | Decision::Hold(_) => return Vec::new(),
        Decision::Deny(deny) => deny.code,
    };
    let mut hints = Vec::new();
    if intents.is_empty() && meant.is_empty() {
        hints.extend(unnamed(document, asked));
    }
    let entry = document.agents.iter().find(|agent| agent.name.value == asked.agent);
    let servers = entry.and_then(|agent| agent.servers.as_ref());
    if servers.is_some_and(|servers| servers.iter().all(|server| server.value != asked.server)) {
        hints.push(format!(
            "`servers` in the entry of {} does not name {}, so no rule of it holds there",
            asked.agent, asked.server
        ));
    } else if let (DenyCode::DefaultDeny | DenyCode::ServerNotGranted, Some(_)) = (code, intents.first()) {
        let wanted: Vec<&str> = intents.iter().map(IntentName::as_str).collect();
        let each = if wanted.len() > 1 { "rules that allow each of" } else { "a rule that allows" };
        hints.push(format!("{each} {} to {} would let it pass", wanted.join(", "), asked.agent));
        hints.extend(holding(judged).map(|rule| format!("{rule} would only hold it; no rule allows it")));
    }
    hints
}

/// The rules that hold calls of an intent that none lets pass.
fn holding(judged: &[JudgedRule]) -> impl Iterator<Item = &RuleName> {
    let binding = || judged.iter().filter(|rule| !rule.is_shadow && !rule.is_flow);
    let is_allowed = move |rule: &JudgedRule| {
        binding().any(|other| other.intent == rule.intent && other.effect == Effect::Allow)
    };
    let held = binding().filter(move |rule| rule.effect == Effect::Escalate && !is_allowed(rule));
    held.map(|rule| &rule.rule)
}

fn protocol(what: &What) -> Vec<String> {
    let words = match what {
        What::ServerRequest(_) => "what a server asks its client is open until an intent names it",
        _ => "a method of the protocol itself: open wherever the agent has a grant",
    };
    vec![words.to_owned()]
}

/// No intent names the target: which name was meant, and where it is named.
fn unnamed(document: &Document, asked: &Asked) -> Vec<String> {
    let (kind, name) = (asked.what.kind(), asked.what.name());
    let matchers = || document.intents.iter().flat_map(matchers_of);
    let mut hints = Vec::new();
    let here: Vec<&str> = matchers()
        .filter(|(_, server, key)| *server == asked.server.as_str() && kind_of(key) == kind)
        .map(|(_, _, key)| key.text())
        .collect();
    let is_method = matches!(&asked.what, What::Method(method) if !is_protocol_method(method));
    if matches!(asked.what, What::Tool(_) | What::Prompt(_) | What::Resource(_)) || is_method {
        hints.extend(suggest(name, here.iter().copied()).map(|hint| format!("{kind} {name:?}: {hint}")));
    }
    for (intent, server, key) in matchers() {
        let same = key.text() == name;
        if same && server != asked.server.as_str() && kind_of(key) == kind {
            hints.push(format!("{intent} names this {kind} on the server {server}"));
        } else if same && server == asked.server.as_str() && kind_of(key) != kind {
            hints.push(format!("{intent} names the {} {name:?}, which is not the {kind}", kind_of(key)));
        }
    }
    if let What::Resource(uri) = &asked.what
        && !is_plain_uri(uri)
        && matchers().any(|(_, server, key)| {
            server == asked.server.as_str()
                && matches!(key, Key::Resource(Pattern::Prefix(prefix)) if uri.starts_with(&**prefix))
        })
    {
        hints.push(format!("{uri:?} is not in its plain form, so no pattern matches it"));
    }
    hints.sort();
    hints.dedup();
    hints.truncate(NEAR_RULES_MAX);
    hints
}

fn matchers_of(intent: &Intent) -> Vec<(&IntentName, &str, &Key)> {
    let name = &intent.name.value;
    intent.matchers.iter().map(|matcher| (name, matcher.server.value.as_str(), &matcher.key)).collect()
}

fn kind_of(key: &Key) -> &'static str {
    match key {
        Key::Tool(_) => "tool",
        Key::Prompt(_) => "prompt",
        Key::Resource(_) => "resource",
        Key::Method(_) => "method",
        Key::ServerRequest(_) => "server_request",
    }
}
