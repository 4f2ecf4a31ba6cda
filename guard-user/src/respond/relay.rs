//! Passes a server's reply on: a whole message, or a stream of events.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName};
use http::response::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use tokio::time::timeout;

use super::link::Expected;
use super::refuse::Asked;
use super::stream::ReplyStream;
use super::view::{NOT_TO_ASK, Passed, View};
use super::{Elsewhere, charset};
use crate::audit::{Outcome, OutcomeResult};
use crate::config::Limits;
use crate::http::{Body, Held, Memory, Pieces};
use crate::refusal::{Refusal, bad_answer};
use crate::rpc;
use crate::rpc::reply::ReplyKind;
use crate::session::SESSION_HEADER;
use crate::upstream::{Reply, ReplyBody, end_to_end};

pub(super) const NO_MEMORY: &str = "the answers under way hold as much memory as they may (limits.answers_bytes_max), or as this server's may (limits.answers_bytes_per_server_max)";
const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const UNCLEAR_KIND: &str = "clients differ on what its Content-Type means";

/// Turns `reply` into the answer to what was `asked`. Every message in it is read on the way through `view`; the
/// call is concluded when its last byte has gone by.
pub async fn relay(
    reply: Reply,
    asked: &Asked,
    mut view: View,
    (limits, memory): (&Limits, &Memory),
    elsewhere: &Elsewhere,
) -> Result<Response<Answering>, Refusal> {
    let mut share = memory.answer(&view.server.name);
    let Reply { head, body, permit, asked_at } = reply;
    let mut outcome = Outcome { status: Some(head.status.as_u16()), ..Outcome::abandoned() };
    let entered = view.claim.session().cloned();
    let readable = check_kind(&head).and_then(|()| view.claim.take_head(&head));
    let opens_session = view.claim.session() != entered.as_ref();
    view.claim.written().await;
    if readable.is_ok() && is(&head.headers, &CONTENT_TYPE, EVENTS) && !is_encoded(&head.headers) {
        let over = opens_session.then(|| view.claim.until_over());
        let mut stream = ReplyStream::new(
            body,
            view,
            asked.clone(),
            (permit, asked_at),
            &outcome,
            (limits, share),
            elsewhere,
        );
        // Of any other session this is known from the beginning.
        if let Some(over) = over {
            stream.ends_with(async {
                over.await;
                Refusal::SessionOver
            });
        }
        return Ok(respond(&head, Answering::Stream(Box::new(stream))));
    }
    let read = match readable {
        Ok(()) => whole(&head, body, limits, &mut share).await,
        Err(fault) => Err(fault),
    };
    // Whether it is a message or not.
    if view.is_withdrawn() {
        let reason = Some(Refusal::Withdrawn.reason());
        let duration = asked_at.elapsed();
        permit.conclude(&Outcome { result: OutcomeResult::CutOff, reason, duration, ..outcome });
        return Err(Refusal::Withdrawn);
    }
    let passed = read.and_then(|body| judge(&view, &head, body));
    view.claim.written().await;
    outcome.duration = asked_at.elapsed();
    outcome.result = OutcomeResult::UpstreamFailed;
    outcome.reason = passed.as_ref().ok().is_none_or(|passed| passed.data.is_none()).then(bad_answer);
    if let Ok(passed) = &passed {
        let unanswered = if head.status.is_success() { OutcomeResult::Ok } else { OutcomeResult::HttpError };
        outcome.result = passed.answer.map_or(unanswered, |answer| answer.result);
        outcome.error_code = passed.answer.and_then(|answer| answer.error_code);
        outcome.reason = outcome.reason.or(passed.answer.and_then(|answer| answer.reason));
        let length = passed.data.as_ref().map_or(0, Bytes::len);
        outcome.response_bytes = u64::try_from(length).unwrap_or(u64::MAX);
    }
    permit.conclude(&outcome);
    let Passed { data, .. } = passed.map_err(Refusal::Answer)?;
    let data =
        data.ok_or(Refusal::Answer("it is a request, and one that the policy does not let the server make"))?;
    Ok(respond(&head, Answering::Whole(Body::holding(data, share))))
}

