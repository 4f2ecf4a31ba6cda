//! What waits to be written, and what wakes the writer's thread.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::AuditError;
use super::log::{Permit, Ticket};
use super::slots::Slot;
use crate::attendance::Guest;

/// One record on its way to the disk.
pub(super) struct Append {
    /// A JSON object without `seq`, `prev` and `time`.
    pub(super) body: Vec<u8>,
    /// Makes the body when everything before it is written and nothing after it.
    pub(super) compose: Option<Compose>,
    /// The connection that has a record with this one.
    pub(super) guest: Option<Arc<Guest>>,
    /// It is written on the reserve, too.
    pub(super) is_vital: bool,
    pub(super) done: Done,
}

/// `None`: there is nothing to write.
pub(super) type Compose = Box<dyn FnOnce() -> Option<Vec<u8>> + Send>;

impl Append {
    pub(super) fn new(body: Vec<u8>, done: Done) -> Self {
        Self { body, compose: None, guest: None, is_vital: false, done }
    }
}

/// Who waits for the record.
pub(super) enum Done {
    Call(Ticket, oneshot::Sender<Result<Permit, AuditError>>),
    Note(Option<OwnedSemaphorePermit>, oneshot::Sender<Result<u64, AuditError>>),
    /// Nobody: an outcome. It holds its call's slot until it is written, which bounds the queue.
    Outcome {
        #[expect(dead_code, reason = "it is held, not read")]
        slot: Option<Slot>,
    },
}

#[derive(Default)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    changed: Condvar,
}

#[derive(Default)]
struct Waiting {
    awaited: Vec<Append>,
    outcomes: Vec<Append>,
    /// The thread has something to do that it does not know of.
    is_due: bool,
    /// Until when the thread sleeps.
    asleep: Option<Instant>,
    is_closed: bool,
    stop: Option<oneshot::Sender<()>>,
}

/// Why the thread goes on.
pub(super) enum Woken {
    Work,
    /// Nothing will come any more. Whoever asked for that waits, unless every handle is gone.
    Stop(Option<oneshot::Sender<()>>),
}

impl Queue {
    /// Adds a record that somebody waits for. The caller writes it, or wakes the thread.
    pub(super) fn push(&self, append: Append) -> Result<(), AuditError> {
        let mut waiting = self.lock();
        if waiting.is_closed {
            return Err(AuditError::Stopped);
        }
        waiting.awaited.push(append);
        Ok(())
    }

    /// Adds an outcome. It wakes nobody: it is written along with the next record that somebody waits for, or when
    /// the thread looks again. Without a writer the guard is stopping; its next start names the call.
    pub(super) fn push_outcome(&self, outcome: Append) {
        self.lock().outcomes.push(outcome);
    }

    /// What waits, in the order in which it came: nobody sends a record before its outcome, so these go first.
    pub(super) fn take(&self) -> Vec<Append> {
        let mut waiting = self.lock();
        let mut all = std::mem::take(&mut waiting.outcomes);
        all.append(&mut waiting.awaited);
        all
    }

    /// Whether somebody waits.
    pub(super) fn is_awaited(&self) -> bool {
        !self.lock().awaited.is_empty()
    }

    pub(super) fn wake(&self) {
        self.lock().is_due = true;
        self.changed.notify_one();
    }

    /// Wakes the thread if it would otherwise sleep for longer than `due`.
    pub(super) fn wake_within(&self, due: Duration) {
        let due = Instant::now() + due;
        let oversleeps = self.lock().asleep.is_some_and(|until| due < until);
        if oversleeps {
            self.wake();
        }
    }

    /// Takes no more. The thread answers `stop` when everything is written; a second one is dropped unanswered.
    pub(super) fn close(&self, stop: Option<oneshot::Sender<()>>) {
        let mut waiting = self.lock();
        if !waiting.is_closed {
            waiting.is_closed = true;
            waiting.stop = stop;
        }
        self.changed.notify_one();
    }

    /// Sleeps until there is something to write, or `due` is over.
    pub(super) fn wait(&self, due: Duration) -> Woken {
        let mut waiting = self.lock();
        waiting.asleep = Some(Instant::now() + due);
        let idle = |waiting: &mut Waiting| !waiting.is_due && !waiting.is_closed;
        let (mut waiting, _) =
            self.changed.wait_timeout_while(waiting, due, idle).unwrap_or_else(PoisonError::into_inner);
        waiting.asleep = None;
        waiting.is_due = false;
        if waiting.is_closed { Woken::Stop(waiting.stop.take()) } else { Woken::Work }
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Done {
    pub(super) fn written(self, seq: u64) {
        match self {
            // If nobody waits any more, the permit comes back and its drop says "abandoned".
            Self::Call(ticket, reply) => drop(reply.send(Ok(Permit::new(ticket, seq)))),
            Self::Note(_slot, reply) => drop(reply.send(Ok(seq))),
            Self::Outcome { .. } => {}
        }
    }
}
