//! Passes a server's events on, each as soon as it is whole, and writes the closing record when they end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;

use super::link::{Link, Links};
use super::refuse::{self, Asked};
use super::relay::NO_MEMORY;
use super::view::View;
use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::http::Held;
use crate::refusal::Refusal;
use crate::rpc::sse::{Events, Piece, StreamFault};
use crate::session::SessionId;
use crate::upstream::ReplyBody;

/// The events of one reply on their way to the client. When the client goes away this is dropped, and with it the
/// connection to the server: that is how both eras tell a server that nobody listens any more.
pub(super) struct ReplyStream {
    body: ReplyBody,
    events: Events,
    view: View,
    asked: Asked,
    outcome: Outcome,
    asked_at: Instant,
    /// Present while the call is open.
    permit: Option<Permit>,
    /// Whole pieces that the client has not taken yet: those of one chunk, so as many bytes as the server sent at
    /// once. Nothing more is read from the server meanwhile.
    ready: VecDeque<Bytes>,
    /// The memory of the event under way and of the last chunk.
    held: Held,
    /// Of HTTP+SSE.
    session: Option<Session>,
}

/// What a stream of HTTP+SSE has beyond others.
struct Session {
    link: Arc<Link>,
    links: Links,
    /// Where its client posts, once the first event has said so.
    path: Option<SessionId>,
    /// The guard's own answers to posted messages.
    told: mpsc::Receiver<Bytes>,
    /// Ends when the session is to.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Session {
    fn new(links: &Links) -> Self {
        let (link, told) = Link::new();
        Self { link, links: links.clone(), path: None, told, over: Box::pin(std::future::pending()) }
    }
}

impl ReplyStream {
    pub(super) fn new(
        body: ReplyBody,
        view: View,
        asked: Asked,
        (permit, asked_at): (Permit, Instant),
        outcome: &Outcome,
        (event_bytes_max, held): (usize, Held),
        links: &Links,
    ) -> Self {
        let session = view.claim.opens_stream().then(|| Session::new(links));
        let events = Events::new(event_bytes_max);
        let outcome = Outcome { result: OutcomeResult::StreamEnded, ..outcome.clone() };
        Self {
            body,
            events,
            view,
            asked,
            outcome,
            asked_at,
            permit: Some(permit),
            ready: VecDeque::new(),
            held,
            session,
        }
    }

    /// Cuts what has come into pieces and reads each. On a fault the client gets an error for its request as the
    /// last event, if it waits for one.
    fn read_events(&mut self) {
        loop {
            let fault = match self.events.next_piece() {
                Ok(Some(piece)) => match self.pass(piece) {
                    Ok(None) => continue,
                    Ok(Some(bytes)) => {
                        self.outcome.response_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                        self.ready.push_back(bytes);
                        continue;
                    }
                    Err(fault) => fault,
                },
                Ok(None) => return,
                Err(StreamFault::TooLarge) => "an event is longer than limits.event_bytes_max",
                Err(StreamFault::Unclear) => "clients differ on where its events end",
            };
            self.cut_off(fault);
            return;
        }
    }

    fn cut_off(&mut self, fault: &'static str) {
        if let Some(message) = refuse::message(&self.asked, &Refusal::Answer(fault)) {
            self.ready.push_back(format!("event: message\ndata: {message}\n\n").into());
        }
        tracing::warn!(decision = %self.asked.decision, fault, "a server's stream was cut off");
        self.conclude(OutcomeResult::UpstreamFailed);
    }

    /// `None`: the client does not get this one.
    fn pass(&mut self, piece: Piece) -> Result<Option<Bytes>, &'static str> {
        if let Some(id) = &piece.id {
            self.view.claim.take_event(id);
        }
        // Comments, the empty events by which servers make a stream resumable, and events that no client takes for
        // a message.
        if let Some(session) = &mut self.session
            && piece.event.as_deref() == Some(b"endpoint")
        {
            let path = self.view.claim.take_endpoint(&piece.data)?;
            session.links.add(&self.view.server.name, &path, &session.link);
            session.over = Box::pin(self.view.claim.until_over());
            let bytes = piece.with_data(path.as_str().as_bytes());
            session.path = Some(path);
            return Ok(Some(bytes));
        }
        if !piece.is_message() {
            return Ok(Some(piece.raw));
        }
        self.outcome.events += 1;
        let data = piece.data.clone();
        let passed = match &self.session {
            Some(session) => session.link.pass(data, &self.view)?,
            None => self.view.pass(data)?,
        };
        if let Some(answer) = passed.answer {
            self.outcome.result = answer.result;
            self.outcome.error_code = answer.error_code;
        }
        Ok(passed.data.map(|data| piece.passing(&data)))
    }

    fn conclude(&mut self, result: OutcomeResult) {
        if let Some(permit) = self.permit.take() {
            self.outcome.result = result;
            self.outcome.duration = self.asked_at.elapsed();
            permit.conclude(&self.outcome);
        }
    }
}

impl HttpBody for ReplyStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        loop {
            ready!(this.view.claim.poll_written(cx));
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.permit.is_none() {
                return Poll::Ready(None);
            }
            if let Some(session) = &mut this.session {
                if session.over.as_mut().poll(cx).is_ready() {
                    this.conclude(OutcomeResult::StreamEnded);
                    continue;
                }
                if let Poll::Ready(Some(told)) = session.told.poll_recv(cx) {
                    this.ready.push_back(told);
                    continue;
                }
            }
            // Less than before, so it is there.
            let _held = this.held.hold(this.events.rest().len());
            match ready!(Pin::new(&mut this.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if this.held.take(chunk.len()) => {
                        this.events.push(chunk);
                        this.read_events();
                    }
                    Ok(_chunk) => this.cut_off(NO_MEMORY),
                    Err(_trailers) => {}
                },
                // The client's stream ends in good order either way: it asks again, or resumes.
                Some(Err(_broken)) => this.conclude(OutcomeResult::UpstreamFailed),
                None => this.conclude(this.outcome.result),
            }
        }
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        self.conclude(OutcomeResult::ClientGone);
        if let Some(Session { links, path: Some(path), .. }) = &self.session {
            links.remove(&self.view.server.name, path);
            self.view.claim.end_stream();
        }
    }
}