/// Passes on an answer that has nothing to do with MCP, and in which nothing could be taken for a message.
pub async fn pass_on(reply: Reply, limits: &Limits, mut share: Held) -> Result<Response<Body>, Refusal> {
    let Reply { mut head, body, permit, asked_at } = reply;
    let mut outcome = Outcome { status: Some(head.status.as_u16()), ..Outcome::abandoned() };
    let read = if head.status.is_informational() {
        Err("it leaves HTTP, although the guard did not ask for that")
    } else {
        whole(&head, body, limits, &mut share).await
    };
    let read = read.and_then(|body| {
        let is_fine = rpc::form::is_no_message(&head.headers, &body, limits.json_depth_max);
        if is_fine { Ok(body) } else { Err("it could be taken for a message of MCP") }
    });
    outcome.duration = asked_at.elapsed();
    if let Ok(body) = &read {
        let is_error = head.status.is_server_error();
        outcome.result = if is_error { OutcomeResult::HttpError } else { OutcomeResult::Ok };
        outcome.response_bytes = u64::try_from(body.len()).unwrap_or(u64::MAX);
    } else {
        outcome.result = OutcomeResult::UpstreamFailed;
        outcome.reason = Some(bad_answer());
    }
    permit.conclude(&outcome);
    let body = read.map_err(Refusal::Answer)?;
    head.headers.remove(SESSION_HEADER);
    Ok(respond(&head, Body::holding(body, share)))
}

/// The body of an answer.
pub enum Answering {
    Whole(Body),
    Stream(Box<ReplyStream>),
}

impl Answering {
    /// What is still to come ends when the guard refuses it.
    pub fn until(self, cut: impl Future<Output = Refusal> + Send + 'static) -> Body {
        match self {
            Self::Whole(body) => body,
            Self::Stream(mut stream) => {
                stream.ends_with(cut);
                Body::Stream(Box::into_pin(stream))
            }
        }
    }
}

/// Passes on what a server says to a message of HTTP+SSE that was posted to it. An answer comes on the session's stream and
/// nowhere else: what stands here beside the status of an accepted message is for nobody.
pub async fn accept(
    reply: Reply,
    (expected, hides_body): (Option<Expected>, bool),
    limits: &Limits,
    mut share: Held,
) -> Result<Response<Body>, Refusal> {
    let Reply { head, body, permit, asked_at } = reply;
    let status = head.status.as_u16();
    let outcome = |result| Outcome {
        status: Some(status),
        result,
        duration: asked_at.elapsed(),
        ..Outcome::abandoned()
    };
    let read = whole(&head, body, limits, &mut share).await;
    let is_withdrawn = expected.as_ref().is_some_and(Expected::is_withdrawn);
    if head.status.is_success() && read.is_ok() {
        match expected {
            Some(expected) => {
                let patience = Duration::from_secs(limits.upstream_head_seconds);
                expected.accepted(permit, status, asked_at, patience);
            }
            None => permit.conclude(&outcome(OutcomeResult::Ok)),
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = head.status;
        return Ok(response);
    }
    let result = if read.is_ok() { OutcomeResult::HttpError } else { OutcomeResult::UpstreamFailed };
    permit.conclude(&Outcome { reason: read.is_err().then(bad_answer), ..outcome(result) });
    let read = read.map_err(Refusal::Answer)?;
    // Nobody looks into this for what inspection rules look for.
    Ok(respond(&head, if hides_body || is_withdrawn { Body::empty() } else { Body::holding(read, share) }))
}

/// Clients differ on what they take for JSON and for events: by its beginning, or by these words anywhere in the type. An
/// answer that some would read as messages, and the guard would not, could hold any list.
fn check_kind(head: &Parts) -> Result<(), &'static str> {
    if head.status.is_informational() {
        return Err("it leaves HTTP, although the guard did not ask for that");
    }
    let mut kinds = head.headers.get_all(CONTENT_TYPE).iter();
    let (kind, another) = (kinds.next(), kinds.next());
    let Some(kind) = kind else { return Ok(()) };
    let text = String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase();
    // One client decodes events by this parameter, others as UTF-8 whatever it says.
    let is_other = charset::is_other(&head.headers);
    if is_other && is(&head.headers, &CONTENT_TYPE, EVENTS) {
        return Err(UNCLEAR_KIND);
    }
    if !head.status.is_success() {
        return Ok(());
    }
    let hides = |word, wanted| text.contains(word) && !is(&head.headers, &CONTENT_TYPE, wanted);
    let is_read = text.contains("json") || text.contains("event-stream");
    if another.is_some() || hides("json", JSON) || hides("event-stream", EVENTS) || (is_read && is_other) {
        return Err(UNCLEAR_KIND);
    }
    Ok(())
}

