//! Intents, as they stand in a policy file: what each matcher names, and what conditions may know about its calls.

use std::sync::Arc;

use super::{At, File};
use crate::config::problem::suggest;
use crate::config::yaml::{Node, Value};
use crate::policy::fact::{Measure, Source};
use crate::policy::target::{Key, NEEDED_METHODS, Pattern, SERVER_REQUESTS, TASK_METHODS, is_plain_uri};
use crate::types::{IntentName, ServerName};

#[derive(Debug)]
pub(in crate::policy) struct Intent {
    pub name: At<IntentName>,
    pub matchers: Vec<Matcher>,
}

#[derive(Debug)]
pub(in crate::policy) struct Matcher {
    pub server: At<ServerName>,
    pub key: Key,
    pub facts: Vec<(Arc<str>, Source)>,
}

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
}

/// Methods whose target says what they do, with the matcher for it.
const NAMED_METHODS: &[(&str, &str)] = &[
    ("tools/call", "tool"),
    ("resources/read", "resource"),
    ("resources/subscribe", "resource"),
    ("resources/unsubscribe", "resource"),
    ("prompts/get", "prompt"),
];
