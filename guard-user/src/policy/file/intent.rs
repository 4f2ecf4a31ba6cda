//! Intents, as they stand in a policy file: what each matcher names, and what conditions may know about its calls.

use std::sync::Arc;

use super::condition::{MARK, RISK};
use super::session::OF_SESSION;
use super::{Asked, At, Carries, Clause, File};
use crate::config::problem::suggest;
use crate::config::yaml::{Node, Value};
use crate::policy::fact::{Bound, Measure, Source};
use crate::policy::target::{Key, NEEDED_METHODS, Pattern, SERVER_REQUESTS, TASK_METHODS, is_plain_uri};
use crate::risk::{Class, SCORE_MAX};
use crate::rpc::Json;
use crate::types::{IntentName, ServerName};

/// Arguments that records show as they are.
const IN_CLEAR: &str = "in_clear";
/// What a fact is where its argument is left out.
const ABSENT: &str = "absent";

#[derive(Debug)]
pub(in crate::policy) struct Intent {
    pub name: At<IntentName>,
    pub matchers: Vec<Matcher>,
}

#[derive(Debug, Clone)]
pub(in crate::policy) struct Matcher {
    pub server: At<ServerName>,
    pub key: Key,
    pub facts: Vec<(Arc<str>, Source)>,
    /// What a call's facts must be; empty: every call of the target is meant.
    pub when: Vec<At<Clause>>,
    pub class: Option<Class>,
    pub risk: Weights,
    pub carries: Carries,
    /// Arguments that records show.
    pub in_clear: Vec<Box<[Box<str>]>>,
}

impl Matcher {
    pub(in crate::policy) fn speaks_of_risk(&self) -> bool {
        self.class.is_some() || self.risk.base.is_some() || !self.risk.additions.is_empty()
    }
}

/// What a matcher says of the risk of its calls.
#[derive(Debug, Clone, Default)]
pub(in crate::policy) struct Weights {
    /// In place of its class's points.
    pub base: Option<u8>,
    pub additions: Vec<Addition>,
}

/// Points for a call whose facts are like this.
#[derive(Debug, Clone)]
pub(in crate::policy) struct Addition {
    pub when: Vec<At<Clause>>,
    pub points: u8,
}

/// Additions of one matcher; each is judged for each call.
pub const RISK_ADDITIONS_MAX: usize = 8;

