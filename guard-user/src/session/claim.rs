//! What one request uses of what its agent was given, and what its answer may give it.

use std::borrow::Cow;
use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, response};

use super::context::{Reading, Said};
use super::errand::{Errand, Errands, What};
use super::{
    Adopted, Cause, Going, Gone, Logical, Made, NewSession, Owner, Pending, Refused, Round, SessionId,
    SessionIdError, SessionKind, Sessions, Visit,
};
use crate::connection::Connection;
use crate::identity::Caller;
use crate::kernel::Door;
use crate::rpc::reply::Outcome;
use crate::rpc::{Era, Id, Kind, Message, Target, Words};
use crate::types::{DecisionId, LabelName, ServerName, Within};

pub const SESSION_HEADER: &str = "mcp-session-id";
const VERSION_HEADER: &str = "mcp-protocol-version";
/// The last event that a client had of a stream that broke off.
pub const EVENT_HEADER: &str = "last-event-id";
/// Of the host and version that are kept with a session; longer ones are left out of the guard's own requests.
const KEPT_BYTES_MAX: usize = 256;

/// Why a request may not use what it names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotYours {
    #[error("{0}")]
    BadSession(#[from] SessionIdError),
    #[error("no session with this id is open for this agent; open a new one with `initialize`")]
    Session(Cause),
    #[error(
        "no event with this id was sent to this agent on this session; open a new stream without Last-Event-ID"
    )]
    Event,
    #[error("Task not found: {0}")]
    Task(String),
    #[error("the request state is not one that was given to this agent; make the call anew without it")]
    State,
}

impl From<Refused> for NotYours {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::Unknown(cause) => Self::Session(cause),
            Refused::Taken | Refused::TooLong => Self::Session(Cause::AnotherAgents),
        }
    }
}

/// Within what the ids of requests and events mean something: a session, or all that an agent does without one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Scope {
    pub server: ServerName,
    pub session: Option<SessionId>,
    pub owner: Owner,
}

/// Made for one request and kept until the last byte of its answer.
pub struct Claim {
    sessions: Arc<Sessions>,
    errands: Errands,
    server: ServerName,
    /// The server's endpoint of Streamable HTTP.
    path: String,
    door: Door,
    owner: Owner,
    /// What the guard's own requests because of this one need of its headers.
    kept: HeaderMap,
    /// It names a session that its server must not hear of.
    hides_session: bool,
    session: Option<SessionId>,
    visit: Option<Visit>,
    within: Within,
    /// What its agent has read counts as read in this.
    reading: Reading,
    /// What its answer does to the session.
    step: Step,
    is_modern: bool,
    gets: Option<Gets>,
    /// The tool that is called: the answer may say that it has become a task.
    tool: Option<String>,
    /// The call that a task's result belongs to.
    made: Option<Made>,
    logical: Option<Logical>,
    /// The call that this request goes on with.
    round: Option<Going>,
    decision: DecisionId,
    /// Number of its answer's events.
    stream: u64,
    /// What is to be written before its client hears of it.
    pending: Pending,
}

/// A stream of the server's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gets {
    New,
    /// From the event on that the client names.
    Resumed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Opens,
    /// Opens a stream of HTTP+SSE, whose first event names the path to post to.
    OpensStream,
    /// Posts to such a path.
    Posts,
    Uses,
    Ends,
}

impl Claim {
    /// Looks at everything in the request that was given to somebody.
    pub fn check(
        sessions: &Arc<Sessions>,
        errands: &Errands,
        connection: &Connection,
        caller: &Caller,
        (head, message): (&Parts, Option<&Message>),
        decision: DecisionId,
    ) -> Result<Self, NotYours> {
        let owner = Owner::of(caller, connection.client());
        let server = &connection.server.name;
        let step = step(head, message, connection);
        let is_modern = message.is_some_and(|message| message.era() == Era::Modern);
        let reading = sessions.contexts.enter(&owner);
        let mut claim = Self {
            reading,
            sessions: Arc::clone(sessions),
            errands: errands.clone(),
            server: server.clone(),
            path: connection.server.path.clone(),
            door: connection.door,
            kept: kept(head, connection.server.forward_authorization),
            hides_session: false,
            session: None,
            visit: None,
            within: Within::Nothing,
            step,
            is_modern,
            gets: gets(head),
            tool: message.and_then(called_tool),
            made: None,
            logical: message.and_then(|message| Logical::of(server, message)),
            round: None,
            decision,
            owner,
            stream: sessions.new_stream(),
            pending: Pending::default(),
        };
        if let Some(id) = head.headers.get(SESSION_HEADER) {
            claim.enter(id)?;
        }
        if claim.step == Step::Posts {
            let path = head.uri.path_and_query().map_or("", |path| path.as_str());
            let id = SessionId::parse(path.as_bytes())?;
            let visit = sessions.enter(server, &id, &claim.owner, None)?;
            (claim.session, claim.visit) = (Some(id), Some(visit));
        }
        if let Some(visit) = &claim.visit {
            claim.within = visit.within(message.is_some_and(is_call));
        }
        if let Some(event) = head.headers.get(EVENT_HEADER)
            && !sessions.may_resume(server, claim.session.as_ref(), &claim.owner, event.as_bytes())
        {
            return Err(NotYours::Event);
        }
        if let Some(message) = message
            && let Target::Task(id) = message.target()
        {
            claim.made = Some(claim.task(id)?);
        }
        if let Some(logical) = &claim.logical
            && message.is_some_and(Message::goes_on)
        {
            claim.round = sessions.go_on(logical, &claim.owner).map_err(|_stolen| NotYours::State)?;
        }
        Ok(claim)
    }

