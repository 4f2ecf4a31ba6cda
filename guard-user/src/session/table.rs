//! Sessions and whose they are. Pure: time is an argument, in milliseconds since 1970.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde::{Deserialize, Serialize};

use super::events::Events;
use super::task::TASK_ID_BYTES_MAX;
use super::visit::{Presence, Visit};
use super::{Owner, SessionId};
use crate::config::Limits;
use crate::kernel::Door;
use crate::types::{AgentName, ServerName};

/// Longest protocol version that is kept of a session, in bytes.
const VERSION_BYTES_MAX: usize = 32;
/// Sessions of which it is known why they are over.
const OVER_KEPT_MAX: usize = 4096;

/// A session that a server has just opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NewSession {
    pub server: ServerName,
    pub id: SessionId,
    pub owner: Owner,
    /// Network namespace and port where its server is.
    pub netns: u64,
    pub port: u16,
    /// Cookie of the listening socket by which its server was reached, as far as it is known.
    #[serde(default)]
    pub listener: Option<u64>,
    /// The protocol version that was agreed on, if it is known.
    pub version: Option<String>,
    /// What its client calls the server: some servers answer to one name only.
    pub host: Option<String>,
    pub kind: SessionKind,
}

/// How a session's messages go.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionKind {
    /// Streamable HTTP, with `Mcp-Session-Id`.
    #[default]
    Streamable,
    /// HTTP+SSE (2024-11-05): its id is the path that its client posts to, and it lives as long as its stream.
    Sse,
}

/// Why it may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Also what somebody else's is called: who asks must not learn that there is one. The cause is for the record alone.
    #[error("there is no such session here; open a new one")]
    Unknown(Cause),
    #[error("the server gave out what is another agent's already")]
    Taken,
    #[error("the server's id has more than {TASK_ID_BYTES_MAX} bytes")]
    TooLong,
}

/// What is known of a session that may not be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// No server gave it to anybody, as far as the guard remembers.
    Unknown,
    /// It is, or was, somebody else's.
    AnotherAgents,
    Over(Reason),
}

impl Cause {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::AnotherAgents => "another_agents",
            Self::Over(reason) => reason.as_str(),
        }
    }
}

/// Why a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// Nobody used it for `limits.session_idle_seconds`.
    SessionIdle,
    /// It is older than `limits.session_seconds_max`.
    SessionTooOld,
    /// Its agent opened more than `limits.sessions_per_agent_max`.
    SessionsTooMany,
    /// An operator ended it.
    SessionEnded,
    /// Its stream of HTTP+SSE has ended.
    StreamEnded,
    /// Its server was started again, and has given its id to somebody else.
    ServerRestarted,
}

impl Reason {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionIdle => "session_idle",
            Self::SessionTooOld => "session_too_old",
            Self::SessionsTooMany => "sessions_too_many",
            Self::SessionEnded => "session_ended",
            Self::StreamEnded => "stream_ended",
            Self::ServerRestarted => "server_restarted",
        }
    }
}

/// A session that is over here, and still to be closed at its server.
#[derive(Debug, Clone)]
pub struct Ended {
    pub server: ServerName,
    pub id: SessionId,
    pub owner: Owner,
    pub door: Door,
    pub version: Option<String>,
    pub host: Option<String>,
    pub kind: SessionKind,
    pub reason: Reason,
}

impl Ended {
    /// The headers of a request about it.
    pub fn head(&self) -> HeaderMap {
        let fields = [
            ("mcp-session-id", Some(self.id.as_str())),
            ("mcp-protocol-version", self.version.as_deref()),
            ("host", self.host.as_deref()),
        ];
        fields
            .into_iter()
            .filter_map(|(name, value)| {
                Some((HeaderName::from_static(name), HeaderValue::from_str(value?).ok()?))
            })
            .collect()
    }
}

/// A session, for tables.
#[derive(Debug, Clone, Serialize)]
pub struct Seen {
    /// [`SessionId::name`].
    pub session: String,
    pub server: ServerName,
    #[serde(flatten)]
    pub owner: Owner,
    pub version: Option<String>,
    /// Milliseconds since 1970.
    pub opened_at: u64,
    pub used_at: u64,
    /// Requests under way, open streams among them.
    pub requests: u32,
    pub state: Standing,
}

/// How it is with a session that is listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Standing {
    Open,
    /// Its server has said 404, and requests of it are under way.
    Denied,
    /// Its client has ended it, likewise.
    Ended,
}

