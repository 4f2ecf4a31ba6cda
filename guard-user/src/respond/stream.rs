//! Passes a server's events on, each as soon as it is whole, and writes the closing record when they end.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame};
use tokio::sync::mpsc;
use tokio::time::{Sleep, sleep};

use super::Elsewhere;
use super::link::{self, Link, Links};
use super::refuse::{self, Asked};
use super::relay::NO_MEMORY;
use super::suspended::{Call, Resumed, Suspended};
use super::view::View;
use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::config::Limits;
use crate::http::Held;
use crate::refusal::{Refusal, bad_answer};
use crate::rpc::Era;
use crate::rpc::sse::{Events, Piece, StreamFault};
use crate::session::{Gets, SessionId};
use crate::upstream::{self, ReplyBody};

/// The events of one reply on their way to the client. When the client goes away this is dropped, and with it the
/// connection to the server: that is how both eras tell a server that nobody listens any more.
pub struct ReplyStream {
    body: ReplyBody,
    events: Events,
    view: Arc<View>,
    asked: Asked,
    outcome: Outcome,
    asked_at: Instant,
    /// An event had an id, by which a session's client may resume the stream.
    is_resumable: bool,
    /// The request has its answer.
    is_answered: bool,
    /// Present while the call is open.
    permit: Option<Permit>,
    /// Whole pieces that the client has not taken yet: those of one chunk, so as many bytes as the server sent at
    /// once. Nothing more is read from the server meanwhile.
    ready: VecDeque<Bytes>,
    /// How long the server may take for the rest of an event, and the end of that for the one under way.
    patience: Duration,
    late: Option<Pin<Box<Sleep>>>,
    /// The memory of the event under way and of the last chunk.
    held: Held,
    /// Of HTTP+SSE.
    session: Option<Session>,
    suspended: Suspended,
    /// Of a GET that resumes a stream.
    _resumed: Option<Resumed>,
    /// What ends it before its time, and why.
    cuts: Vec<Pin<Box<dyn Future<Output = Refusal> + Send>>>,
}

/// What a stream of HTTP+SSE has beyond others.
struct Session {
    link: Arc<Link>,
    links: Links,
    /// Where its client posts, once the first event has said so.
    path: Option<SessionId>,
    /// The guard's own answers to posted messages.
    told: mpsc::Receiver<Bytes>,
    /// Ends when the stream is to.
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Session {
    fn new(links: &Links) -> Self {
        let (link, told) = Link::new();
        let over = Box::pin(link.until_over());
        Self { link, links: links.clone(), path: None, told, over }
    }
}

impl ReplyStream {
    pub(super) fn new(
        body: ReplyBody,
        view: View,
        asked: Asked,
        (mut permit, asked_at): (Permit, Instant),
        outcome: &Outcome,
        (limits, held): (&Limits, Held),
        elsewhere: &Elsewhere,
    ) -> Self {
        let Elsewhere { links, suspended } = elsewhere;
        permit.streams();
        let session = view.claim.opens_stream().then(|| Session::new(links));
        let goes_on = session.is_none() && view.claim.gets_stream() == Some(Gets::Resumed);
        let resumed = goes_on.then(|| suspended.resume(view.claim.scope()));
        let events = Events::new(limits.event_bytes_max);
        let outcome = Outcome { result: OutcomeResult::StreamEnded, ..outcome.clone() };
        Self {
            body,
            events,
            view: Arc::new(view),
            asked,
            outcome,
            asked_at,
            is_resumable: false,
            is_answered: false,
            permit: Some(permit),
            ready: VecDeque::new(),
            patience: Duration::from_secs(limits.event_seconds),
            late: None,
            held,
            session,
            suspended: suspended.clone(),
            _resumed: resumed,
            cuts: Vec::new(),
        }
    }

    /// It also ends when `cut` does.
    pub(super) fn ends_with(&mut self, cut: impl Future<Output = Refusal> + Send + 'static) {
        self.cuts.push(Box::pin(cut));
    }

