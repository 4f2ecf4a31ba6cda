//! What inspection rules found in the answers to one call, for its closing record, and the digest of what was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use serde::Serialize;

use super::arguments::Digester;
use crate::inspect::Kind;
use crate::policy::RuleName;
use crate::rpc;

/// Shared by who reads the answers and who writes the record. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Inspected(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    findings: Mutex<Findings>,
    digester: OnceLock<Arc<Digester>>,
    /// Of the answer.
    digest: OnceLock<String>,
}

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

    /// Its closing record has a digest of the answer.
    pub(super) fn digests_with(&self, digester: &Arc<Digester>) {
        let _the_same = self.0.digester.set(Arc::clone(digester));
    }

    /// This is the answer that goes to the client: a message, in JSON.
    pub fn answered(&self, message: &[u8]) {
        if let (Some(digester), Some(answer)) = (self.0.digester.get(), rpc::answer(message)) {
            let _first = self.0.digest.set(digester.result(answer));
        }
    }

    pub(super) fn digest(&self) -> Option<&str> {
        self.0.digest.get().map(String::as_str)
    }

    /// `None`: there is nothing to tell.
    pub(super) fn told(&self) -> Option<Findings> {
        let found = self.lock();
        (*found != Findings::default()).then(|| found.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.0.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