struct Session {
    new: NewSession,
    opened_at: u64,
    presence: Arc<Presence>,
    events: Events,
    /// What its owner still asks of it, the server answers in its own words.
    gone: Option<Gone>,
}

/// Who says that a session is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    /// Its client, and its server agreed.
    Ended,
    /// Its server, by a 404. It may have meant something else, and still have it.
    Denied,
}

type Key = (ServerName, SessionId);

pub(super) struct Table {
    sessions: HashMap<Key, Session>,
    /// Which of them an agent has at a server.
    by_agent: HashMap<(ServerName, AgentName), HashSet<SessionId>>,
    over: Overs,
    pub(super) idle_milliseconds: u64,
    pub(super) milliseconds_max: u64,
    per_agent_max: usize,
}

impl Table {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            sessions: HashMap::new(),
            by_agent: HashMap::new(),
            over: Overs::default(),
            idle_milliseconds: limits.session_idle_seconds.saturating_mul(1000),
            milliseconds_max: limits.session_seconds_max.saturating_mul(1000),
            per_agent_max: limits.sessions_per_agent_max,
        }
    }

    pub(super) fn enter(
        &mut self,
        server: &ServerName,
        id: &SessionId,
        owner: &Owner,
        version: Option<&str>,
        now: u64,
    ) -> Result<Visit, Refused> {
        let (idle, longest) = (self.idle_milliseconds, self.milliseconds_max);
        let key = (server.clone(), id.clone());
        let Some(session) = self.sessions.get_mut(&key) else {
            return Err(Refused::Unknown(self.over.cause(&key, owner)));
        };
        if session.new.owner != *owner {
            return Err(Refused::Unknown(Cause::AnotherAgents));
        }
        // The next sweep takes a session away whose time is over; it is of no use before that already.
        if let Some(reason) = session.is_over(idle, longest, now) {
            return Err(Refused::Unknown(Cause::Over(reason)));
        }
        if let Some(version) = version.filter(|version| version.len() <= VERSION_BYTES_MAX)
            && session.new.version.as_deref() != Some(version)
        {
            session.new.version = Some(version.to_owned());
        }
        Ok(session.presence.visit(now))
    }

    pub(super) fn adopt(&mut self, new: NewSession, now: u64) -> Result<(Visit, Option<Ended>), Refused> {
        let key = (new.server.clone(), new.id.clone());
        if let Some(known) = self.sessions.get(&key).filter(|known| known.gone.is_none()) {
            if known.new.owner != new.owner {
                return Err(Refused::Taken);
            }
            // A path of HTTP+SSE has one stream: the one that named it last.
            if new.kind == SessionKind::Streamable {
                return Ok((known.presence.visit(now), None));
            }
        }
        let ended = self.make_room(&new, now);
        let presence = Presence::new(now);
        let visit = presence.visit(now);
        self.insert(Session { new, opened_at: now, presence, events: Events::default(), gone: None });
        Ok((visit, ended))
    }

    fn insert(&mut self, session: Session) {
        let NewSession { server, id, owner, .. } = &session.new;
        let key = (server.clone(), id.clone());
        // Its id may have been another's, who has ended it: what is still open there is not for this one.
        if let Some(before) = self.take(&key) {
            before.presence.end();
        }
        let of_agent = self.by_agent.entry((server.clone(), owner.agent.clone())).or_default();
        of_agent.insert(id.clone());
        self.sessions.insert(key, session);
    }

    fn take(&mut self, key: &Key) -> Option<Session> {
        let session = self.sessions.remove(key)?;
        let agent = (key.0.clone(), session.new.owner.agent.clone());
        if let Some(of_agent) = self.by_agent.get_mut(&agent) {
            of_agent.remove(&key.1);
            if of_agent.is_empty() {
                self.by_agent.remove(&agent);
            }
        }
        Some(session)
    }

    /// The session of the same agent goes that was not used for longest: who opens many loses his own.
    fn make_room(&mut self, new: &NewSession, now: u64) -> Option<Ended> {
        let of_agent = self.by_agent.get(&(new.server.clone(), new.owner.agent.clone()))?;
        if of_agent.len() < self.per_agent_max {
            return None;
        }
        // One that is gone goes first.
        // Who has come by the credential in another unit loses his own before those of its agent.
        let last = |other: &Session| {
            let is_others = other.new.owner != new.owner;
            (other.gone.is_none(), is_others, other.presence.used_at(now), other.opened_at)
        };
        let all =
            of_agent.iter().filter_map(|id| self.sessions.get_key_value(&(new.server.clone(), id.clone())));
        let key = all.min_by_key(|(_, other)| last(other)).map(|(key, _)| key.clone())?;
        let session = self.take(&key)?;
        self.finish(session, Reason::SessionsTooMany)
    }

    pub(super) fn version(&self, server: &ServerName, id: &SessionId, owner: &Owner) -> Option<String> {
        let session = self.sessions.get(&(server.clone(), id.clone()))?;
        session.new.version.clone().filter(|_| session.new.owner == *owner)
    }

    pub(super) fn has(&self, server: &ServerName, id: &SessionId) -> bool {
        self.sessions.get(&(server.clone(), id.clone())).is_some_and(|session| session.gone.is_none())
    }

    /// The session that `visit` is of, unless another one has its id by now.
    fn visited(&mut self, server: &ServerName, id: &SessionId, visit: &Visit) -> Option<&mut Session> {
        let session = self.sessions.get_mut(&(server.clone(), id.clone()))?;
        visit.is_of(&session.presence).then_some(session)
    }

    /// Whether it was open until now.
    pub(super) fn forget(&mut self, server: &ServerName, id: &SessionId, visit: &Visit, gone: Gone) -> bool {
        let Some(session) = self.visited(server, id, visit) else { return false };
        let was_open = session.gone.is_none();
        if was_open || gone == Gone::Ended {
            session.gone = Some(gone);
        }
        session.presence.deny(session.gone == Some(Gone::Denied));
        was_open
    }

    /// A session is there although its server had denied it. What to write down of it.
    pub(super) fn revive(
        &mut self,
        server: &ServerName,
        id: &SessionId,
        visit: &Visit,
    ) -> Option<(&NewSession, u64)> {
        let session = self.visited(server, id, visit)?;
        if session.gone != Some(Gone::Denied) {
            return None;
        }
        session.gone = None;
        session.presence.deny(false);
        Some((&session.new, session.opened_at))
    }

    /// Takes one out without a trace. Whether there was one.
    pub(super) fn remove(&mut self, server: &ServerName, id: &SessionId) -> bool {
        self.take(&(server.clone(), id.clone())).is_some()
    }

    /// The same, unless another one has its id by now.
    pub(super) fn remove_visited(&mut self, server: &ServerName, id: &SessionId, visit: &Visit) {
        let key = (server.clone(), id.clone());
        if self.visited(server, id, visit).is_some()
            && let Some(session) = self.take(&key)
        {
            self.over.add(key, session.new.owner, Reason::StreamEnded);
        }
    }

    /// By which listener an open session was opened.
    pub(super) fn listener(&self, server: &ServerName, id: &SessionId) -> Option<(Door, u64)> {
        let session = self.sessions.get(&(server.clone(), id.clone()))?;
        let NewSession { netns, port, listener, .. } = session.new;
        Some((Door { netns, port }, listener?))
    }

    /// Takes out a session that was opened by this listener. Its id is somebody else's now, so its server has nothing to close.
    pub(super) fn end_restarted(&mut self, server: &ServerName, id: &SessionId, by: (Door, u64)) -> bool {
        let is_meant = self.listener(server, id) == Some(by);
        let session = is_meant.then(|| self.take(&(server.clone(), id.clone()))).flatten();
        session.map(|session| self.finish(session, Reason::ServerRestarted)).is_some()
    }

    fn finish(&mut self, session: Session, reason: Reason) -> Option<Ended> {
        let NewSession { server, id, owner, .. } = &session.new;
        self.over.add((server.clone(), id.clone()), owner.clone(), reason);
        session.end(reason)
    }

    /// Takes out those whose time is over.
    pub(super) fn sweep(&mut self, now: u64) -> Vec<Ended> {
        let (idle, longest) = (self.idle_milliseconds, self.milliseconds_max);
        let over: Vec<(Key, Reason)> = self
            .sessions
            .iter()
            .filter_map(|(key, session)| Some((key.clone(), session.is_over(idle, longest, now)?)))
            .collect();
        let mut ended = Vec::new();
        for (key, reason) in over {
            ended.extend(self.take(&key).and_then(|session| self.finish(session, reason)));
        }
        ended
    }

    /// Takes out those that `ends` wants gone. Also how many of them only ended here: their servers know already.
    pub(super) fn end(&mut self, now: u64, ends: impl Fn(&Seen) -> bool) -> (Vec<Ended>, usize) {
        // Also one that its server has denied.
        let meant = || self.sessions.iter().filter(|(_, session)| ends(&session.seen(now)));
        let known = meant().filter(|(_, session)| session.gone == Some(Gone::Ended) && session.is_seen());
        let known = known.count();
        let keys: Vec<Key> = meant().map(|(key, _)| key.clone()).collect();
        let mut ended = Vec::new();
        for key in keys {
            ended.extend(self.take(&key).and_then(|session| self.finish(session, Reason::SessionEnded)));
        }
        (ended, known)
    }

    /// Also those that are gone, as long as something of them is under way.
    pub(super) fn list(&self, now: u64) -> Vec<Seen> {
        let listed = self.sessions.values().filter(|session| session.is_seen());
        let mut all: Vec<Seen> = listed.map(|session| session.seen(now)).collect();
        all.sort_by(|a, b| b.opened_at.cmp(&a.opened_at).then_with(|| a.session.cmp(&b.session)));
        all
    }

    /// How many of those each agent has.
    pub(super) fn by_agent(&self) -> BTreeMap<AgentName, usize> {
        let mut counts = BTreeMap::new();
        for session in self.sessions.values().filter(|session| session.is_seen()) {
            *counts.entry(session.new.owner.agent.clone()).or_default() += 1;
        }
        counts
    }

    /// The event ids of a session, if it is `owner`'s.
    pub(super) fn events(
        &mut self,
        server: &ServerName,
        id: &SessionId,
        owner: &Owner,
    ) -> Option<&mut Events> {
        let session = self.sessions.get_mut(&(server.clone(), id.clone()))?;
        (session.new.owner == *owner).then_some(&mut session.events)
    }

    /// Takes in what a former guard wrote down.
    pub(super) fn restore(&mut self, new: NewSession, opened_at: u64, used_at: u64, events: Vec<u64>) {
        let (presence, events) = (Presence::restored(opened_at, used_at), Events::restored(events));
        self.insert(Session { new, opened_at, presence, events, gone: None });
    }

    /// Each open session, when it was opened, and its event ids.
    pub(super) fn each(&self) -> impl Iterator<Item = (&NewSession, u64, &Events)> {
        let open = self.sessions.values().filter(|session| session.gone.is_none());
        open.map(|session| (&session.new, session.opened_at, &session.events))
    }

    pub(super) fn len(&self) -> usize {
        self.sessions.values().filter(|session| session.gone.is_none()).count()
    }
}

