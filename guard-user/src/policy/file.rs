//! The shape of a policy file: what each key means, and where everything stands, for messages.

mod condition;
mod profile;
mod velocity;

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use super::fact::{Measure, Source};
use super::rule::{IntentPattern, RuleName};
use super::target::{Key, NEEDED_METHODS, Pattern, SERVER_REQUESTS, TASK_METHODS, is_plain_uri};
use super::{Needs, needs};
use crate::config::problem::{Problem, Problems, suggest};
use crate::config::reader::{Fields, Reader};
use crate::config::yaml::{self, Node, Value};
use crate::types::{AgentName, ClientId, IntentName, ProfileName, ServerName};

pub use condition::CONDITION_ENTRIES_MAX;
pub(super) use condition::{Asked, Clause};
pub(super) use profile::Profile;
pub(super) use velocity::Velocity;
pub use velocity::{VELOCITY_MAX, VELOCITY_WEIGHT_MAX, WINDOW_SECONDS_MAX};

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct At<T> {
    pub value: T,
    pub place: Place,
}

/// A line of a policy file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub file: Arc<Path>,
    pub line: u64,
    pub column: u64,
}

impl Place {
    pub(super) fn problem(&self, what: impl Into<String>, hint: Option<String>) -> Problem {
        Problem {
            file: self.file.to_path_buf(),
            line: Some(self.line),
            column: Some(self.column),
            what: what.into(),
            hint,
        }
    }

    /// `seed.yaml:14`
    pub(super) fn short(&self) -> String {
        let name = self.file.file_name().unwrap_or(self.file.as_os_str());
        format!("{}:{}", name.to_string_lossy(), self.line)
    }

    /// `seed.yaml:14:5`, where `seed.yaml:14` is two places.
    fn exact(&self) -> String {
        format!("{}:{}", self.short(), self.column)
    }
}

/// All policy files together, each value still where it stands.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub agents: Vec<Agent>,
    pub intents: Vec<Intent>,
    pub profiles: Vec<Profile>,
    pub policies: Vec<PolicyRule>,
    pub velocity: Vec<Velocity>,
}

#[derive(Debug)]
pub(super) struct Agent {
    pub name: At<AgentName>,
    pub client: ClientId,
    pub profiles: Vec<ProfileName>,
    /// `None`: every server that an intent of its rules names.
    pub servers: Option<Vec<At<ServerName>>>,
    pub needs: Needs,
    /// Where it names the issuer of its token.
    pub issuer: Option<Place>,
}

#[derive(Debug)]
pub(super) struct Intent {
    pub name: At<IntentName>,
    pub matchers: Vec<Matcher>,
}

#[derive(Debug)]
pub(super) struct Matcher {
    pub server: At<ServerName>,
    pub key: Key,
    pub facts: Vec<(Arc<str>, Source)>,
}

#[derive(Debug)]
pub(super) struct PolicyRule {
    pub name: RuleName,
    pub place: Place,
    pub intent: At<IntentPattern>,
    pub agents: Vec<At<AgentName>>,
    pub decision: Choice,
    pub reason: Option<Arc<str>>,
    pub conditions: Vec<At<Clause>>,
    pub reviewers: Vec<String>,
    /// It does not bind; records tell what it would have done.
    pub is_shadow: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    Allow,
    Deny,
    Escalate,
}

/// Reads one file's text into `document`; what cannot be read is left out and told in the result.
pub(super) fn read(file: &Path, text: &str, document: &mut Document) -> Problems {
    let node = match yaml::nodes(file, text) {
        Ok(node) => node,
        Err(problem) => return problem.into(),
    };
    // A file of comments alone is a file without rules.
    if node.value == Value::Null {
        return Problems::default();
    }
    let mut reader = File { reader: Reader::new(file), path: file.into(), crowded: HashSet::new() };
    reader.document(&node, document);
    reader.reader.finish()
}

struct File<'f> {
    reader: Reader<'f>,
    path: Arc<Path>,
    /// Lines on which several rules begin, so that a line alone names none of them.
    crowded: HashSet<u64>,
}