async fn whole(
    head: &Parts,
    body: ReplyBody,
    limits: &Limits,
    share: &mut Held,
) -> Result<Bytes, &'static str> {
    if is_encoded(&head.headers) {
        return Err("it is compressed, although the guard asked for it as it is");
    }
    // A server that computes after its head may take as long as one that computes before.
    let patience = Duration::from_secs(limits.upstream_head_seconds);
    let read = timeout(patience, collect(Limited::new(body, limits.event_bytes_max), share)).await;
    read.unwrap_or(Err("its end did not come within limits.upstream_head_seconds"))
}

async fn collect(mut body: Limited<ReplyBody>, share: &mut Held) -> Result<Bytes, &'static str> {
    let mut whole = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let too_long = error.is::<LengthLimitError>();
            if too_long {
                "it is longer than limits.event_bytes_max"
            } else {
                "the server broke off within it"
            }
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if !share.take(data.len()) {
            return Err(NO_MEMORY);
        }
        whole.push(data);
    }
    Ok(whole.into_bytes())
}

/// A body that is JSON and answers a request is read like any other message. What else comes back (202 to a
/// notification, a server's own HTTP error) holds no list and answers nothing, and goes on as it is. Whatever its status, a
/// message that some client would take out of it is read.
fn judge(view: &View, head: &Parts, body: Bytes) -> Result<Passed, &'static str> {
    if !body.is_empty() && charset::is_other(&head.headers) && view.binds() {
        return Err(charset::OTHER);
    }
    let is_json = is(&head.headers, &CONTENT_TYPE, JSON);
    match view.pass(body.clone()) {
        Ok(passed) => Ok(passed),
        Err(fault) if is_json && head.status.is_success() && !body.is_empty() => Err(fault),
        Err(fault) if !is_harmless(&body, fault) => Err(fault),
        Err(_not_a_message) => Ok(Passed { data: Some(view.inspected_body(body, is_json)?), answer: None }),
    }
}

/// Whether nothing in it could be taken for what it must not say. Servers put other ids than the request's into their errors.
fn is_harmless(body: &Bytes, fault: &str) -> bool {
    match View::look(body) {
        Ok(reply) => matches!(reply.kind, ReplyKind::Error { .. }) && fault != NOT_TO_ASK,
        Err(_no_message) => true,
    }
}

fn respond<B>(head: &Parts, body: B) -> Response<B> {
    let mut response = Response::new(body);
    *response.status_mut() = head.status;
    *response.headers_mut() = end_to_end(&head.headers);
    response
}

fn is_encoded(head: &HeaderMap) -> bool {
    head.contains_key(CONTENT_ENCODING) && !is(head, &CONTENT_ENCODING, "identity")
}

/// Whether the field's value, less its parameters, is `wanted`.
fn is(head: &HeaderMap, field: &HeaderName, wanted: &str) -> bool {
    let value = head.get(field).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let value = value.split_once(';').map_or(value, |(value, _parameters)| value);
    value.trim().eq_ignore_ascii_case(wanted)
}