    fn enter(&mut self, id: &HeaderValue) -> Result<(), NotYours> {
        let id = SessionId::parse(id.as_bytes())?;
        let version = self.kept.get(VERSION_HEADER).and_then(|version| version.to_str().ok());
        match self.sessions.enter(&self.server, &id, &self.owner, version) {
            Ok(visit) => {
                (self.session, self.visit) = (Some(id), Some(visit));
                Ok(())
            }
            // A stateless request has no session, and without the header it can steal none. Its own goes on: some servers read
            // a request by another revision than its headers say.
            Err(_refused) if self.is_modern => {
                self.hides_session = true;
                Ok(())
            }
            Err(refused) => Err(refused.into()),
        }
    }

    /// The client's headers, less a session that is none.
    pub fn forwarded<'h>(&self, head: &'h HeaderMap) -> Cow<'h, HeaderMap> {
        if !self.hides_session {
            return Cow::Borrowed(head);
        }
        let mut head = head.clone();
        head.remove(SESSION_HEADER);
        Cow::Owned(head)
    }

    /// The session that the request uses.
    pub fn session(&self) -> Option<&SessionId> {
        self.session.as_ref()
    }

    /// How far the session was when the request came.
    pub fn within(&self) -> Within {
        self.within
    }

    /// How far it is by now, for what its server asks.
    pub fn within_now(&self) -> Within {
        self.visit.as_ref().map_or(Within::Nothing, |visit| visit.within(false))
    }

    pub fn scope(&self) -> Scope {
        Scope { server: self.server.clone(), session: self.session.clone(), owner: self.owner.clone() }
    }

    /// Whether the request is for a stream of the server's own, and resumes one.
    pub fn gets_stream(&self) -> Option<Gets> {
        self.gets
    }

    /// Whether its session was ended; without one it never is.
    pub fn session_is_over(&self) -> bool {
        self.visit.as_ref().is_some_and(Visit::is_over)
    }

    /// The call to which the task belongs that is asked for.
    pub fn made(&self) -> Option<&Made> {
        self.made.as_ref()
    }

    /// The call that this request goes on with: it was judged and counted already.
    pub fn round(&self) -> Option<&Round> {
        self.round.as_ref().map(Going::round)
    }

    /// The request goes to its server: what it goes on with is used up.
    pub fn spend(&self) {
        if let Some(going) = &self.round {
            going.spend();
        }
    }

    /// Ends when the session does, or when what the agent has read is cleared.
    pub fn until_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let over = self.visit.as_ref().map(Visit::until_over);
        let cleared = self.reading.until_over();
        async move {
            match over {
                Some(over) => tokio::select! {
                    () = over => {}
                    () = cleared => {}
                },
                None => cleared.await,
            }
        }
    }

    /// The labels of what the agent has read.
    pub fn read(&self) -> Vec<LabelName> {
        self.sessions.contexts.read(&self.reading)
    }

    /// Notes that something with this label may go to the agent. On an error it must not: nobody would know after a crash.
    pub async fn raise(&self, label: &LabelName) -> std::io::Result<()> {
        self.sessions.contexts.raise(&self.reading, label).await
    }

    /// What is about to be said, beside what the agent said before.
    pub fn said(&self, words: Words) -> Said {
        self.sessions.contexts.compare(&self.reading, &self.server, words)
    }

    /// Takes note of what the head of the answer says about the session.
    pub fn take_head(&mut self, head: &response::Parts) -> Result<(), &'static str> {
        // A stateless server says so of a method that it does not know, and one without streams of every GET.
        let is_denied = head.status == StatusCode::NOT_FOUND && !self.is_modern && self.gets.is_none();
        let is_success = head.status.is_success();
        if let (Some(id), Some(visit)) = (&self.session, &self.visit) {
            if self.step == Step::Ends && is_success {
                self.sessions.forget(&self.server, id, visit, Gone::Ended);
            } else if is_denied {
                self.sessions.forget(&self.server, id, visit, Gone::Denied);
            } else if is_success && !self.is_modern && visit.is_denied() {
                self.sessions.revive(&self.server, id, visit);
            }
        }
        let mut given = head.headers.get_all(SESSION_HEADER).iter();
        let Some(id) = given.next() else { return Ok(()) };
        let id = SessionId::parse(id.as_bytes()).ok().filter(|_| given.next().is_none());
        let id = id.ok_or("its Mcp-Session-Id is not one that every client reads alike")?;
        // In the stateless revision the word means nothing, and what a client does with it does not reach the server.
        let opens = self.step == Step::Opens;
        let means_nothing = (self.is_modern && !opens) || self.step == Step::OpensStream;
        if self.session.as_ref() == Some(&id) || means_nothing || !is_success {
            return Ok(());
        }
        // Whatever the request was: from now on the id is somebody's.
        self.adopt(id, SessionKind::Streamable)
    }

    fn adopt(&mut self, id: SessionId, kind: SessionKind) -> Result<(), &'static str> {
        let host = self.kept.get(HOST).and_then(|host| host.to_str().ok());
        let new = NewSession {
            server: self.server.clone(),
            id: id.clone(),
            owner: self.owner.clone(),
            netns: self.door.netns,
            port: self.door.port,
            listener: None,
            version: None,
            host: host.map(str::to_owned),
            kind,
        };
        let adopted = self.sessions.adopt(&new);
        let Adopted { visit, written } =
            adopted.map_err(|_taken| "its session is another agent's already")?;
        self.pending.add(written);
        (self.session, self.visit) = (Some(id), Some(visit));
        Ok(())
    }

    /// Whether the answer is a stream of HTTP+SSE.
    pub fn opens_stream(&self) -> bool {
        self.step == Step::OpensStream
    }

    /// The path of HTTP+SSE that this request was posted to.
    pub fn posted_to(&self) -> Option<&SessionId> {
        self.session.as_ref().filter(|_| self.step == Step::Posts)
    }

    /// Takes note of the path that the first event of HTTP+SSE names. Servers may write it as a URL: its scheme and host are
    /// those that the server knows of itself, and not the way through the guard.
    pub fn take_endpoint(&mut self, data: &[u8]) -> Result<SessionId, &'static str> {
        const FAULT: &str = "its endpoint event does not name a path of its own";
        if self.session.is_some() {
            return Err("it has more than one endpoint event");
        }
        let uri = std::str::from_utf8(data).ok().and_then(|text| text.trim().parse::<Uri>().ok());
        let path = uri.as_ref().and_then(Uri::path_and_query).ok_or(FAULT)?;
        let is_plain = path.path().starts_with('/')
            && !path.path().split('/').any(|part| part == "." || part == "..")
            && !path.path().starts_with("//")
            && path.path() != self.path
            && path.as_str().bytes().all(|byte| !b"\\\"{}<>^`|".contains(&byte))
            && !has_hidden_separator(path.path());
        let id = SessionId::parse(path.as_str().as_bytes()).ok().filter(|_| is_plain).ok_or(FAULT)?;
        self.adopt(id.clone(), SessionKind::Sse)?;
        Ok(id)
    }

    /// The stream of HTTP+SSE has ended, and its session with it.
    pub fn end_stream(&self) {
        if let (Step::OpensStream, Some(id), Some(visit)) = (self.step, &self.session, &self.visit) {
            self.sessions.remove(&self.server, id, visit);
        }
    }

    /// Takes note of an event's id.
    pub fn take_event(&self, id: &[u8]) {
        if !id.is_empty() {
            let event = (self.stream, id);
            self.sessions.saw_event(&self.server, self.session.as_ref(), &self.owner, event);
        }
    }

    /// Takes note of what a result gives to the client.
    pub fn take_result(&self, outcome: &Outcome) -> Result<(), &'static str> {
        if let (Step::Opens, Some(id), Some(version)) = (self.step, &self.session, &outcome.version) {
            self.sessions.agreed_on(&self.server, id, &self.owner, version);
        }
        if let (Some(tool), Some(id)) = (&self.tool, &outcome.task) {
            let decision = self.decision.to_string();
            let made = Made { owner: self.owner.clone(), tool: tool.clone(), decision };
            let bound = self.sessions.made_task(&self.server, id, &made);
            self.pending.add(bound.map_err(|refused| match refused {
                Refused::TooLong => "its task id is too long",
                Refused::Unknown(_) | Refused::Taken => "its task is another agent's already",
            })?);
        }
        if let (Some(logical), true) = (&self.logical, outcome.needs_input) {
            let (call, requests) =
                self.round().map_or((self.decision, 0), |round| (round.call, round.requests));
            self.sessions.wait_for_input(Round {
                logical: logical.clone().with_state(outcome.state.as_deref()),
                owner: self.owner.clone(),
                call,
                requests: requests.saturating_add(1),
            });
        }
        Ok(())
    }

    /// Ready when what the answer gives to the client is written down, and the client may hear of it.
    pub fn poll_written(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.pending.poll(cx)
    }

    /// The same, for who can wait.
    pub async fn written(&self) {
        poll_fn(|cx| self.poll_written(cx)).await;
    }

    /// Has this answer wait for what another request of its session was given.
    pub fn wait_for(&self, other: &Self) {
        self.pending.join(&other.pending);
    }

    /// The call that made a task, if it is the agent's.
    pub fn task(&self, id: &str) -> Result<Made, NotYours> {
        let made = self.sessions.task(&self.server, id, &self.owner);
        made.ok_or_else(|| NotYours::Task(id.to_owned()))
    }

    /// Has a server's request refused, in place of the client, which does not get it.
    pub fn refuse(&self, id: &Id, method: &str) {
        let mut head = self.kept.clone();
        let is_sse = matches!(self.step, Step::OpensStream | Step::Posts);
        let path = self.session.as_ref().filter(|_| is_sse).map(|path| path.as_str().to_owned());
        let session = self.session.as_ref().filter(|_| !is_sse);
        if let Some(session) = session.and_then(|id| HeaderValue::from_str(id.as_str()).ok()) {
            head.insert(SESSION_HEADER, session);
        }
        self.errands.leave(Errand {
            server: self.server.clone(),
            door: self.door,
            owner: self.owner.clone(),
            what: What::Refuse {
                head,
                path,
                id: serde_json::to_string(id).unwrap_or_default(),
                method: method.to_owned(),
            },
        });
    }
}

