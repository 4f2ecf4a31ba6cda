//! Cases: calls with what a policy should say of them, in YAML beside the policy.
//!
//! They stand in a folder of their own, [`CASES_DIR`] in the policy directory, since every `*.yaml` beside the rules is read as rules.

use std::collections::HashMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use super::explain::{Explanation, Written};
use super::{Asked, Decision, DenyCode, Effect, What, load};
use crate::config::problem::{Problem, Problems};
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::{self, Node, Value};
use crate::risk::{Known, SCORE_MAX};
use crate::rpc::Json;
use crate::types::{AgentName, IntentName, LabelName, ProfileName, ServerName, UserName, Within};

/// Where cases are looked for, below the policy directory.
pub const CASES_DIR: &str = "tests";

/// A call and what is expected.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    pub name: String,
    pub file: PathBuf,
    pub line: u64,
    pub asked: Asked,
    pub expected: Expected,
}

/// What the policy should say; what is `None` may be anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub effect: Effect,
    pub code: Option<DenyCode>,
    /// The rule that decides, by its name.
    pub rule: Option<String>,
    /// One of those that the call means.
    pub intent: Option<IntentName>,
    /// A part of what the agent is told.
    pub reason: Option<String>,
    /// Whether lists show it.
    pub is_listed: Option<bool>,
}

const KEYS: [&str; 22] = [
    "name",
    "agent",
    "profile",
    "server",
    "tool",
    "resource",
    "prompt",
    "method",
    "server_request",
    "arguments",
    "at",
    "user",
    "history",
    "risk",
    "mark",
    "session",
    "expect",
    "code",
    "rule",
    "intent",
    "reason",
    "listed",
];

const CODES: [(&str, DenyCode); 7] = [
    ("denied_by_rule", DenyCode::DeniedByRule),
    ("flow", DenyCode::Flow),
    ("condition_failed", DenyCode::ConditionFailed),
    ("default_deny", DenyCode::DefaultDeny),
    ("profile_denies", DenyCode::ProfileDenies),
    ("no_intent", DenyCode::NoIntent),
    ("server_not_granted", DenyCode::ServerNotGranted),
];

/// Every `*.yaml` in the cases' folder of `policy_dir`, sorted. None is a problem: a test of nothing passes too easily.
pub fn files(policy_dir: &Path) -> Result<Vec<PathBuf>, Problem> {
    let dir = policy_dir.join(CASES_DIR);
    let hint = "write cases there, such as `cases: [{name: ..., agent: ..., server: ..., tool: ..., expect: allow}]`, or name files";
    let unreadable = |error: std::io::Error| match error.kind() {
        ErrorKind::NotFound => Problem::of_file(&dir, "there is no such directory").with_hint(hint),
        _ => Problem::of_file(&dir, format!("the directory cannot be read: {error}")),
    };
    let mut files = Vec::new();
    for entry in fs::read_dir(&dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.extension().is_some_and(|extension| extension == "yml") {
            return Err(Problem::of_file(&path, "only files that end in .yaml are read")
                .with_hint("rename it to .yaml"));
        }
        if path.extension().is_some_and(|extension| extension == "yaml") && !name.starts_with('.') {
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Problem::of_file(&dir, "there is no file of cases in this directory").with_hint(hint));
    }
    files.sort();
    Ok(files)
}

/// Reads the cases in `files`, whose names must be those of the policy.
pub fn read(files: &[PathBuf], written: &Written) -> Result<Vec<Case>, Problems> {
    let (mut cases, mut problems) = (Vec::new(), Problems::default());
    for file in files {
        match load::text(file) {
            Ok(text) => problems.append(read_text(file, &text, written, &mut cases)),
            Err(problem) => problems.push(problem),
        }
    }
    problems.or(cases)
}

