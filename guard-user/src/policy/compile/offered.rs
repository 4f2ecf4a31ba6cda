//! What servers offer, as intents name it.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::condition::bind;
use crate::policy::fact::Source;
use crate::policy::file::{Intent, Matcher};
use crate::policy::meaning::{Addition, Meant, Weights};
use crate::policy::target::{Key, Targets};
use crate::risk::Class;
use crate::types::{IntentName, ServerName};

/// What each server offers: the intents of each target, those of keys that cover it included.
pub(super) struct Offered<'d> {
    pub servers: BTreeMap<&'d ServerName, BTreeMap<&'d Key, Meaning<'d>>>,
}

/// The intents of one target, sorted, each with what its matchers say of it here.
pub(super) type Meaning<'d> = BTreeMap<&'d IntentName, Offer<'d>>;

/// What matchers say of a target's calls.
#[derive(Debug, Clone, Default)]
pub(super) struct Offer<'d> {
    pub facts: Facts<'d>,
    /// The matcher of just this target; what others cover says no more than a class.
    matcher: Option<&'d Matcher>,
    class: Option<Class>,
}

pub(super) type Facts<'d> = BTreeMap<&'d str, &'d Source>;

impl<'d> Offered<'d> {
    pub(super) fn of(intents: &'d [Intent]) -> Self {
        let matchers = || intents.iter().flat_map(|i| i.matchers.iter().map(move |m| (&i.name.value, m)));
        let mut servers: BTreeMap<_, BTreeMap<_, Meaning<'d>>> = BTreeMap::new();
        for (intent, matcher) in matchers() {
            let server = servers.entry(&matcher.server.value).or_default();
            let offer = server.entry(&matcher.key).or_default().entry(intent).or_default();
            offer.facts.extend(matcher.facts.iter().map(|(name, source)| (&**name, source)));
            offer.matcher = Some(matcher);
            offer.class = matcher.class;
        }
        for targets in servers.values_mut() {
            let patterns: Vec<_> = targets
                .iter()
                .filter(|(key, _)| matches!(key, Key::Resource(_) | Key::Method(_) | Key::ServerRequest(_)))
                .map(|(key, meaning)| (*key, meaning.clone()))
                .collect();
            for (key, meaning) in targets.iter_mut() {
                for (_, more) in patterns.iter().filter(|(wider, _)| wider != key && wider.covers(key)) {
                    for (intent, wider) in more {
                        let offer = meaning.entry(intent).or_default();
                        if offer.matcher.is_none() {
                            offer.class = offer.class.max(wider.class);
                        }
                    }
                }
            }
        }
        Self { servers }
    }

    pub(super) fn targets(&self) -> HashMap<ServerName, Targets<Arc<[Meant]>>> {
        let of_server = |targets: &BTreeMap<&Key, Meaning<'_>>| {
            Targets::new(targets.iter().map(|(key, meaning)| ((*key).clone(), meant(key, meaning))))
        };
        self.servers.iter().map(|(name, targets)| ((*name).clone(), of_server(targets))).collect()
    }
}

/// What a call of `key` may mean, in the order of the intents.
pub(super) fn meant(key: &Key, meaning: &Meaning<'_>) -> Arc<[Meant]> {
    let each = meaning.iter().map(|(intent, offer)| {
        let bound = |clauses: &[crate::policy::file::At<crate::policy::file::Clause>]| {
            clauses.iter().map(|clause| bind(&clause.value, &offer.facts, None)).collect()
        };
        let of_kind = matches!(key, Key::Resource(_) | Key::Prompt(_)).then_some(Class::Read);
        let additions = offer.matcher.into_iter().flat_map(|matcher| &matcher.risk.additions);
        Meant {
            intent: (*intent).clone(),
            when: offer.matcher.map(|matcher| bound(&matcher.when)).unwrap_or_default(),
            weights: Weights {
                class: offer.class.or(of_kind),
                base: offer.matcher.and_then(|matcher| matcher.risk.base),
                additions: additions
                    .map(|addition| Addition { conditions: bound(&addition.when), points: addition.points })
                    .collect(),
            },
        }
    });
    each.collect()
}