fn step(head: &Parts, message: Option<&Message>, connection: &Connection) -> Step {
    let method = &head.method;
    let server = &connection.server;
    if server.sse_path.is_some() && head.uri.path() != server.path {
        return if method == Method::POST { Step::Posts } else { Step::OpensStream };
    }
    match message {
        Some(message) if message.method() == "initialize" => Step::Opens,
        None if method == Method::DELETE => Step::Ends,
        _ => Step::Uses,
    }
}

/// Whether an escape stands for a separator or a dot: some read through it.
fn has_hidden_separator(path: &str) -> bool {
    let lower = path.to_ascii_lowercase();
    ["%2e", "%2f", "%5c"].iter().any(|escape| lower.contains(escape))
}

/// A few short headers: a request's own would be held for as long as its answer's stream.
fn kept(head: &Parts, forward_authorization: bool) -> HeaderMap {
    let names = [HOST, HeaderName::from_static(VERSION_HEADER), AUTHORIZATION];
    let names = names.into_iter().filter(|name| *name != AUTHORIZATION || forward_authorization);
    let short =
        |name: &HeaderName, value: &HeaderValue| *name == AUTHORIZATION || value.len() <= KEPT_BYTES_MAX;
    let mut kept: HeaderMap = names
        .filter_map(|name| head.headers.get(&name).cloned().map(|value| (name, value)))
        .filter(|(name, value)| short(name, value))
        .collect();
    // HTTP/2 clients say in `:authority` what HTTP/1.1 says in `Host`.
    if let (false, Some(authority)) = (kept.contains_key(HOST), head.uri.authority())
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
        && host.len() <= KEPT_BYTES_MAX
    {
        kept.insert(HOST, host);
    }
    kept
}

fn gets(head: &Parts) -> Option<Gets> {
    let resumes = head.headers.contains_key(EVENT_HEADER);
    (head.method == Method::GET).then_some(if resumes { Gets::Resumed } else { Gets::New })
}

fn called_tool(message: &Message) -> Option<String> {
    match message.target() {
        Target::Tool(name) => Some(name.to_owned()),
        _ => None,
    }
}

/// Whether it is counted as a call of its session. What is asked of a task belongs to the call that made it.
fn is_call(message: &Message) -> bool {
    message.target().is_thing() && matches!(message.kind(), Kind::Request { .. })
}