/// The last sessions that are over here, for the records of requests that still name them.
#[derive(Debug, Default)]
struct Overs {
    why: HashMap<Key, (Owner, Reason)>,
    /// The oldest first.
    order: VecDeque<Key>,
}

impl Overs {
    fn add(&mut self, key: Key, owner: Owner, reason: Reason) {
        if self.why.insert(key.clone(), (owner, reason)).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > OVER_KEPT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.why.remove(&oldest);
        }
    }

    fn cause(&self, key: &Key, owner: &Owner) -> Cause {
        match self.why.get(key) {
            Some((was, reason)) if was == owner => Cause::Over(*reason),
            Some(_) => Cause::AnotherAgents,
            None => Cause::Unknown,
        }
    }
}

impl Session {
    fn is_over(&self, idle_milliseconds: u64, milliseconds_max: u64, now: u64) -> Option<Reason> {
        if now.saturating_sub(self.opened_at) >= milliseconds_max {
            Some(Reason::SessionTooOld)
        } else if now.saturating_sub(self.presence.used_at(now)) >= idle_milliseconds {
            Some(Reason::SessionIdle)
        } else {
            None
        }
    }

    fn seen(&self, now: u64) -> Seen {
        Seen {
            session: self.new.id.name(),
            server: self.new.server.clone(),
            owner: self.new.owner.clone(),
            version: self.new.version.clone(),
            opened_at: self.opened_at,
            used_at: self.presence.used_at(now),
            requests: self.presence.visits(),
            state: match self.gone {
                None => Standing::Open,
                Some(Gone::Denied) => Standing::Denied,
                Some(Gone::Ended) => Standing::Ended,
            },
        }
    }

    fn is_seen(&self) -> bool {
        self.gone.is_none() || self.presence.visits() > 0
    }

    /// Ends its requests. `None`: its server knows already.
    fn end(self, reason: Reason) -> Option<Ended> {
        self.presence.end();
        if self.gone == Some(Gone::Ended) {
            return None;
        }
        let NewSession { server, id, owner, netns, port, version, host, kind, .. } = self.new;
        Some(Ended { server, id, owner, door: Door { netns, port }, version, host, kind, reason })
    }
}

#[cfg(test)]
mod tests;
