//! The two halves of an HTTP+SSE session (2024-11-05): its client posts each message to a path of its own and gets every
//! answer on the one stream that it opened first.
//!
//! A call therefore ends on another exchange than the one it began on. Its permit, and what the agent may see of its
//! answer, wait here for that answer, for as long as a server may take to begin one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::task::AbortHandle;

use super::refuse::{self, Asked};
use super::view::{Answer, Passed, View};
use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::refusal::{Refusal, bad_answer};
use crate::rpc::reply::ReplyKind;
use crate::rpc::{Fault, Id, sse};
use crate::session::SessionId;
use crate::types::ServerName;
use crate::upstream;

/// Calls of one session that may wait for their answers.
const WAITING_MAX: usize = 1024;
/// The guard's own answers that may wait for a slow client.
const TOLD_MAX: usize = 64;

/// One session. Its stream holds it; it ends with the stream, and the permits of calls without an answer with it.
#[derive(Debug)]
pub struct Link {
    waiting: Mutex<HashMap<Id, Waiting>>,
    to_client: mpsc::Sender<Bytes>,
    /// Its stream is to end.
    over: Arc<Notify>,
}

/// A call whose answer has not come.
struct Waiting {
    asked: Asked,
    view: Arc<View>,
    call: Call,
}

enum Call {
    /// On its way to the server.
    Sent,
    /// The server has accepted it.
    Open(OpenCall),
    /// The answer was here before the server had said that it accepts the call.
    Answered { answer: Answer, length: usize },
}

struct OpenCall {
    permit: Permit,
    status: u16,
    asked_at: Instant,
    _late: Alarm,
}

/// A task that ends with this.
struct Alarm(AbortHandle);

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Waiting").finish_non_exhaustive()
    }
}

impl Link {
    /// The other end is for the stream.
    pub(super) fn new() -> (Arc<Self>, mpsc::Receiver<Bytes>) {
        let (to_client, for_stream) = mpsc::channel(TOLD_MAX);
        (Arc::new(Self { waiting: Mutex::default(), to_client, over: Arc::default() }), for_stream)
    }

    /// A call is about to be forwarded. An error: one with this id waits already, or too many do.
    pub fn expect(self: &Arc<Self>, id: &Id, asked: &Asked, view: View) -> Result<Expected, Fault> {
        let mut waiting = self.lock();
        if waiting.contains_key(id) {
            return Err(Fault::IdInUse);
        }
        if waiting.len() >= WAITING_MAX {
            return Err(Fault::TooManyWaiting { max: WAITING_MAX });
        }
        let view = Arc::new(view);
        let call = Waiting { asked: asked.clone(), view: Arc::clone(&view), call: Call::Sent };
        waiting.insert(id.clone(), call);
        Ok(Expected { link: Arc::clone(self), view, id: Some(id.clone()) })
    }

    fn accepted(&self, id: &Id, view: &Arc<View>, open: OpenCall) {
        let mut waiting = self.lock();
        // Only the same call: with its answer here, its id may be another's by now.
        match waiting.get_mut(id).filter(|known| Arc::ptr_eq(&known.view, view)) {
            Some(Waiting { call: call @ Call::Sent, .. }) => *call = Call::Open(open),
            Some(Waiting { call: Call::Answered { answer, length }, .. }) => {
                let (answer, length) = (*answer, *length);
                waiting.remove(id);
                open.conclude(answer, length);
            }
            Some(Waiting { call: Call::Open(_), .. }) => {}
            // The stream has ended meanwhile.
            None => open.fail(None),
        }
    }

