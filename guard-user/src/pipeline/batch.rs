//! A batch of 2025-03-26, split: each of its messages goes its own way through the pipeline, with records of its own, one
//! after the other. What is answered comes as one stream of events.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::{Method, Response, StatusCode};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt;
use tokio::sync::mpsc;

use super::{Identified, Pipeline, identify};
use crate::case::Case;
use crate::config::Batches;
use crate::connection::Connection;
use crate::http::{Body, Held};
use crate::refusal::Refusal;
use crate::respond;
use crate::rpc::batch::{self, BATCH_VERSION, Part};
use crate::rpc::reply::{self, Reply, ReplyKind};
use crate::rpc::sse;
use crate::rules::Rules;
use crate::session::{NotYours, Owner, SESSION_HEADER, SessionId};
use crate::types::DecisionId;

/// What one request of a batch came with.
pub(super) struct Shared {
    pub connection: Arc<Connection>,
    pub rules: Arc<Rules>,
    pub head: Parts,
    pub caller: Identified,
    /// The memory of the whole batch.
    pub _held: Held,
}

impl Pipeline {
    /// Whether the body is a batch that is to be split: its server's entry says so, its caller is known, and nothing in the
    /// request says that another revision was agreed on.
    pub(super) fn is_to_split(
        &self,
        connection: &Connection,
        head: &Parts,
        caller: &Identified,
        body: &Bytes,
    ) -> bool {
        let server = &connection.server;
        let Ok((caller, Ok(()))) = caller else { return false };
        if server.batches != Batches::Split
            || !(connection.is_tls || connection.may_be_plain())
            || head.method != Method::POST
            || head.uri.path() != server.path
            || !batch::is_batch(body)
            || !takes_events(&head.headers)
        {
            return false;
        }
        let named = head.headers.get("mcp-protocol-version").map(HeaderValue::as_bytes);
        let session = head.headers.get(SESSION_HEADER).and_then(|id| SessionId::parse(id.as_bytes()).ok());
        let owner = Owner::of(caller, connection.client());
        let agreed = session.and_then(|id| self.sessions.version(&server.name, &id, &owner));
        named.is_none_or(|version| version == BATCH_VERSION.as_bytes())
            && agreed.is_none_or(|version| version == BATCH_VERSION)
    }

    /// Answers a batch.
    pub(super) async fn handle_batch(self: &Arc<Self>, shared: Shared, body: &Bytes) -> Response<Body> {
        let bounds = (self.limits.json_depth_max, self.limits.batch_messages_max);
        let messages = match batch::split(&shared.head.headers, body, bounds) {
            Ok(messages) => messages,
            Err(error) => return self.refuse_batch(&shared, body.len(), error.into()).await,
        };
        // On a session that is over all of it is refused, and in the form at which a client opens a new one.
        if let Err(refused) = self.enter(&shared) {
            return self.refuse_batch(&shared, body.len(), refused.into()).await;
        }
        if messages.iter().any(|message| message.request.is_some()) {
            let (events, stream) = mpsc::channel(1);
            tokio::spawn(Arc::clone(self).answer_each(shared, messages, events));
            let mut response = Response::new(Body::Stream(Box::pin(Stream(stream))));
            let head = response.headers_mut();
            head.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
            head.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            return response;
        }
        for message in messages {
            drop(self.handle_next(&shared, &message).await);
        }
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::ACCEPTED;
        response
    }

    /// Each message is judged by the rules that are in force when its turn comes.
    async fn handle_next(&self, shared: &Shared, message: &Part) -> Response<Body> {
        let Shared { connection, head, .. } = shared;
        let rules = self.rules.load();
        let caller = identify(&rules, connection, &head.headers).await;
        self.handle_one(connection, &rules, head, &caller, Ok(message.raw.clone())).await
    }

    /// Whether the session that it names is its agent's.
    fn enter(&self, shared: &Shared) -> Result<(), NotYours> {
        let named = shared.head.headers.get(SESSION_HEADER).map(|id| SessionId::parse(id.as_bytes()));
        if let (Some(id), Ok((caller, Ok(())))) = (named, &shared.caller) {
            let owner = Owner::of(caller, shared.connection.client());
            self.sessions.enter(&shared.connection.server.name, &id?, &owner, None)?;
        }
        Ok(())
    }

    async fn refuse_batch(&self, shared: &Shared, bytes: usize, refusal: Refusal) -> Response<Body> {
        let mut case =
            Case::open(DecisionId::random(), &shared.connection, Arc::clone(&shared.rules), &shared.head);
        case.body_bytes = bytes;
        case.caller = shared.caller.as_ref().ok().map(|(caller, _)| caller.clone());
        self.refuse(&case, refusal).await
    }

    /// Ends when its client goes: what is under way is then dropped, and recorded like any call that was given up.
    async fn answer_each(self: Arc<Self>, shared: Shared, messages: Vec<Part>, events: mpsc::Sender<Bytes>) {
        let all = async {
            for message in messages {
                let answer = self.handle_next(&shared, &message).await;
                if pass_on(answer, &message, &events).await.is_none() {
                    return;
                }
            }
        };
        tokio::select! {
            () = all => {}
            () = events.closed() => {}
        }
    }
}

/// One answer as events. `None`: nobody takes them any more.
async fn pass_on(answer: Response<Body>, message: &Part, events: &mpsc::Sender<Bytes>) -> Option<()> {
    let Some(id) = &message.request else { return Some(()) };
    let (head, body) = answer.into_parts();
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let whole = match body {
        // Only events that were read one by one come so.
        Body::Stream(mut stream) => {
            while let Some(Ok(frame)) = stream.frame().await {
                if let Ok(bytes) = frame.into_data() {
                    events.send(bytes).await.ok()?;
                }
            }
            return Some(());
        }
        whole @ Body::Whole(_) => whole.collect().await.map(http_body_util::Collected::to_bytes),
    };
    let Ok(whole) = whole;
    // The guard's own: a server's events come as a stream, or not at all.
    if kind == b"text/event-stream" {
        return events.send(whole).await.ok();
    }
    // What comes with another status than success has gone by unread.
    let is_error = || matches!(reply::look(&whole), Ok(Reply { id: Some(of), kind: ReplyKind::Error { .. } }) if of == *id);
    let is_message = kind.starts_with(b"application/json") && !whole.is_empty();
    let is_read = is_message && (head.status.is_success() || is_error());
    let event = if is_read { sse::event(&whole) } else { respond::http_failure(id, head.status) };
    events.send(event).await.ok()
}

/// The protocol has clients take both; only the stream fits answers that come one by one.
fn takes_events(head: &HeaderMap) -> bool {
    let mut accepted = head.get_all(http::header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("text/event-stream"))
}

/// What comes over the channel.
struct Stream(mpsc::Receiver<Bytes>);

impl HttpBody for Stream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(cx).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
    }
}
