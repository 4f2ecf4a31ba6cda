//! Calls whose stream ended before their answer. Their client may resume the stream with a GET (2025-03-26 to 2025-11-25),
//! and the answer comes there: it is read as what it answers, and the call's closing record is written then.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::refuse::{self, Asked};
use super::view::{Passed, View};
use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::config::Limits;
use crate::refusal::{Refusal, bad_answer};
use crate::rpc::Id;
use crate::rpc::reply::{Reply, ReplyKind};
use crate::session::Scope;

/// All of them. Cheap to clone.
#[derive(Clone)]
pub struct Suspended(Arc<Shared>);

struct Shared {
    scopes: Mutex<HashMap<Scope, Calls>>,
    per_agent_max: usize,
    patience: Duration,
    /// Since the stream of a call ended, whatever was resumed.
    patience_max: Duration,
}

/// Those within which one request id means one call.
#[derive(Default)]
struct Calls {
    by_id: HashMap<Id, Call>,
    /// Streams that were resumed, and are open.
    resumed: usize,
    /// When the last of these ended.
    ended_at: Option<Instant>,
}

/// One call. Dropped, it ends as it did when its stream ended.
pub(super) struct Call {
    /// How the agent sees the answer.
    view: Arc<View>,
    asked: Asked,
    asked_at: Instant,
    /// What its record says if nobody resumes it.
    outcome: Outcome,
    since: Instant,
    /// `None`: its client has cancelled it, and it is kept so that nobody gets its answer.
    permit: Option<Permit>,
}

impl Call {
    pub(super) fn new(
        view: Arc<View>,
        asked: Asked,
        (permit, asked_at): (Permit, Instant),
        outcome: Outcome,
    ) -> Self {
        Self { view, asked, asked_at, outcome, since: Instant::now(), permit: Some(permit) }
    }

    fn cancel(&mut self) {
        self.outcome.result = OutcomeResult::ClientGone;
        if let Some(permit) = self.permit.take() {
            permit.conclude(&self.outcome);
        }
    }

    fn conclude(mut self, result: OutcomeResult, error_code: Option<i64>, length: usize) {
        self.outcome.result = result;
        self.outcome.error_code = error_code;
        self.outcome.events = self.outcome.events.saturating_add(1);
        let length = u64::try_from(length).unwrap_or(u64::MAX);
        self.outcome.response_bytes = self.outcome.response_bytes.saturating_add(length);
        self.outcome.duration = self.asked_at.elapsed();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(permit) = self.permit.take() {
            permit.conclude(&self.outcome);
        }
    }
}

impl Suspended {
    pub fn new(limits: &Limits) -> Self {
        Self(Arc::new(Shared {
            scopes: Mutex::default(),
            per_agent_max: limits.resumable_calls_per_agent_max,
            patience: Duration::from_secs(limits.resume_seconds),
            patience_max: Duration::from_secs(limits.resume_seconds.max(limits.upstream_head_seconds)),
        }))
    }

    /// Keeps a call. Of an agent with too many, the one whose stream ended first is given up.
    pub(super) fn add(&self, call: Call) {
        let Some(id) = call.view.waits_for.clone().filter(|_| self.0.per_agent_max > 0) else { return };
        let scope = call.view.claim.scope();
        let mut scopes = self.lock();
        let of_agent = || {
            let calls = scopes.iter().filter(|(known, _)| known.owner.agent == scope.owner.agent);
            calls.flat_map(|(scope, calls)| calls.by_id.iter().map(move |(id, call)| (scope, id, call)))
        };
        let oldest = (of_agent().count() >= self.0.per_agent_max)
            .then(|| of_agent().min_by_key(|(_, _, call)| call.since))
            .flatten()
            .map(|(scope, id, _)| (scope.clone(), id.clone()));
        if let Some((scope, id)) = oldest
            && let Some(calls) = scopes.get_mut(&scope)
        {
            calls.by_id.remove(&id);
        }
        let by_id = &mut scopes.entry(scope).or_default().by_id;
        // Two with one id: nobody can tell whose the answer would be.
        if by_id.remove(&id).is_none() {
            by_id.insert(id, call);
        }
    }

