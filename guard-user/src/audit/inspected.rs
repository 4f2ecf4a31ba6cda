//! What inspection rules found in the answers to one call, for its closing record.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;

use crate::inspect::Kind;
use crate::policy::RuleName;

/// Shared by who reads the answers and who writes the record. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inspected(Arc<Mutex<Findings>>);

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(super) struct Findings {
    /// Hits of each kind, in all answers.
    hits: BTreeMap<Kind, u64>,
    /// Rules that masked or refused something.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    rules: BTreeSet<RuleName>,
    /// Rules in shadow that would have.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    would: BTreeSet<RuleName>,
}

impl Inspected {
    /// Counts hits, and tells how many there are by now.
    pub fn add(&self, kind: Kind, hits: u64) {
        let mut found = self.lock();
        let count = found.hits.entry(kind).or_default();
        *count = count.saturating_add(hits);
    }

    pub fn hits(&self, kind: Kind) -> u64 {
        self.lock().hits.get(&kind).copied().unwrap_or_default()
    }

    /// A rule did something, or would have.
    pub fn acted(&self, rule: &RuleName, in_shadow: bool) {
        let mut found = self.lock();
        let rules = if in_shadow { &mut found.would } else { &mut found.rules };
        if !rules.contains(rule) {
            rules.insert(rule.clone());
        }
    }

    /// `None`: there is nothing to tell.
    pub(super) fn told(&self) -> Option<Findings> {
        let found = self.lock();
        (*found != Findings::default()).then(|| found.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
