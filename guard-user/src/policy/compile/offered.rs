//! What servers offer, as intents name it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use crate::policy::fact::Source;
use crate::policy::file::Intent;
use crate::policy::target::{Key, Targets};
use crate::types::{IntentName, ServerName};

/// What each server offers: the intents of each target, those of keys that cover it included.
pub(super) struct Offered<'d> {
    pub servers: BTreeMap<&'d ServerName, BTreeMap<&'d Key, Meaning<'d>>>,
}

/// The intents of one target, sorted, each with the facts that its matchers provide here.
pub(super) type Meaning<'d> = BTreeMap<&'d IntentName, Facts<'d>>;
pub(super) type Facts<'d> = BTreeMap<&'d str, &'d Source>;

impl<'d> Offered<'d> {
    pub(super) fn of(intents: &'d [Intent]) -> Self {
        let matchers = || intents.iter().flat_map(|i| i.matchers.iter().map(move |m| (&i.name.value, m)));
        let mut servers: BTreeMap<_, BTreeMap<_, Meaning<'d>>> = BTreeMap::new();
        for (intent, matcher) in matchers() {
            let server = servers.entry(&matcher.server.value).or_default();
            let facts = server.entry(&matcher.key).or_default().entry(intent).or_default();
            facts.extend(matcher.facts.iter().map(|(name, source)| (&**name, source)));
        }
        for targets in servers.values_mut() {
            let patterns: Vec<_> = targets
                .iter()
                .filter(|(key, _)| matches!(key, Key::Resource(_) | Key::Method(_) | Key::ServerRequest(_)))
                .map(|(key, meaning)| (*key, meaning.clone()))
                .collect();
            for (key, meaning) in targets.iter_mut() {
                for (_, more) in patterns.iter().filter(|(wider, _)| wider != key && wider.covers(key)) {
                    for intent in more.keys() {
                        meaning.entry(intent).or_default();
                    }
                }
            }
        }
        Self { servers }
    }

    pub(super) fn targets(&self) -> HashMap<ServerName, Targets<Arc<[IntentName]>>> {
        let of_server = |targets: &BTreeMap<&Key, Meaning<'_>>| {
            Targets::new(targets.iter().map(|(key, meaning)| {
                ((*key).clone(), meaning.keys().map(|intent| (*intent).clone()).collect())
            }))
        };
        self.servers.iter().map(|(name, targets)| ((*name).clone(), of_server(targets))).collect()
    }
}
