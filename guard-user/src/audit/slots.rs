//! Calls under way: so many altogether, and so many of each agent, so that none takes the place of all others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::AuditError;

/// Cheap to clone.
#[derive(Clone)]
pub(super) struct Slots {
    all: Arc<Semaphore>,
    by_agent: Arc<Mutex<HashMap<Box<str>, usize>>>,
    most: usize,
    per_agent_max: usize,
}

/// One call's place; free again when it is dropped.
pub(super) struct Slot {
    _one: OwnedSemaphorePermit,
    of_agent: Option<OfAgent>,
}

struct OfAgent {
    by_agent: Arc<Mutex<HashMap<Box<str>, usize>>>,
    agent: Box<str>,
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
            Some(count) if *count >= self.per_agent_max => {
                return Err(AuditError::AgentBusy(self.per_agent_max));
            }
            Some(count) => *count += 1,
            None => _ = counts.insert(agent.into(), 1),
        }
        Ok(OfAgent { by_agent: Arc::clone(&self.by_agent), agent: agent.into() })
    }

    /// Whether somebody waits for `slot`: no other is free for a call like its own.
    pub(super) fn is_last(&self, slot: &Slot) -> bool {
        let of_agent = slot.of_agent.as_ref();
        let is_full = |of: &OfAgent| {
            lock(&self.by_agent).get(&of.agent).is_some_and(|count| *count >= self.per_agent_max)
        };
        self.all.available_permits() == 0 || of_agent.is_some_and(is_full)
    }
}

impl Drop for OfAgent {
    fn drop(&mut self) {
        let mut counts = lock(&self.by_agent);
        if let Some(count) = counts.get_mut(&self.agent) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.agent);
            }
        }
    }
}

fn lock(counts: &Mutex<HashMap<Box<str>, usize>>) -> MutexGuard<'_, HashMap<Box<str>, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
