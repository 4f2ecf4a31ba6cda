//! Goes on with new records as they come, and with the outcomes of the calls among them.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use super::index::{Index, IndexError};
use super::search::{Order, Outcomes, search};
use super::terms::Fields;
use super::{Found, Query};

/// Calls that were shown and whose outcome is waited for; with one more, the oldest one's is not shown.
pub(super) const FOLLOWED_CALLS_MAX: usize = 4096;

/// What was shown so far.
#[derive(Debug)]
pub struct Follower {
    /// The first record that was not looked at.
    next: u64,
    /// Ids of calls that were shown, by their numbers.
    open: BTreeMap<u64, String>,
}

impl Follower {
    /// Shows records from this number on.
    pub fn from(next: u64) -> Self {
        Self { next, open: BTreeMap::new() }
    }

    /// What is new and fits, and the outcomes of calls that were shown, oldest first; each record once.
    pub fn look(&mut self, index: &Index, query: &Query) -> Result<Vec<Found>, IndexError> {
        let next = self.next;
        let mut new = BTreeMap::new();
        search(index, query, (Order::Newest, Outcomes::LeftOut), |found| {
            if found.seq < next {
                return ControlFlow::Break(());
            }
            new.insert(found.seq, found);
            ControlFlow::Continue(())
        })?;
        let calls = new.values().filter_map(|found| Some((found.seq, forwarded(&found.line)?)));
        self.open.extend(calls);
        // An outcome stands behind its call.
        let first = self.open.keys().next().copied().unwrap_or(u64::MAX).max(next);
        let outcomes = Query { kind: Some("outcome".into()), ..Query::default() };
        let mut ended = BTreeMap::new();
        if !self.open.is_empty() {
            let awaited: HashSet<&str> = self.open.values().map(String::as_str).collect();
            search(index, &outcomes, (Order::Newest, Outcomes::LeftOut), |found| {
                if found.seq < first {
                    return ControlFlow::Break(());
                }
                if let Some(id) = id(&found.line).filter(|id| awaited.contains(id.as_str())) {
                    ended.insert(id, found);
                }
                ControlFlow::Continue(())
            })?;
        }
        self.open.retain(|_, id| !ended.contains_key(id));
        while self.open.len() > FOLLOWED_CALLS_MAX {
            self.open.pop_first();
        }
        new.extend(ended.into_values().map(|found| (found.seq, found)));
        self.next = next.max(index.next());
        Ok(new.into_values().collect())
    }
}

/// The id of a call that was forwarded.
fn forwarded(line: &str) -> Option<String> {
    let record = Fields::of(line.as_bytes())?;
    let is_forwarded = record.kind == "call" && record.decision.as_deref() == Some("allow");
    record.id.filter(|_| is_forwarded).map(Cow::into_owned)
}

fn id(line: &str) -> Option<String> {
    Fields::of(line.as_bytes())?.id.map(Cow::into_owned)
}
