//! Calls under way: so many altogether, and so many of each agent, so that none takes the place of all others.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::AuditError;

type ByAgent = HashMap<Box<str>, UnderWay>;

/// What one agent has under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct UnderWay {
    pub calls: usize,
    /// Of these, those that are answered by a stream of events.
    pub streams: usize,
}

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    by_agent: Arc<Mutex<ByAgent>>,
    most: usize,
    per_agent_max: usize,
}

/// One call's place; free again when it is dropped.
pub(super) struct Slot {
    _one: OwnedSemaphorePermit,
    of_agent: Option<OfAgent>,
}

struct OfAgent {
    by_agent: Arc<Mutex<ByAgent>>,
    agent: Box<str>,
    is_stream: bool,
}

impl Slots {
    pub(super) fn new(most: usize, per_agent_max: usize) -> Self {
        let all = Arc::new(Semaphore::new(most.min(Semaphore::MAX_PERMITS)));
        Self { all, by_agent: Arc::default(), most, per_agent_max }
    }

    /// A place for a call of `agent`; none: of the guard itself.
    pub(super) fn take(&self, agent: Option<&str>) -> Result<Slot, AuditError> {
        let busy = |_none_free| AuditError::Busy(self.most);
        let one = Arc::clone(&self.all).try_acquire_owned().map_err(busy)?;
        let of_agent = agent.map(|agent| self.take_of(agent)).transpose()?;
        Ok(Slot { _one: one, of_agent })
    }

    fn take_of(&self, agent: &str) -> Result<OfAgent, AuditError> {
        let mut counts = lock(&self.by_agent);
        match counts.get_mut(agent) {
            Some(of) if of.calls >= self.per_agent_max => {
                return Err(AuditError::AgentBusy(self.per_agent_max));
            }
            Some(of) => of.calls += 1,
            None => _ = counts.insert(agent.into(), UnderWay { calls: 1, streams: 0 }),
        }
        Ok(OfAgent { by_agent: Arc::clone(&self.by_agent), agent: agent.into(), is_stream: false })
    }

    /// Who has what under way.
    pub(super) fn under_way(&self) -> BTreeMap<String, UnderWay> {
        lock(&self.by_agent).iter().map(|(agent, of)| (agent.to_string(), *of)).collect()
    }

    /// Whether somebody waits for `slot`: no other is free for a call like its own.
    pub(super) fn is_last(&self, slot: &Slot) -> bool {
        let of_agent = slot.of_agent.as_ref();
        let is_full = |of: &OfAgent| {
            lock(&self.by_agent).get(&of.agent).is_some_and(|of| of.calls >= self.per_agent_max)
        };
        self.all.available_permits() == 0 || of_agent.is_some_and(is_full)
    }
}

impl Slot {
    /// The call is answered by a stream.
    pub(super) fn streams(&mut self) {
        let Some(of) = self.of_agent.as_mut().filter(|of| !of.is_stream) else { return };
        of.is_stream = true;
        if let Some(count) = lock(&of.by_agent).get_mut(&of.agent) {
            count.streams += 1;
        }
    }
}

impl Drop for OfAgent {
    fn drop(&mut self) {
        let mut counts = lock(&self.by_agent);
        if let Some(of) = counts.get_mut(&self.agent) {
            of.calls = of.calls.saturating_sub(1);
            of.streams = of.streams.saturating_sub(usize::from(self.is_stream));
            if of.calls == 0 {
                counts.remove(&self.agent);
            }
        }
    }
}

fn lock(counts: &Mutex<ByAgent>) -> MutexGuard<'_, ByAgent> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_what_under_way_is_known_as_long_as_it_is() {
        let slots = Slots::new(10, 2);
        let mut one = slots.take(Some("a")).unwrap();
        let other = slots.take(Some("a")).unwrap();
        let _own = slots.take(None).unwrap();
        one.streams();
        one.streams();
        let of = |calls, streams| BTreeMap::from([("a".to_owned(), UnderWay { calls, streams })]);
        assert_eq!(slots.under_way(), of(2, 1));
        assert!(matches!(slots.take(Some("a")), Err(AuditError::AgentBusy(2))));
        drop(one);
        assert_eq!(slots.under_way(), of(1, 0));
        drop(other);
        assert!(slots.under_way().is_empty());
    }
}