/// The same from a text that is already in memory.
pub(super) fn read_text(file: &Path, text: &str, written: &Written, cases: &mut Vec<Case>) -> Problems {
    let node = match yaml::nodes(file, text) {
        Ok(node) => node,
        Err(problem) => return problem.into(),
    };
    let mut reader = Reader::new(file);
    let fields = reader.fields(&node, "a file of cases", &["cases"]);
    let list = fields.and_then(|fields| fields.required("cases", &mut reader));
    let nodes = list.and_then(|node| reader.list(node, "cases")).unwrap_or_default();
    let mut names: HashMap<String, u64> = HashMap::new();
    for node in nodes {
        let Some(case) = case(&mut reader, node, file, written) else { continue };
        if let Some(first) = names.insert(case.name.clone(), case.line) {
            let hint = Some(format!("see line {first}; each case has a name of its own"));
            reader.problem(node, format!("the name {:?} is used twice", case.name), hint);
        }
        cases.push(case);
    }
    reader.finish()
}

fn case(reader: &mut Reader<'_>, node: &Node, file: &Path, written: &Written) -> Option<Case> {
    let fields = reader.fields(node, "a case", &KEYS)?;
    let name = fields.required("name", reader).and_then(|node| reader.text(node, "name"));
    let expected = expected(reader, &fields);
    let asked = asked(reader, &fields, node)?;
    if let Some((key, what, hint)) = written.unknown_name(&asked) {
        reader.problem(fields.optional(key).unwrap_or(node), what, hint);
        return None;
    }
    Some(Case { name: name?.to_owned(), file: file.to_owned(), line: node.line, asked, expected: expected? })
}

fn asked(reader: &mut Reader<'_>, fields: &Fields<'_>, node: &Node) -> Option<Asked> {
    let agent =
        fields.required("agent", reader).and_then(|node| reader.name(node, "agent", AgentName::parse));
    let server =
        fields.required("server", reader).and_then(|node| reader.name(node, "server", ServerName::parse));
    let profile = match fields.optional("profile") {
        Some(node) => Some(reader.name(node, "profile", ProfileName::parse)?),
        None => None,
    };
    let what = what(reader, fields, node);
    let arguments = match fields.optional("arguments") {
        Some(node) => Some(arguments(reader, node, what.as_ref())?),
        None => None,
    };
    let moment = match fields.optional("at") {
        Some(node) => Some(moment(reader, node)?),
        None => None,
    };
    let user = match fields.optional("user") {
        Some(node) => Some(user(reader, node)?),
        None => None,
    };
    let known = match fields.optional("history") {
        Some(node) => known(reader, node)?,
        None => Known::default(),
    };
    let risk = match fields.optional("risk") {
        Some(node) => Some(risk(reader, node)?),
        None => None,
    };
    let read = match fields.optional("mark") {
        Some(node) => vec![reader.name(node, "mark", LabelName::parse)?],
        None => Vec::new(),
    };
    let session = match fields.optional("session") {
        Some(node) => session(reader, node)?,
        None => Within::Nothing,
    };
    Some(Asked {
        agent: agent?,
        profile,
        server: server?,
        what: what?,
        arguments,
        moment,
        known: Some(known),
        risk,
        user,
        read,
        session,
    })
}

fn user(reader: &mut Reader<'_>, node: &Node) -> Option<UserName> {
    let text = reader.text(node, "user")?;
    let user = UserName::parse(text);
    user.map_err(|error| reader.problem(node, format!("user {text:?}: {error}"), None)).ok()
}

/// `{new: true, today: 500, refused: 3, changed_hours: 5}`: what the agent did before. Without, it is known and has called little.
fn known(reader: &mut Reader<'_>, node: &Node) -> Option<Known> {
    let fields = reader.fields(node, "history", &["new", "today", "refused", "changed_hours"])?;
    let mut count = |key: &str| {
        let Some(node) = fields.optional(key) else { return Some(None) };
        let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
        if number.is_none() {
            reader.problem(node, format!("{key} must be a whole number"), None);
        }
        number.map(Some)
    };
    let (today, refused, hours) = (count("today"), count("refused"), count("changed_hours"));
    let is_new = match fields.optional("new").map(|node| (node, &node.value)) {
        None => false,
        Some((_, Value::Bool(is_new))) => *is_new,
        Some((node, other)) => {
            reader.problem(node, format!("new must be true or false, this is {}", other.kind()), None);
            return None;
        }
    };
    let changed = hours?.map(|hours| hours.saturating_mul(3600));
    Some(Known { is_new, today: today?.unwrap_or_default(), refused: refused?.unwrap_or_default(), changed })
}

