//! The two halves of an HTTP+SSE session (2024-11-05): its client posts each message to a path of its own and gets every
//! answer on the one stream that it opened first.
//!
//! A call therefore ends on another exchange than the one it began on. Its permit, and what the agent may see of its
//! answer, wait here for that answer.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::view::{Answer, Passed, View};
use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::rpc::reply::ReplyKind;
use crate::rpc::{Fault, Id};
use crate::session::SessionId;
use crate::types::ServerName;

/// Calls of one session that may wait for their answers.
const WAITING_MAX: usize = 1024;
/// The guard's own answers that may wait for a slow client.
const REFUSALS_MAX: usize = 64;

/// One session. Its stream holds it; it ends with the stream, and the permits of calls without an answer with it.
#[derive(Debug)]
pub struct Link {
    waiting: Mutex<HashMap<Id, Waiting>>,
    to_client: mpsc::Sender<Bytes>,
}

/// A call whose answer has not come.
struct Waiting {
    view: Arc<View>,
    call: Call,
}

enum Call {
    /// On its way to the server.
    Sent,
    /// The server has accepted it.
    Open { permit: Permit, status: u16, asked_at: Instant },
    /// The answer was here before the server had said that it accepts the call.
    Answered { answer: Answer, length: usize },
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl Link {
    /// The other end is for the stream.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (to_client, for_stream) = mpsc::channel(REFUSALS_MAX);
        (Arc::new(Self { waiting: Mutex::default(), to_client }), for_stream)
    }

    /// A call is about to be forwarded. An error: one with this id waits already, or too many do.
    pub fn expect(self: &Arc<Self>, id: &Id, view: View) -> Result<Expected, Fault> {
        let mut waiting = self.lock();
        if waiting.contains_key(id) {
            return Err(Fault::IdInUse);
        }
        if waiting.len() >= WAITING_MAX {
            return Err(Fault::TooManyWaiting { max: WAITING_MAX });
        }
        waiting.insert(id.clone(), Waiting { view: Arc::new(view), call: Call::Sent });
        Ok(Expected { link: Arc::clone(self), id: Some(id.clone()) })
    }

    fn accepted(&self, id: &Id, permit: Permit, status: u16, asked_at: Instant) {
        let mut waiting = self.lock();
        match waiting.remove(id) {
            Some(Waiting { view, call: Call::Sent }) => {
                waiting.insert(id.clone(), Waiting { view, call: Call::Open { permit, status, asked_at } });
            }
            Some(Waiting { call: Call::Answered { answer, length }, .. }) => {
                conclude(permit, status, answer, length, asked_at.elapsed());
            }
            // The permit that is dropped here writes its closing record.
            Some(Waiting { call: Call::Open { .. }, .. }) | None => {}
        }
    }

    /// Reads a message of the stream: an answer through the view of the call that waits for it, anything else through
    /// `stream`.
    pub(super) fn pass(&self, data: Bytes, stream: &View) -> Result<Passed, &'static str> {
        let reply = View::look(&data)?;
        let id = match (&reply.kind, &reply.id) {
            (ReplyKind::Error { .. } | ReplyKind::Result(_), Some(id)) => id.clone(),
            _ => return stream.read(data, &reply),
        };
        // The entry stays while the answer is read: the server may say only now that it accepts the call.
        let view = match self.lock().get(&id) {
            Some(Waiting { view, call: Call::Sent | Call::Open { .. } }) => Arc::clone(view),
            Some(Waiting { call: Call::Answered { .. }, .. }) | None => {
                tracing::warn!(server = %stream.server.name, "an answer that nobody waits for was dropped");
                return Ok(Passed { data: None, answer: None });
            }
        };
        let passed = view.read(data, &reply);
        stream.claim.wait_for(&view.claim);
        let answer = passed
            .as_ref()
            .ok()
            .and_then(|passed| passed.answer)
            .unwrap_or(Answer { result: OutcomeResult::UpstreamFailed, error_code: None });
        let length = passed.as_ref().map_or(0, |passed| passed.data.as_ref().map_or(0, Bytes::len));
        let mut waiting = self.lock();
        match waiting.remove(&id) {
            Some(Waiting { call: Call::Open { permit, status, asked_at }, .. }) => {
                conclude(permit, status, answer, length, asked_at.elapsed());
            }
            Some(Waiting { view, .. }) => {
                waiting.insert(id, Waiting { view, call: Call::Answered { answer, length } });
            }
            None => {}
        }
        passed
    }

    /// The client takes no answer to this call any more, and the server need not send one.
    pub fn cancel(&self, id: &Id) {
        if let Some(Waiting { call: Call::Open { permit, status, asked_at }, .. }) = self.lock().remove(id) {
            let answer = Answer { result: OutcomeResult::ClientGone, error_code: None };
            conclude(permit, status, answer, 0, asked_at.elapsed());
        }
    }

    /// Sends the guard's own answer on the stream; `false` if its client does not take it.
    pub fn tell(&self, message: &serde_json::Value) -> bool {
        self.to_client.try_send(format!("event: message\ndata: {message}\n\n").into()).is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn conclude(permit: Permit, status: u16, answer: Answer, length: usize, duration: Duration) {
    permit.conclude(&Outcome {
        status: Some(status),
        result: answer.result,
        error_code: answer.error_code,
        response_bytes: u64::try_from(length).unwrap_or(u64::MAX),
        events: 1,
        duration,
    });
}

/// A call on its way to the server. Dropped before the server has accepted it, nobody waits for its answer any more.
#[derive(Debug)]
pub struct Expected {
    link: Arc<Link>,
    /// `None` once the server has accepted it.
    id: Option<Id>,
}

impl Expected {
    /// The server has accepted the call: its answer comes on the stream.
    pub(super) fn accepted(mut self, permit: Permit, status: u16, asked_at: Instant) {
        if let Some(id) = self.id.take() {
            self.link.accepted(&id, permit, status, asked_at);
        }
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        if let Some(id) = &self.id {
            self.link.lock().remove(id);
        }
    }
}

/// Where a posted message finds the stream of its session. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Links(Arc<Mutex<ByPath>>);

type ByPath = HashMap<(ServerName, SessionId), Weak<Link>>;

impl Links {
    pub fn find(&self, server: &ServerName, path: &SessionId) -> Option<Arc<Link>> {
        self.lock().get(&(server.clone(), path.clone()))?.upgrade()
    }

    pub(super) fn add(&self, server: &ServerName, path: &SessionId, link: &Arc<Link>) {
        self.lock().insert((server.clone(), path.clone()), Arc::downgrade(link));
    }

    pub(super) fn remove(&self, server: &ServerName, path: &SessionId) {
        self.lock().remove(&(server.clone(), path.clone()));
    }

    fn lock(&self) -> MutexGuard<'_, ByPath> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
