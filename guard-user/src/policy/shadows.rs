//! How often each rule in shadow would have refused a call, since its version of the rules is in force.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::rule::RuleName;

/// Counts by rule: as many at most as the policy has rules.
#[derive(Debug, Default)]
pub struct Shadows(Mutex<BTreeMap<RuleName, u64>>);

/// A rule in shadow that would have refused something.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Shadowed {
    pub rule: RuleName,
    pub would_deny: u64,
}

impl Shadows {
    /// One more call that `rule` would have refused.
    pub fn count(&self, rule: &RuleName) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(rule) {
            *count = count.saturating_add(1);
        } else {
            counts.insert(rule.clone(), 1);
        }
    }

    /// By the rules' names.
    pub fn list(&self) -> Vec<Shadowed> {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().map(|(rule, count)| Shadowed { rule: rule.clone(), would_deny: *count }).collect()
    }
}