/// `{calls: 9, minutes: 20}`: what the session has had before the call, and its age.
fn session(reader: &mut Reader<'_>, node: &Node) -> Option<Within> {
    let fields = reader.fields(node, "a session", &["calls", "minutes"])?;
    let mut number = |key: &str| {
        let Some(node) = fields.optional(key) else { return Some(0) };
        let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
        if number.is_none() {
            reader.problem(node, format!("{key} must be a whole number"), None);
        }
        number
    };
    let (calls, minutes) = (number("calls"), number("minutes"));
    Some(Within::of(calls?, minutes?))
}

/// A score in place of the policy's.
fn risk(reader: &mut Reader<'_>, node: &Node) -> Option<u8> {
    let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
    let score = number.and_then(|score| u8::try_from(score).ok()).filter(|score| *score <= SCORE_MAX);
    if score.is_none() {
        reader.problem(node, format!("risk must be a whole number from 0 to {SCORE_MAX}"), None);
    }
    score
}

fn moment(reader: &mut Reader<'_>, node: &Node) -> Option<Timestamp> {
    let text = reader.text(node, "at")?;
    text.parse()
        .inspect_err(|_| {
            let hint = "write for example \"2026-11-22T09:30:00Z\", in quotes and with its distance from UTC";
            reader.problem(node, format!("at {text:?} is no moment"), Some(hint.into()));
        })
        .ok()
}

fn what(reader: &mut Reader<'_>, fields: &Fields<'_>, node: &Node) -> Option<What> {
    let named: Vec<_> =
        What::KINDS.iter().filter_map(|kind| fields.optional(kind).map(|node| (*kind, node))).collect();
    let &[(kind, target)] = named.as_slice() else {
        let kinds = What::KINDS.join(", ");
        let what = format!("a case names one of {kinds}; this one names {}", named.len());
        let hint =
            if named.is_empty() { "add for example `tool: read_customer`" } else { "write a case for each" };
        reader.problem(node, what, Some(hint.into()));
        return None;
    };
    let text = reader.text(target, kind)?;
    match What::parse(kind, text) {
        Ok(what) => Some(what),
        Err((what, hint)) => {
            reader.problem(target, what, Some(hint));
            None
        }
    }
}

fn arguments(reader: &mut Reader<'_>, node: &Node, what: Option<&What>) -> Option<Json> {
    if let Some(what) = what.filter(|what| !what.has_arguments()) {
        reader.problem(
            node,
            format!("a {} has no arguments", what.kind()),
            Some("remove `arguments`".into()),
        );
        return None;
    }
    reader.entries(node, "arguments")?;
    json(reader, node)
}

/// What the YAML says, as the JSON that a client would send.
fn json(reader: &mut Reader<'_>, node: &Node) -> Option<Json> {
    Some(match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Number(number) => Json::Number(number.clone()),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => {
            Json::Array(items.iter().map(|item| json(reader, item)).collect::<Option<Vec<_>>>()?)
        }
        Value::Map(_) => {
            let entries = reader.entries(node, "an argument")?;
            let member = |(_, name, node): (&Node, &str, &Node)| Some((name.to_owned(), json(reader, node)?));
            Json::Object(entries.into_iter().map(member).collect::<Option<Vec<_>>>()?)
        }
    })
}