    fn poll_cuts(&mut self, cx: &mut Context<'_>) {
        let is_open = self.permit.is_some() || !self.ready.is_empty();
        let mut cuts = self.cuts.iter_mut().filter(|_| is_open);
        let why = cuts.find_map(|cut| match cut.as_mut().poll(cx) {
            Poll::Ready(why) => Some(why),
            Poll::Pending => None,
        });
        if let Some(why) = why {
            // None of them may be asked again.
            self.cuts.clear();
            self.cut(&why);
        }
    }

    /// Nothing more of it goes to the client but why, if it waits for an answer.
    fn cut(&mut self, why: &Refusal) {
        self.ready.clear();
        if self.permit.is_some() {
            if !self.view.listens {
                self.fail(why);
            }
            tracing::info!(decision = %self.asked.decision, reason = why.reason(), "a stream was cut off");
            self.outcome.reason = Some(why.reason());
            self.conclude(OutcomeResult::CutOff);
        }
    }

    /// Cuts what has come into pieces and reads each. On a fault the client gets an error for its request as the
    /// last event, if it waits for one.
    fn read_events(&mut self) {
        loop {
            let fault = match self.events.next_piece() {
                Ok(Some(piece)) => {
                    self.late = None;
                    match self.pass(piece) {
                        Ok(None) => continue,
                        Ok(Some(bytes)) => {
                            self.outcome.response_bytes += u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                            self.ready.push_back(bytes);
                            continue;
                        }
                        Err(fault) => fault,
                    }
                }
                Ok(None) => return,
                Err(StreamFault::TooLarge) => "an event is longer than limits.event_bytes_max",
                Err(StreamFault::Unclear) => "clients differ on where its events end",
            };
            self.cut_off(fault);
            return;
        }
    }

    fn cut_off(&mut self, fault: &'static str) {
        self.fail(&Refusal::Answer(fault));
        self.outcome.reason = Some(bad_answer());
        tracing::warn!(decision = %self.asked.decision, fault, "a server's stream was cut off");
        self.conclude(OutcomeResult::UpstreamFailed);
    }

    /// The last events: an error for each request that waits, which would otherwise wait for as long as its client has
    /// patience. Whether one did.
    fn fail(&mut self, why: &Refusal) -> bool {
        let failed = match &self.session {
            Some(session) => session.link.fail_all(why),
            None if self.is_answered => Vec::new(),
            None => refuse::message(&self.asked, why).iter().map(link::event).collect(),
        };
        let any = !failed.is_empty();
        self.ready.extend(failed);
        any
    }

    /// Nothing has come of the event under way. Whether its end is late. While the client is what is slow, this is not asked.
    fn is_late(&mut self, cx: &mut Context<'_>) -> bool {
        if self.events.rest().is_empty() {
            return false;
        }
        let patience = self.patience;
        self.late.get_or_insert_with(|| Box::pin(sleep(patience))).as_mut().poll(cx).is_ready()
    }

    /// The server has ended its stream.
    fn end(&mut self, result: OutcomeResult) {
        if self.may_be_resumed() {
            return self.suspend(result);
        }
        let ended = Refusal::Upstream(upstream::Error::Ended);
        let failed = !self.view.listens && self.fail(&ended);
        if failed && self.session.is_none() {
            self.outcome.reason = Some(ended.reason());
        }
        self.conclude(match result {
            _ if self.is_answered => self.outcome.result,
            _ if failed && self.session.is_none() => OutcomeResult::UpstreamFailed,
            result => result,
        });
    }

    /// Whether its client can come back for the answer.
    fn may_be_resumed(&self) -> bool {
        self.is_resumable
            && !self.is_answered
            && self.asked.era == Era::Legacy
            // Without a session the ids of calls are everybody's.
            && self.view.claim.session().is_some()
            && self.view.waits_for.is_some()
    }

    /// The call waits for its client to come back, and ends like this if it does not.
    fn suspend(&mut self, result: OutcomeResult) {
        if let Some(permit) = self.permit.take() {
            let outcome = Outcome { result, duration: self.asked_at.elapsed(), ..self.outcome.clone() };
            let (view, asked) = (Arc::clone(&self.view), self.asked.clone());
            self.suspended.add(Call::new(view, asked, (permit, self.asked_at), outcome));
        }
    }

