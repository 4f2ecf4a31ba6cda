//! The counts that are nearest to their limits, for operators. Looks at every key, one lock after the other, and counts nothing.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::sync::Arc;

use serde::Serialize;

use super::shard::Count;
use super::{Velocity, key, lock};
use crate::policy::{ExceededAction, Measure, ScopeId, VelocityRule};

/// One key of one rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fullest {
    pub rule: String,
    /// It counts the calls made in this profile alone.
    pub profile: Option<String>,
    pub measure: Measure,
    pub action: ExceededAction,
    /// What is counted apart, and under which name.
    pub key: Vec<(&'static str, String)>,
    pub used: u64,
    pub max: u64,
    /// Until there is room for a call of weight 1. 0: there is now. `None`: when a call has ended.
    pub room_in_milliseconds: Option<u64>,
}

impl Velocity {
    /// The fullest `count` of what `rules` count, the fullest first. What a key names of `parts` (a kind and a name each) must be
    /// just that.
    pub fn fullest(
        &self,
        now: u64,
        rules: &[Arc<VelocityRule>],
        count: usize,
        parts: &[(String, String)],
    ) -> Vec<Fullest> {
        let mut by_scope: HashMap<ScopeId, Vec<&VelocityRule>> = HashMap::new();
        for rule in rules {
            by_scope.entry(rule.scope()).or_default().push(rule);
        }
        // The least full one is on top.
        let mut found: BinaryHeap<Reverse<(u128, Row)>> = BinaryHeap::new();
        for shard in &self.0.shards {
            let mut shard = lock(shard);
            for entry in shard.entries() {
                let Some(rules) = key::scope(&entry.key).and_then(|scope| by_scope.get(&scope)) else {
                    continue;
                };
                for rule in rules {
                    let (used, wait) = entry.room(now, rule.max, 1);
                    let fullness = (u128::from(used) << 64) / u128::from(rule.max.max(1));
                    let is_fuller = found.len() < count
                        || found.peek().is_some_and(|Reverse((least, _))| fullness > *least);
                    if used == 0 || !is_fuller {
                        continue;
                    }
                    let Some((_, named)) = key::read(&entry.key) else { continue };
                    let kinds = rule.per.parts().map(crate::policy::Part::as_str);
                    let key: Vec<_> = kinds.zip(named.iter().map(|part| (*part).to_owned())).collect();
                    let is_other = |(kind, name): &(&str, String)| {
                        let mut parts = parts.iter().filter(|(wanted, _)| wanted == kind);
                        parts.any(|(_, only)| only != name && key::kept(only) != *name)
                    };
                    if key.iter().any(is_other) {
                        continue;
                    }
                    let room_in_milliseconds = match (&entry.count, wait) {
                        (_, None) => Some(0),
                        (Count::Window(_), Some(wait)) => Some(wait),
                        (Count::UnderWay(_), Some(_)) => None,
                    };
                    let row = Row(Fullest {
                        rule: rule.name.to_string(),
                        profile: rule.profile.as_ref().map(ToString::to_string),
                        measure: rule.measure,
                        action: rule.action,
                        key,
                        used,
                        max: rule.max,
                        room_in_milliseconds,
                    });
                    found.push(Reverse((fullness, row)));
                    if found.len() > count {
                        found.pop();
                    }
                }
            }
        }
        found.into_sorted_vec().into_iter().map(|Reverse((_, Row(row)))| row).collect()
    }
}

/// Of equally full ones, the first by name comes first.
#[derive(PartialEq, Eq)]
struct Row(Fullest);

impl Ord for Row {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let order = |row: &Self| (row.0.rule.clone(), row.0.key.clone(), row.0.measure, row.0.action);
        order(other).cmp(&order(self))
    }
}

impl PartialOrd for Row {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