impl File<'_> {
    fn document(&mut self, node: &Node, document: &mut Document) {
        let keys = ["agents", "intents", "profiles", "policies", "velocity_rules"];
        let Some(fields) = self.reader.fields(node, "a policy file", &keys) else { return };
        for (key, name, value) in self.section(&fields, "agents") {
            document.agents.extend(self.agent(key, name, value));
        }
        for (key, name, value) in self.section(&fields, "intents") {
            document.intents.extend(self.intent(key, name, value));
        }
        for (key, name, value) in self.section(&fields, "profiles") {
            document.profiles.extend(self.profile(key, name, value));
        }
        let (policies, velocity_rules) =
            (self.items(&fields, "policies"), self.items(&fields, "velocity_rules"));
        let mut lines = HashSet::new();
        let all = policies.iter().chain(velocity_rules).map(|node| node.line);
        self.crowded = all.filter(|line| !lines.insert(*line)).collect();
        for node in policies {
            document.policies.extend(self.policy(node));
        }
        for node in velocity_rules {
            document.velocity.extend(self.velocity(node));
        }
    }

    fn section<'n>(&mut self, fields: &Fields<'n>, key: &str) -> Vec<(&'n Node, &'n str, &'n Node)> {
        let node = fields.optional(key).filter(|node| node.value != Value::Null);
        node.and_then(|node| self.reader.entries(node, key)).unwrap_or_default()
    }

    fn items<'n>(&mut self, fields: &Fields<'n>, key: &str) -> &'n [Node] {
        let node = fields.optional(key).filter(|node| !matches!(&node.value, Value::Null));
        match node {
            Some(Node { value: Value::List(items), .. }) => items,
            Some(node) => self.reader.list(node, key).unwrap_or_default(),
            None => &[],
        }
    }

    fn agent(&mut self, key: &Node, name: &str, node: &Node) -> Option<Agent> {
        let name = match AgentName::parse(name) {
            Ok(name) => Some(self.at(key, name)),
            Err(error) => {
                self.reader.problem(key, format!("agent {name:?}: {error}"), None);
                None
            }
        };
        let fields = self.reader.fields(
            node,
            "an agent",
            &["client_id", "profiles", "servers", "needs", "token", "process"],
        )?;
        let client = fields.required("client_id", &mut self.reader);
        let client = client.and_then(|node| self.reader.name(node, "client_id", ClientId::parse));
        let profiles = match fields.optional("profiles") {
            Some(node) => self.names(node, "profiles", ProfileName::parse),
            None => ProfileName::parse(DEFAULT_PROFILE)
                .map(|profile| vec![self.at(key, profile)])
                .unwrap_or_default(),
        };
        let servers = fields.optional("servers").map(|node| self.names(node, "servers", ServerName::parse));
        let profiles = profiles.into_iter().map(|profile| profile.value).collect();
        let (needs, issuer) = needs::read(&mut self.reader, &fields)?;
        let issuer = issuer.map(|node| self.place(node));
        Some(Agent { name: name?, client: client?, profiles, servers, needs, issuer })
    }

    fn intent(&mut self, key: &Node, name: &str, node: &Node) -> Option<Intent> {
        let name = match IntentName::parse(name) {
            Ok(name) => Some(self.at(key, name)),
            Err(error) => {
                self.reader.problem(key, format!("intent {name:?}: {error}"), None);
                None
            }
        };
        let nodes = self.reader.list(node, "an intent")?;
        let matchers = nodes.iter().filter_map(|node| self.matcher(node)).collect();
        Some(Intent { name: name?, matchers })
    }

    fn matcher(&mut self, node: &Node) -> Option<Matcher> {
        let keys = ["server", "tool", "resource", "prompt", "method", "server_request", "facts"];
        let fields = self.reader.fields(node, "a matcher", &keys)?;
        let server = fields.required("server", &mut self.reader);
        let server = server.and_then(|node| {
            let name = self.reader.name(node, "server", ServerName::parse)?;
            Some(self.at(node, name))
        });
        let kinds = ["tool", "resource", "prompt", "method", "server_request"];
        let named: Vec<_> =
            kinds.iter().filter_map(|kind| fields.optional(kind).map(|node| (*kind, node))).collect();
        let &[(kind, target)] = named.as_slice() else {
            let what = format!(
                "a matcher names one of tool, resource, prompt, method, server_request; this one names {}",
                named.len()
            );
            let hint = match named.len() {
                0 => "add for example `tool: read_customer`",
                _ => "write a matcher for each",
            };
            self.reader.problem(node, what, Some(hint.into()));
            return None;
        };
        let key = self.key(kind, target);
        let facts = fields.optional("facts");
        if let Some(facts) = facts
            && !matches!(kind, "tool" | "prompt")
        {
            let what = format!("a {kind} has no arguments, so it has no facts");
            self.reader.problem(facts, what, Some("remove `facts`".into()));
        }
        let facts = facts.map(|node| self.facts(node)).unwrap_or_default();
        Some(Matcher { server: server?, key: key?, facts })
    }

    fn key(&mut self, kind: &'static str, node: &Node) -> Option<Key> {
        let text = self.reader.text(node, kind)?;
        if text.is_empty() {
            self.reader.problem(node, format!("{kind} is empty"), None);
            return None;
        }
        let starless = |file: &mut Self| {
            if text.contains('*') {
                let hint = "name each one; only resource, method and server_request take a trailing `*`";
                file.reader.problem(node, format!("{kind} {text:?} must be exact"), Some(hint.into()));
                return None;
            }
            Some(())
        };
        match kind {
            "tool" => starless(self).map(|()| Key::Tool(text.into())),
            "prompt" => starless(self).map(|()| Key::Prompt(text.into())),
            _ => {
                let pattern = Pattern::parse(text);
                let (Pattern::Exact(inner) | Pattern::Prefix(inner)) = &pattern;
                if inner.contains('*') {
                    let what = format!("{kind} {text:?} has a `*` that is not at its end");
                    self.reader.problem(node, what, Some("only a trailing `*` is a pattern".into()));
                    return None;
                }
                match kind {
                    "resource" => self.resource(node, text, pattern),
                    "method" => self.method(node, text, pattern),
                    _ => self.server_request(node, text, pattern),
                }
            }
        }
    }

    fn resource(&mut self, node: &Node, text: &str, pattern: Pattern) -> Option<Key> {
        if let Pattern::Prefix(prefix) = &pattern
            && !is_plain_uri(prefix)
        {
            let what = format!("resource {text:?} can match nothing: its beginning is not in plain form");
            let hint = "write it without `..`, `//`, needless %-escapes and capitals in the scheme";
            self.reader.problem(node, what, Some(hint.into()));
            return None;
        }
        Some(Key::Resource(pattern))
    }

    fn method(&mut self, node: &Node, text: &str, pattern: Pattern) -> Option<Key> {
        if let Some((method, kind)) = NAMED_METHODS.iter().find(|(method, _)| pattern.matches(method)) {
            let what = format!("method {text:?} would match {method}, whatever it names");
            self.reader.problem(node, what, Some(format!("use a `{kind}:` matcher")));
            return None;
        }
        // A pattern may take these in: they stay what they are.
        if let Pattern::Exact(exact) = &pattern {
            let hint = match &**exact {
                name if NEEDED_METHODS.contains(&name) => {
                    "remove the matcher: every client needs it, so it stays open"
                }
                name if TASK_METHODS.contains(&name) => {
                    "use a `tool:` matcher: it is judged as the call that made the task"
                }
                _ => return Some(Key::Method(pattern)),
            };
            self.reader.problem(node, format!("method {text:?} cannot be named"), Some(hint.into()));
            return None;
        }
        Some(Key::Method(pattern))
    }

    /// What no server asks would close nothing, and what was meant would stay open.
    fn server_request(&mut self, node: &Node, text: &str, pattern: Pattern) -> Option<Key> {
        if !SERVER_REQUESTS.iter().any(|known| pattern.matches(known)) {
            let what = format!("server_request {text:?} is nothing that a server asks of its client");
            let hint = suggest(text, SERVER_REQUESTS.iter().copied());
            self.reader.problem(node, what, hint);
            return None;
        }
        Some(Key::ServerRequest(pattern))
    }

    fn facts(&mut self, node: &Node) -> Vec<(Arc<str>, Source)> {
        let entries = self.reader.entries(node, "facts").unwrap_or_default();
        entries
            .into_iter()
            .filter_map(|(key, name, node)| {
                if name.is_empty()
                    || !name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
                {
                    let what = format!("fact {name:?}: use lower-case letters, digits and '_'");
                    self.reader.problem(key, what, None);
                    return None;
                }
                self.source(node).map(|source| (name.into(), source))
            })
            .collect()
    }

    /// `{count: to}`, `{number: amount}` and so on.
    fn source(&mut self, node: &Node) -> Option<Source> {
        let measures = Measure::ALL.map(Measure::as_str);
        if let Value::Text(path) = &node.value {
            let hint =
                format!("write {{count: {path}}} (entries of a list), {{number: {path}}} or another measure");
            self.reader.problem(node, "a fact says how its argument is measured", Some(hint));
            return None;
        }
        let fields = self.reader.fields(node, "a fact", &measures)?;
        let named =
            Measure::ALL.iter().filter_map(|measure| Some((*measure, fields.optional(measure.as_str())?)));
        let named: Vec<_> = named.collect();
        let &[(measure, path)] = named.as_slice() else {
            let what = format!("a fact has one of {}", measures.join(", "));
            self.reader.problem(node, what, None);
            return None;
        };
        let text = self.reader.text(path, "an argument's path")?;
        let parts: Arc<[Box<str>]> = text.split('.').map(Box::from).collect();
        if parts.iter().any(|part| part.is_empty()) {
            let hint = Some("write names with dots between them, such as `message.to`".to_owned());
            self.reader.problem(path, format!("{text:?} is not a path to an argument"), hint);
            return None;
        }
        Some(Source { measure, path: parts })
    }

    fn policy(&mut self, node: &Node) -> Option<PolicyRule> {
        let keys = ["name", "intent", "agents", "decision", "reason", "conditions", "escalation", "shadow"];
        let fields = self.reader.fields(node, "a policy", &keys)?;
        let place = self.place(node);
        let name = self.rule_name(&fields, &place);
        let intent = fields.required("intent", &mut self.reader).and_then(|node| self.pattern(node));
        let agents = fields
            .required("agents", &mut self.reader)
            .map(|node| self.names(node, "agents", AgentName::parse))
            .unwrap_or_default();
        let decision = fields.required("decision", &mut self.reader).and_then(|node| {
            let choices = [("allow", Choice::Allow), ("deny", Choice::Deny), ("escalate", Choice::Escalate)];
            self.reader.choice(node, "decision", &choices)
        });
        let reason = self.reason(&fields);
        let conditions = fields.optional("conditions");
        let conditions = conditions.map(|node| self.conditions(node, decision)).unwrap_or_default();
        let reviewers = match (fields.optional("escalation"), decision) {
            (Some(node), Some(Choice::Escalate) | None) => self.escalation(node),
            (Some(node), _) => {
                let hint = "write `decision: escalate`, or remove `escalation`";
                self.reader.problem(node, "only an escalate rule has an escalation", Some(hint.into()));
                None
            }
            (None, _) => Some(Vec::new()),
        };
        let is_shadow = fields.optional("shadow").map_or(Some(false), |node| self.shadow(node, decision));
        Some(PolicyRule {
            name: name?,
            place,
            intent: intent?,
            agents,
            decision: decision?,
            reason,
            conditions,
            reviewers: reviewers?,
            is_shadow: is_shadow?,
        })
    }

    fn shadow(&mut self, node: &Node, decision: Option<Choice>) -> Option<bool> {
        let Value::Bool(is_shadow) = node.value else {
            let what = format!("shadow must be true or false, this is {}", node.value.kind());
            self.reader.problem(node, what, None);
            return None;
        };
        if is_shadow && decision == Some(Choice::Allow) {
            let hint = "leave the rule out: what no rule allows is denied, and the record says so";
            self.reader.problem(node, "an allow rule has no shadow", Some(hint.into()));
            return None;
        }
        Some(is_shadow)
    }

    fn escalation(&mut self, node: &Node) -> Option<Vec<String>> {
        let fields = self.reader.fields(node, "an escalation", &["type", "reviewers"])?;
        let kind = fields.required("type", &mut self.reader);
        let kind = kind.and_then(|node| self.reader.choice(node, "type", &[("single", ())]));
        let reviewers = fields.required("reviewers", &mut self.reader)?;
        let reviewers: Vec<String> = self
            .reader
            .list(reviewers, "reviewers")?
            .iter()
            .filter_map(|node| {
                let text = self.reader.text(node, "a reviewer")?;
                let is_role = text.strip_prefix("role:").is_some_and(|role| !role.is_empty());
                if !is_role {
                    let hint = Some(format!("write role:{text}"));
                    self.reader.problem(node, format!("reviewer {text:?} is not a role"), hint);
                }
                is_role.then(|| text.to_owned())
            })
            .collect();
        kind.map(|()| reviewers)
    }

    fn pattern(&mut self, node: &Node) -> Option<At<IntentPattern>> {
        let text = self.reader.text(node, "intent")?;
        match IntentPattern::parse(text) {
            Ok(pattern) => Some(self.at(node, pattern)),
            Err(error) => {
                let what = if text.contains('*') {
                    format!("intent {text:?}: a `*` stands alone or after the last dot")
                } else {
                    format!("intent {text:?}: {error}")
                };
                self.reader.problem(
                    node,
                    what,
                    text.contains('*').then(|| "write for example financial.refund.*".into()),
                );
                None
            }
        }
    }

    fn names<T>(
        &mut self,
        node: &Node,
        what: &str,
        parse: fn(&str) -> Result<T, crate::types::NameError>,
    ) -> Vec<At<T>> {
        let nodes = self.reader.list(node, what).unwrap_or_default();
        nodes
            .iter()
            .filter_map(|node| self.reader.name(node, what, parse).map(|name| self.at(node, name)))
            .collect()
    }

    fn rule_name(&mut self, fields: &Fields<'_>, place: &Place) -> Option<RuleName> {
        match fields.optional("name") {
            Some(node) => {
                let text = self.reader.text(node, "name")?;
                if text.is_empty()
                    || text.len() > crate::types::NAME_BYTES_MAX
                    || text.chars().any(char::is_control)
                {
                    let what = "a rule's name has 1 to 128 bytes and no control characters";
                    self.reader.problem(node, what, None);
                    return None;
                }
                Some(RuleName::new(text))
            }
            None if self.crowded.contains(&place.line) => Some(RuleName::new(&place.exact())),
            None => Some(RuleName::new(&place.short())),
        }
    }

    fn reason(&mut self, fields: &Fields<'_>) -> Option<Arc<str>> {
        /// It goes into every refusal that it explains.
        const REASON_BYTES_MAX: usize = 1024;
        let node = fields.optional("reason")?;
        let text = self.reader.text(node, "reason")?;
        if text.trim().is_empty() || text.len() > REASON_BYTES_MAX {
            self.reader.problem(node, format!("a reason has 1 to {REASON_BYTES_MAX} bytes"), None);
            return None;
        }
        Some(text.into())
    }

    fn place(&self, node: &Node) -> Place {
        Place { file: self.path.clone(), line: node.line, column: node.column }
    }

    fn at<T>(&self, node: &Node, value: T) -> At<T> {
        At { value, place: self.place(node) }
    }
}

/// The profile of an agent that lists none.
pub const DEFAULT_PROFILE: &str = "default";

/// Methods whose target says what they do, with the matcher for it.
const NAMED_METHODS: &[(&str, &str)] = &[
    ("tools/call", "tool"),
    ("resources/read", "resource"),
    ("resources/subscribe", "resource"),
    ("resources/unsubscribe", "resource"),
    ("prompts/get", "prompt"),
];