    /// Reads a message of the stream: an answer through the view of the call that waits for it, anything else through
    /// `stream`.
    pub(super) fn pass(&self, data: Bytes, stream: &View) -> Result<Passed, &'static str> {
        let reply = View::look(&data)?;
        let id = match (&reply.kind, &reply.id) {
            (ReplyKind::Error { .. } | ReplyKind::Result(_), Some(id)) => id.clone(),
            // It may tell of any call that waits.
            _ if self.has_withdrawn(stream) => return Ok(stream.withheld(&reply)),
            _ => return stream.read(data, &reply),
        };
        // The entry stays while the answer is read: the server may say only now that it accepts the call.
        let view = match self.lock().get(&id) {
            Some(Waiting { view, call: Call::Sent | Call::Open(_), .. }) => Arc::clone(view),
            Some(Waiting { call: Call::Answered { .. }, .. }) | None => {
                tracing::warn!(server = %stream.server.name, "an answer that nobody waits for was dropped");
                return Ok(Passed { data: None, answer: None });
            }
        };
        let passed = view.read(data, &reply);
        stream.claim.wait_for(&view.claim);
        let failed =
            Answer { result: OutcomeResult::UpstreamFailed, error_code: None, reason: Some(bad_answer()) };
        let answer = passed.as_ref().ok().and_then(|passed| passed.answer).unwrap_or(failed);
        let length = passed.as_ref().map_or(0, |passed| passed.data.as_ref().map_or(0, Bytes::len));
        let mut waiting = self.lock();
        let Some(known) = waiting.get_mut(&id).filter(|known| Arc::ptr_eq(&known.view, &view)) else {
            return passed;
        };
        if let Call::Open(open) = std::mem::replace(&mut known.call, Call::Answered { answer, length }) {
            open.conclude(answer, length);
            // What cannot be passed on ends the stream, which then tells the client of every call that waits.
            if passed.is_ok() {
                waiting.remove(&id);
            }
        }
        passed
    }

    /// Whether a reload has labelled higher what some call that waits is about.
    pub(super) fn has_withdrawn(&self, stream: &View) -> bool {
        let rules = stream.rules.load();
        let views: Vec<_> = {
            let waiting = self.lock();
            let before = waiting.values().filter(|waiting| !Arc::ptr_eq(&waiting.view.judged_by, &rules));
            before.map(|waiting| Arc::clone(&waiting.view)).collect()
        };
        views.iter().any(|view| !view.is_marked(&rules))
    }

    /// The client takes no answer to this call any more, and the server need not send one.
    pub fn cancel(&self, id: &Id) {
        let gone = Answer { result: OutcomeResult::ClientGone, error_code: None, reason: None };
        let mut waiting = self.lock();
        let Some(known) = waiting.get_mut(id) else { return };
        match known.call {
            Call::Sent => known.call = Call::Answered { answer: gone, length: 0 },
            Call::Open(_) => {
                if let Some(Waiting { call: Call::Open(open), .. }) = waiting.remove(id) {
                    open.conclude(gone, 0);
                }
            }
            // It came first.
            Call::Answered { .. } => {}
        }
    }

    /// The server has not answered this call in time. What it still says of it is for nobody.
    fn give_up(&self, id: &Id, view: &Arc<View>) {
        let mut waiting = self.lock();
        if !waiting.get(id).is_some_and(|known| Arc::ptr_eq(&known.view, view)) {
            return;
        }
        let Some(Waiting { asked, call, .. }) = waiting.remove(id) else { return };
        drop(waiting);
        let late = Refusal::Upstream(upstream::Error::Silent);
        if let Call::Open(open) = call {
            open.fail(Some(&late));
        }
        if refuse::message(&asked, &late).is_some_and(|message| !self.tell(&message)) {
            // A client that takes nothing learns it so.
            self.over.notify_one();
        }
    }

    /// The stream ends: an event for each call that waits, so that its client need not wait longer.
    pub(super) fn fail_all(&self, why: &Refusal) -> Vec<Bytes> {
        let calls = std::mem::take(&mut *self.lock());
        let failed = calls.into_values().filter_map(|Waiting { asked, call, .. }| {
            if let Call::Open(open) = call {
                open.fail(Some(why));
            }
            Some(event(&refuse::message(&asked, why)?))
        });
        failed.collect()
    }

    /// Sends the guard's own answer on the stream; `false` if its client does not take it.
    pub fn tell(&self, message: &Value) -> bool {
        self.to_client.try_send(event(message)).is_ok()
    }

    /// Ends when the stream is to.
    pub(super) fn until_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let over = Arc::clone(&self.over);
        async move { over.notified().await }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Id, Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The guard's own message as an event.
pub(super) fn event(message: &Value) -> Bytes {
    sse::event(message.to_string().as_bytes())
}

impl OpenCall {
    fn conclude(self, answer: Answer, length: usize) {
        self.permit.conclude(&Outcome {
            status: Some(self.status),
            result: answer.result,
            error_code: answer.error_code,
            reason: answer.reason,
            response_bytes: u64::try_from(length).unwrap_or(u64::MAX),
            events: 1,
            duration: self.asked_at.elapsed(),
        });
    }

    /// There is no answer, and there will be none.
    fn fail(self, why: Option<&Refusal>) {
        self.permit.conclude(&Outcome {
            status: Some(self.status),
            result: OutcomeResult::UpstreamFailed,
            reason: why.map(Refusal::reason),
            duration: self.asked_at.elapsed(),
            ..Outcome::abandoned()
        });
    }
}

/// A call on its way to the server. Dropped before the server has accepted it, nobody waits for its answer any more.
pub struct Expected {
    link: Arc<Link>,
    view: Arc<View>,
    /// `None` once the server has accepted it.
    id: Option<Id>,
}

impl Expected {
    /// The call goes to its server.
    pub fn spend(&self) {
        self.view.claim.spend();
    }

    /// Whether nothing about it may go on any more.
    pub(super) fn is_withdrawn(&self) -> bool {
        self.view.is_withdrawn()
    }

    /// The server has accepted the call: its answer comes on the stream, within `patience` since it was sent.
    pub(super) fn accepted(mut self, permit: Permit, status: u16, asked_at: Instant, patience: Duration) {
        let Some(id) = self.id.take() else { return };
        let (link, view, late) = (Arc::downgrade(&self.link), Arc::clone(&self.view), id.clone());
        let alarm = tokio::spawn(async move {
            tokio::time::sleep(patience.saturating_sub(asked_at.elapsed())).await;
            if let Some(link) = link.upgrade() {
                link.give_up(&late, &view);
            }
        });
        let open = OpenCall { permit, status, asked_at, _late: Alarm(alarm.abort_handle()) };
        self.link.accepted(&id, &self.view, open);
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        let Some(id) = &self.id else { return };
        let mut waiting = self.link.lock();
        if waiting.get(id).is_some_and(|known| Arc::ptr_eq(&known.view, &self.view)) {
            waiting.remove(id);
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

    /// Takes out this one, and not another that has its path by now.
    pub(super) fn remove(&self, server: &ServerName, path: &SessionId, link: &Arc<Link>) {
        let key = (server.clone(), path.clone());
        let mut links = self.lock();
        if links.get(&key).is_some_and(|known| std::ptr::eq(known.as_ptr(), Arc::as_ptr(link))) {
            links.remove(&key);
        }
    }

    fn lock(&self) -> MutexGuard<'_, ByPath> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