impl File<'_> {
    pub(super) fn intent(&mut self, key: &Node, name: &str, node: &Node) -> Option<Intent> {
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
        let keys = [
            "server",
            "tool",
            "resource",
            "prompt",
            "method",
            "server_request",
            "facts",
            "when",
            "class",
            "risk",
            "label",
            "sink",
            IN_CLEAR,
        ];
        // Whoever binds a pack names the server.
        let keys = if self.no_server.is_some() { keys.get(1..).unwrap_or_default() } else { &keys };
        let fields = self.reader.fields(node, "a matcher", keys)?;
        let server = match &self.no_server {
            Some(nobody) => Some(self.at(node, nobody.clone())),
            None => fields.required("server", &mut self.reader).and_then(|node| {
                let name = self.reader.name(node, "server", ServerName::parse)?;
                Some(self.at(node, name))
            }),
        };
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
        let in_clear = fields.optional(IN_CLEAR).map(|node| self.in_clear(node, kind)).unwrap_or_default();
        let when = fields.optional("when").map(|node| self.of_facts(node, "when", &[]));
        let class = fields.optional("class").map(|node| self.reader.choice(node, "class", &Class::ALL));
        let risk = fields.optional("risk").map(|node| self.weights(node));
        let carries = self.carries(key.as_ref(), kind, &fields);
        Some(Matcher {
            server: server?,
            key: key?,
            facts,
            when: when.unwrap_or_default(),
            class: class.flatten(),
            risk: risk.flatten().unwrap_or_default(),
            carries: carries?,
            in_clear,
        })
    }

    /// Conditions on facts alone.
    fn of_facts(&mut self, node: &Node, what: &'static str, but: &[&str]) -> Vec<At<Clause>> {
        let mut clauses = self.clauses(node, what, but, None);
        clauses.retain(|clause| {
            let is_of_fact = matches!(clause.value, Clause::Fact { .. });
            if !is_of_fact {
                let what = format!("{} is no condition on a fact", clause.value.key(RISK));
                let hint = "write it in the `conditions` of a rule";
                self.reader.problem(node, what, Some(hint.into()));
            }
            is_of_fact
        });
        clauses
    }

    /// `{base: 30, add: [{above_amount: 100, points: 20}]}`
    fn weights(&mut self, node: &Node) -> Option<Weights> {
        let fields = self.reader.fields(node, "a matcher's risk", &["base", "add"])?;
        let base = fields.optional("base").map(|node| self.points(node, "base"));
        let additions = match fields.optional("add") {
            Some(node) => self.reader.list(node, "add").unwrap_or_default(),
            None => &[],
        };
        if base.is_none() && fields.optional("add").is_none() {
            let hint = "write `base`, `add` or both, or remove the key";
            self.reader.problem(node, "risk says nothing", Some(hint.into()));
        }
        if let Some(node) = additions.get(RISK_ADDITIONS_MAX) {
            self.reader.problem(node, format!("add has more than {RISK_ADDITIONS_MAX} entries"), None);
        }
        let additions = additions.iter().filter_map(|node| self.addition(node)).collect();
        Some(Weights { base: base.flatten(), additions })
    }

    fn addition(&mut self, node: &Node) -> Option<Addition> {
        const POINTS: &str = "points";
        let when = self.of_facts(node, "an addition", &[POINTS]);
        let entries = self.reader.entries(node, "an addition")?;
        let Some((.., points)) = entries.iter().find(|(_, key, _)| *key == POINTS) else {
            let hint = "write for example `{above_amount: 100, points: 20}`";
            self.reader.problem(node, "an addition has no \"points\"", Some(hint.into()));
            return None;
        };
        if entries.len() == 1 {
            let hint = "write for example `{above_amount: 100, points: 20}`, or use `base`";
            self.reader.problem(node, "an addition says of no fact when it counts", Some(hint.into()));
        }
        // A larger amount must not weigh less than a small one.
        for clause in &when {
            if let Clause::Fact { fact, asked: Asked::Bound(bound @ (Bound::Max | Bound::Below), _) } =
                &clause.value
            {
                let what = format!("{}{fact} would give points for less", bound.prefix());
                let hint = format!("write `above_{fact}` or `min_{fact}`; points are for what is more");
                self.reader.problem(node, what, Some(hint));
            }
        }
        Some(Addition { when, points: self.points(points, POINTS)? })
    }

    /// 0 to 100.
    pub(super) fn points(&mut self, node: &Node, what: &str) -> Option<u8> {
        let number = if let Value::Number(number) = &node.value { number.as_u64() } else { None };
        let points =
            number.and_then(|points| u8::try_from(points).ok()).filter(|points| *points <= SCORE_MAX);
        if points.is_none() {
            let what = format!("{what} must be a whole number from 0 to {SCORE_MAX}");
            self.reader.problem(node, what, None);
        }
        points
    }

    pub(super) fn key(&mut self, kind: &'static str, node: &Node) -> Option<Key> {
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
                if name == RISK {
                    let hint = "`min_risk: 70` in the conditions of a rule asks for the call's score; call the fact something else";
                    self.reader.problem(key, "no fact is called risk", Some(hint.into()));
                    return None;
                }
                if OF_SESSION.contains(&name) {
                    let what = format!("a fact cannot be called {name}: conditions on it are about the session");
                    self.reader.problem(key, what, Some("give it another name".into()));
                    return None;
                }
                if name == MARK {
                    let what = "a fact cannot be called mark: conditions on it are about what was read";
                    self.reader.problem(key, what, Some("give it another name".into()));
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
        let keys: Vec<_> = measures.into_iter().chain([ABSENT]).collect();
        let fields = self.reader.fields(node, "a fact", &keys)?;
        let named =
            Measure::ALL.iter().filter_map(|measure| Some((*measure, fields.optional(measure.as_str())?)));
        let named: Vec<_> = named.collect();
        let &[(measure, path)] = named.as_slice() else {
            let what = format!("a fact has one of {}", measures.join(", "));
            self.reader.problem(node, what, None);
            return None;
        };
        let parts = self.argument_path(path)?;
        let absent = fields.optional(ABSENT).map(|node| self.absent(node, measure));
        Some(Source { measure, path: parts.into(), absent: absent.flatten().map(Arc::new) })
    }

    /// `message.to`
    fn argument_path(&mut self, node: &Node) -> Option<Box<[Box<str>]>> {
        let text = self.reader.text(node, "an argument's path")?;
        let parts: Box<[Box<str>]> = text.split('.').map(Box::from).collect();
        if parts.iter().any(|part| part.is_empty()) {
            let hint = Some("write names with dots between them, such as `message.to`".to_owned());
            self.reader.problem(node, format!("{text:?} is not a path to an argument"), hint);
            return None;
        }
        Some(parts)
    }

    fn in_clear(&mut self, node: &Node, kind: &str) -> Vec<Box<[Box<str>]>> {
        if !matches!(kind, "tool" | "prompt") {
            let what = format!("a {kind} has no arguments, so none can be in clear");
            self.reader.problem(node, what, Some(format!("remove `{IN_CLEAR}`")));
            return Vec::new();
        }
        let nodes = self.reader.list(node, IN_CLEAR).unwrap_or_default();
        nodes.iter().filter_map(|node| self.argument_path(node)).collect()
    }

    /// What the server takes for an argument that is left out.
    fn absent(&mut self, node: &Node, measure: Measure) -> Option<Json> {
        let kind = match measure {
            Measure::Flag => "true or false",
            Measure::Number => "a number",
            Measure::Text | Measure::Path => "text",
            Measure::Count | Measure::Domains => {
                let what = format!(
                    "a fact that is a {} has no value where its argument is left out",
                    measure.as_str()
                );
                self.reader.problem(node, what, Some("remove `absent`; such a call cannot be judged".into()));
                return None;
            }
        };
        match (measure, &node.value) {
            (Measure::Flag, Value::Bool(is)) => Some(Json::Bool(*is)),
            (Measure::Number, Value::Number(number)) => Some(Json::Number(number.clone())),
            (Measure::Text | Measure::Path, Value::Text(text)) => Some(Json::String(text.clone())),
            (_, other) => {
                let what =
                    format!("absent must be {kind} for a {}, this is {}", measure.as_str(), other.kind());
                self.reader.problem(node, what, None);
                None
            }
        }
    }
}

/// Methods whose target says what they do, with the matcher for it.
const NAMED_METHODS: &[(&str, &str)] = &[
    ("tools/call", "tool"),
    ("resources/read", "resource"),
    ("resources/subscribe", "resource"),
    ("resources/unsubscribe", "resource"),
    ("prompts/get", "prompt"),
];