    /// `None`: the client does not get this one.
    fn pass(&mut self, piece: Piece) -> Result<Option<Bytes>, &'static str> {
        if let Some(id) = &piece.id {
            self.is_resumable |= !id.is_empty();
            self.view.claim.take_event(id);
        }
        if let Some(session) = &mut self.session
            && piece.event.as_deref() == Some(b"endpoint")
        {
            // Nobody else has this view.
            let view = Arc::get_mut(&mut self.view).ok_or("its session cannot be told")?;
            let path = view.claim.take_endpoint(&piece.data)?;
            session.links.add(&self.view.server.name, &path, &session.link);
            let (over, done) = (self.view.claim.until_over(), session.link.until_over());
            session.over = Box::pin(async move {
                tokio::select! {
                    () = over => {}
                    () = done => {}
                }
            });
            let bytes = piece.with_data(path.as_str().as_bytes());
            session.path = Some(path);
            return Ok(Some(bytes));
        }
        // Comments, the empty events by which servers make a stream resumable, and events that no client takes for
        // a message.
        if !piece.is_message() {
            let has_withdrawn = match &self.session {
                Some(session) => session.link.has_withdrawn(&self.view),
                None => self.view.claim.gets_stream().is_some() && self.suspended.has_withdrawn(&self.view),
            };
            return Ok((!has_withdrawn && self.view.may_pass(&piece.raw)).then_some(piece.raw));
        }
        self.outcome.events += 1;
        let data = piece.data.clone();
        let passed = match &self.session {
            Some(session) => session.link.pass(data, &self.view)?,
            None if self.view.claim.gets_stream().is_some() => self.suspended.pass(data, &self.view)?,
            None => self.view.pass(data)?,
        };
        // What comes on the stream of a session answers calls of their own.
        if let (Some(answer), None) = (passed.answer, &self.session) {
            self.is_answered = true;
            self.outcome.result = answer.result;
            self.outcome.error_code = answer.error_code;
            self.outcome.reason = answer.reason;
        }
        let is_looked_into = self.view.binds();
        Ok(passed.data.map(|data| if is_looked_into { piece.bare(&data) } else { piece.passing(&data) }))
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
            this.poll_cuts(cx);
            ready!(this.view.claim.poll_written(cx));
            if let Some(bytes) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(bytes))));
            }
            if this.permit.is_none() {
                return Poll::Ready(None);
            }
            if let Some(session) = &mut this.session {
                if session.over.as_mut().poll(cx).is_ready() {
                    this.cut(&Refusal::SessionOver);
                    continue;
                }
                if let Poll::Ready(Some(told)) = session.told.poll_recv(cx) {
                    this.ready.push_back(told);
                    continue;
                }
            }
            // Less than before, so it is there.
            let _held = this.held.hold(this.events.rest().len());
            let Poll::Ready(frame) = Pin::new(&mut this.body).poll_frame(cx) else {
                if !this.is_late(cx) {
                    return Poll::Pending;
                }
                this.cut_off("an event did not end within limits.event_seconds");
                continue;
            };
            match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) if this.held.take(chunk.len()) => {
                        this.events.push(chunk);
                        this.read_events();
                    }
                    Ok(_chunk) => this.cut_off(NO_MEMORY),
                    Err(_trailers) => {}
                },
                // The client's stream ends in good order either way.
                Some(Err(_broken)) => this.end(OutcomeResult::UpstreamFailed),
                None => this.end(OutcomeResult::StreamEnded),
            }
        }
    }
}

impl Drop for ReplyStream {
    fn drop(&mut self) {
        if self.may_be_resumed() {
            self.suspend(OutcomeResult::ClientGone);
        }
        // Many clients leave as soon as they have their answer.
        let has_answer = self.is_answered && self.ready.is_empty();
        self.conclude(if has_answer { self.outcome.result } else { OutcomeResult::ClientGone });
        if let Some(Session { links, link, path: Some(path), .. }) = &self.session {
            links.remove(&self.view.server.name, path, link);
            self.view.claim.end_stream();
        }
    }
}