fn expected(reader: &mut Reader<'_>, fields: &Fields<'_>) -> Option<Expected> {
    let effects = [("allow", Effect::Allow), ("deny", Effect::Deny), ("escalate", Effect::Escalate)];
    let effect = fields.required("expect", reader).and_then(|node| reader.choice(node, "expect", &effects));
    let code = fields.optional("code").map(|node| {
        if effect.is_some_and(|effect| effect != Effect::Deny) {
            let hint = "write `expect: deny`, or remove `code`";
            reader.problem(node, "only a denial has a code", Some(hint.into()));
            return None;
        }
        reader.choice(node, "code", &CODES)
    });
    let reason = fields.optional("reason").map(|node| {
        if effect == Some(Effect::Allow) {
            reader.problem(node, "what is allowed has no reason", Some("remove `reason`".into()));
            return None;
        }
        reader.text(node, "reason").map(str::to_owned)
    });
    let rule = fields.optional("rule").map(|node| reader.text(node, "rule").map(str::to_owned));
    let intent = fields.optional("intent").map(|node| reader.name(node, "intent", IntentName::parse));
    let is_listed = fields.optional("listed").map(|node| {
        if let Value::Bool(value) = node.value {
            return Some(value);
        }
        reader.problem(
            node,
            format!("listed must be a boolean, this is {}", node.value.kind()),
            Some("write true or false".into()),
        );
        None
    });
    // What is there and cannot be read was told.
    Some(Expected {
        effect: effect?,
        code: code.map_or(Some(None), |code| code.map(Some))?,
        rule: rule.map_or(Some(None), |rule| rule.map(Some))?,
        intent: intent.map_or(Some(None), |intent| intent.map(Some))?,
        reason: reason.map_or(Some(None), |reason| reason.map(Some))?,
        is_listed: is_listed.map_or(Some(None), |value| value.map(Some))?,
    })
}

impl Case {
    /// What is not as expected, and how it is; nothing if all is.
    pub fn differences(&self, explained: &Explanation) -> Vec<String> {
        let expected = &self.expected;
        let (effect, rule, reason) = match &explained.decision {
            Decision::Allow(allow) => (Effect::Allow, Some(&allow.rule), None),
            Decision::Hold(hold) => (Effect::Escalate, Some(&hold.rule), Some(hold.reason())),
            Decision::Deny(deny) => (Effect::Deny, deny.rule.as_ref(), Some(deny.reason())),
        };
        let code = if let Decision::Deny(deny) = &explained.decision { Some(deny.code) } else { None };
        let mut found = Vec::new();
        let mut differ = |what: &str, wanted: &str, is: Option<&str>| {
            found.push(format!("{what} is {}, not {wanted}", is.unwrap_or("none")));
        };
        if effect != expected.effect {
            differ("the decision", expected.effect.as_str(), Some(effect.as_str()));
        }
        if let Some(wanted) = expected.code.filter(|wanted| Some(*wanted) != code) {
            differ("the code", wanted.as_str(), code.map(DenyCode::as_str));
        }
        if let Some(wanted) =
            expected.rule.as_deref().filter(|wanted| rule.is_none_or(|rule| rule.as_str() != *wanted))
        {
            differ("the rule", wanted, rule.map(super::RuleName::as_str));
        }
        if let Some(wanted) = expected.intent.as_ref().filter(|wanted| !explained.intents.contains(wanted)) {
            let intents: Vec<&str> = explained.intents.iter().map(IntentName::as_str).collect();
            let intents = intents.join(", ");
            differ("the intent", wanted.as_str(), Some(&*intents).filter(|intents| !intents.is_empty()));
        }
        if let Some(wanted) =
            expected.reason.as_deref().filter(|wanted| reason.is_none_or(|reason| !reason.contains(wanted)))
        {
            differ(
                "the reason",
                &format!("{wanted:?}"),
                reason.map(|reason| format!("{reason:?}")).as_deref(),
            );
        }
        if let Some(wanted) = expected.is_listed.filter(|wanted| Some(*wanted) != explained.is_listed) {
            let words = |listed: bool| if listed { "shown" } else { "hidden" };
            differ("in lists it", words(wanted), Some(explained.is_listed.map_or("never", words)));
        }
        found
    }
}

#[cfg(test)]
mod tests;
