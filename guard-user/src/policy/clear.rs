//! Arguments that records show in clear: what matchers list, whoever calls.

use std::collections::HashMap;

use super::file::Document;
use super::target::Key;
use crate::rpc::Target;
use crate::types::{ArgumentPath, ServerName};

type Listed = HashMap<Box<str>, Vec<Box<ArgumentPath>>>;

#[derive(Debug, Default)]
pub(super) struct InClear(HashMap<ServerName, OfServer>);

/// By the names of what is called.
#[derive(Debug, Default)]
struct OfServer {
    tools: Listed,
    prompts: Listed,
}

impl InClear {
    pub(super) fn new(document: &Document) -> Self {
        let mut found = Self::default();
        let matchers = document.intents.iter().flat_map(|intent| &intent.matchers);
        for matcher in matchers.filter(|matcher| !matcher.in_clear.is_empty()) {
            let server = found.0.entry(matcher.server.value.clone()).or_default();
            let (targets, name) = match &matcher.key {
                Key::Tool(name) => (&mut server.tools, name),
                Key::Prompt(name) => (&mut server.prompts, name),
                Key::Resource(_) | Key::Method(_) | Key::ServerRequest(_) => continue,
            };
            targets.entry(name.as_ref().into()).or_default().extend(matcher.in_clear.iter().cloned());
        }
        found
    }

    pub(super) fn of(&self, server: &ServerName, target: Target<'_>) -> &[Box<ArgumentPath>] {
        let found = self.0.get(server).and_then(|server| match target {
            Target::Tool(name) => server.tools.get(name),
            Target::Prompt(name) => server.prompts.get(name),
            _ => None,
        });
        found.map_or(&[], Vec::as_slice)
    }
}
