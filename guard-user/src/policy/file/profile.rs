//! Profiles, as they stand in a policy file.

use super::{At, File, Velocity};
use crate::config::yaml::{Node, Value};
use crate::policy::rule::IntentPattern;
use crate::policy::target::Key;
use crate::types::{ProfileName, ServerName};

/// What narrows its agents' rules. `None`: not in this respect.
#[derive(Debug)]
pub(in crate::policy) struct Profile {
    pub name: At<ProfileName>,
    pub servers: Option<Vec<At<ServerName>>>,
    pub intents: Option<Vec<At<IntentPattern>>>,
    /// Tools, resources and so on together.
    pub targets: Option<Vec<At<Key>>>,
    /// The highest score that a call may have.
    pub max_risk: Option<u8>,
}

/// Lists of targets, each with the matcher's key for one of its entries.
const TARGETS: [(&str, &str); 5] = [
    ("tools", "tool"),
    ("resources", "resource"),
    ("prompts", "prompt"),
    ("methods", "method"),
    ("server_requests", "server_request"),
];

/// How much callers in a profile may do.
const LIMITS: &str = "limits";

/// Where limits of the profile stand, which name themselves by their lines as rules do.
pub(super) fn limits(profile: &Node) -> impl Iterator<Item = &Node> {
    let entries = if let Value::Map(entries) = &profile.value { &entries[..] } else { &[] };
    let lists = entries.iter().filter(|(key, _)| matches!(&key.value, Value::Text(text) if text == LIMITS));
    lists
        .filter_map(|(_, list)| if let Value::List(items) = &list.value { Some(items) } else { None })
        .flatten()
}

impl File<'_> {
    /// The profile, and its limits as velocity rules.
    pub(super) fn profile(
        &mut self,
        key: &Node,
        name: &str,
        node: &Node,
    ) -> Option<(Option<Profile>, Vec<Velocity>)> {
        let name = match ProfileName::parse(name) {
            Ok(name) => Some(self.at(key, name)),
            Err(error) => {
                self.reader.problem(key, format!("profile {name:?}: {error}"), None);
                None
            }
        };
        let keys = ["servers", "intents", "max_risk", LIMITS].into_iter().chain(TARGETS.map(|(key, _)| key));
        let keys: Vec<_> = keys.collect();
        let fields = self.reader.fields(node, "a profile", &keys)?;
        if keys.iter().all(|key| fields.optional(key).is_none()) {
            let hint = "name what it admits, such as `intents: [data.*]`";
            self.reader.problem(key, "the profile narrows nothing", Some(hint.into()));
        }
        let servers = fields.optional("servers").map(|node| self.names(node, "servers", ServerName::parse));
        let intents = fields.optional("intents").map(|node| {
            let nodes = self.reader.list(node, "intents").unwrap_or_default();
            nodes.iter().filter_map(|node| self.pattern(node)).collect()
        });
        let mut targets: Option<Vec<At<Key>>> = None;
        for (list, kind) in TARGETS {
            let Some(node) = fields.optional(list) else { continue };
            let nodes = self.reader.list(node, list).unwrap_or_default();
            let read = nodes.iter().filter_map(|node| {
                let target = self.key(kind, node)?;
                Some(self.at(node, target))
            });
            targets.get_or_insert_default().extend(read);
        }
        let max_risk = fields.optional("max_risk").and_then(|node| self.score(node, "max_risk"));
        let nodes = fields.optional(LIMITS).and_then(|node| self.reader.list(node, LIMITS));
        let limits =
            nodes.into_iter().flatten().filter_map(|node| self.limit_of(name.as_ref(), node)).collect();
        let profile = name.map(|name| Profile { name, servers, intents, targets, max_risk });
        Some((profile, limits))
    }
}