    /// Reads a message of a GET stream: an answer through the view of the call that it belongs to, anything else through
    /// `stream`.
    pub(super) fn pass(&self, data: Bytes, stream: &View) -> Result<Passed, &'static str> {
        let reply = View::look(&data)?;
        let Some((id, view)) = self.find(&reply, stream) else {
            // It may tell of any call that waits here; and nobody knows any more what call an answer is of, if it is of none that is kept.
            let is_answer = matches!(reply.kind, ReplyKind::Error { .. } | ReplyKind::Result(_));
            let is_withdrawn = self.has_withdrawn(stream) || (is_answer && !stream.has_read_all());
            return if is_withdrawn { Ok(stream.withheld(&reply)) } else { stream.read(data, &reply) };
        };
        let Some(view) = view else { return Ok(Passed { data: None, answer: None }) };
        let passed = view.read(data, &reply);
        // A task is written down before its client hears of it.
        stream.claim.wait_for(&view.claim);
        let call = {
            let mut scopes = self.lock();
            let calls = scopes.get_mut(&stream.claim.scope());
            calls.and_then(|calls| {
                calls
                    .by_id
                    .get(&id)
                    .filter(|call| Arc::ptr_eq(&call.view, &view) && call.permit.is_some())?;
                calls.by_id.remove(&id)
            })
        };
        // Another stream had the answer first, or the call was cancelled meanwhile.
        let Some(mut call) = call else { return Ok(Passed { data: None, answer: None }) };
        // The GET itself has no answer.
        match passed {
            Ok(Passed { data, answer: Some(answer) }) => {
                call.outcome.reason = answer.reason;
                call.conclude(answer.result, answer.error_code, data.as_ref().map_or(0, Bytes::len));
                Ok(Passed { data, answer: None })
            }
            Ok(passed) => Ok(passed),
            // The stream is not this call's alone, and goes on.
            Err(fault) => {
                tracing::warn!(decision = %call.asked.decision, fault, "a call's answer was not passed on");
                let refused = refuse::message(&call.asked, &Refusal::Answer(fault));
                call.outcome.reason = Some(bad_answer());
                call.conclude(OutcomeResult::UpstreamFailed, None, 0);
                Ok(Passed { data: refused.map(|message| message.to_string().into()), answer: None })
            }
        }
    }

    /// Whether a reload has labelled higher what some call is about whose answer is still to come.
    pub(super) fn has_withdrawn(&self, stream: &View) -> bool {
        let rules = stream.rules.load();
        let views: Vec<_> = {
            let scopes = self.lock();
            let calls = scopes.get(&stream.claim.scope()).into_iter().flat_map(|calls| calls.by_id.values());
            let before = calls.filter(|call| !Arc::ptr_eq(&call.view.judged_by, &rules));
            before.map(|call| Arc::clone(&call.view)).collect()
        };
        views.iter().any(|view| !view.is_marked(&rules))
    }

    /// The call that it answers, and how its agent sees that; not at all if the call was cancelled.
    fn find(&self, reply: &Reply, stream: &View) -> Option<(Id, Option<Arc<View>>)> {
        let (ReplyKind::Error { .. } | ReplyKind::Result(_), Some(id)) = (&reply.kind, &reply.id) else {
            return None;
        };
        let scopes = self.lock();
        let call = scopes.get(&stream.claim.scope())?.by_id.get(id)?;
        Some((id.clone(), call.permit.is_some().then(|| Arc::clone(&call.view))))
    }

    /// Its client takes no answer to this call any more, and gets none on a stream that it resumes.
    pub fn cancel(&self, scope: &Scope, id: &Id) {
        if let Some(call) = self.lock().get_mut(scope).and_then(|calls| calls.by_id.get_mut(id)) {
            call.cancel();
        }
    }

    /// A stream is resumed. As long as it is open, its calls wait.
    pub(super) fn resume(&self, scope: Scope) -> Resumed {
        self.lock().entry(scope.clone()).or_default().resumed += 1;
        Resumed { suspended: self.clone(), scope }
    }

    /// Gives up those that nobody has resumed in time, and those whose session is over.
    pub fn sweep(&self) {
        let Shared { patience, patience_max, .. } = *self.0;
        self.lock().retain(|_, calls| {
            let is_late = |since: Instant| since.elapsed() >= patience;
            let is_resumed = calls.resumed > 0 || calls.ended_at.is_some_and(|at| !is_late(at));
            calls.by_id.retain(|_, call| {
                let is_awaited = is_resumed || !is_late(call.since);
                is_awaited && call.since.elapsed() < patience_max && !call.view.claim.session_is_over()
            });
            is_resumed || !calls.by_id.is_empty()
        });
    }

    /// The guard stops: nobody can resume anything any more.
    pub fn give_up_all(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Scope, Calls>> {
        self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream that was resumed and is open.
pub(super) struct Resumed {
    suspended: Suspended,
    scope: Scope,
}

impl Drop for Resumed {
    fn drop(&mut self) {
        let mut scopes = self.suspended.lock();
        let Some(calls) = scopes.get_mut(&self.scope) else { return };
        calls.resumed = calls.resumed.saturating_sub(1);
        calls.ended_at = Some(Instant::now());
        if calls.resumed == 0 && calls.by_id.is_empty() {
            scopes.remove(&self.scope);
        }
    }
}
