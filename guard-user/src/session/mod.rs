//! What a server gave to one agent, and nobody else may use: sessions, tasks, event ids to resume a stream from, and the
//! state of calls that wait for more input.
//!
//! `table`, `task`, `round` and `events` are the state and its rules, without I/O and clock; `journal` keeps them over
//! restarts. `claim` is what one request uses of them, and `errand` what the guard itself then has to ask a server.

mod ages;
mod claim;
mod clock;
mod context;
mod errand;
mod events;
mod id;
mod journal;
mod owner;
mod round;
mod table;
mod task;
mod visit;
mod written;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use claim::{Claim, EVENT_HEADER, Gets, NotYours, SESSION_HEADER, Scope};
pub use context::{Contexts, Said, SeenContext, Whose};
pub use errand::{Errand, Errands, LeftOut, ToDo, What};
pub use events::EVENT_ID_BYTES_MAX;
pub use id::{SESSION_ID_BYTES_MAX, SessionId, SessionIdError};
pub use owner::{Origin, Owner};
pub use round::{Going, Logical, ROUND_REQUESTS_MAX, ROUNDS_PER_AGENT_MAX, Round};
pub use table::{Cause, Ended, Gone, NewSession, Reason, Refused, Seen, SessionKind, Standing};
pub use task::{Made, TASK_ID_BYTES_MAX};
pub use visit::Visit;

use crate::config::Limits;
use crate::kernel::{Dialer, Door};
use crate::types::{AgentName, ServerName};
use clock::unix_milliseconds;
use events::{EventId, Streams};
use journal::Journal;
use round::Rounds;
use table::Table;
use task::Tasks;
use written::{Pending, Written};

/// All of it, for all servers. Each change is one short lock; none is held across an await, or while a disk is busy.
pub struct Sessions {
    state: Mutex<State>,
    tasks_per_agent_max: usize,
    events_max: usize,
    /// 0 is for those of a former guard.
    next_stream: AtomicU64,
    /// Knows which listeners are there.
    dialer: Dialer,
    /// Who has read what.
    pub contexts: Arc<Contexts>,
}

/// What became of a session that a server has opened.
pub struct Adopted {
    pub visit: Visit,
    written: Option<Written>,
}

/// What an operator's word has taken out.
#[derive(Debug)]
pub struct Taken {
    pub sessions: usize,
    /// Of these, those whose servers do not know yet.
    pub to_close: Vec<Ended>,
    pub tasks: usize,
}

struct State {
    table: Table,
    streams: Streams,
    tasks: Tasks,
    rounds: Rounds,
    journal: Journal,
    /// Had to make room, or gave their ids away: the next sweep takes them.
    ended: Vec<Ended>,
}

impl Sessions {
    /// What a former guard left in `state_dir`. A file that cannot be read is no reason to let anybody use a session that
    /// is not his: it is an error.
    pub fn open(state_dir: &Path, limits: &Limits, dialer: Dialer) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        clock::go_on(state_dir);
        Ok(Self {
            state: Mutex::new(State::open(state_dir, limits)?),
            tasks_per_agent_max: limits.tasks_per_agent_max,
            events_max: limits.resumable_events_max,
            next_stream: AtomicU64::new(1),
            dialer,
            contexts: Arc::new(Contexts::open(state_dir, limits)?),
        })
    }

    /// Whether [`Sessions::open`] could read what a former guard left. Changes nothing.
    pub fn check(state_dir: &Path, limits: &Limits) -> io::Result<()> {
        Contexts::check(state_dir)?;
        journal::load(state_dir, &mut Table::new(limits), &mut Tasks::default())
    }

    /// Lets a request use the session `id`, if it is `owner`'s. `version`: the protocol version that it names.
    pub fn enter(
        &self,
        server: &ServerName,
        id: &SessionId,
        owner: &Owner,
        version: Option<&str>,
    ) -> Result<Visit, Refused> {
        self.lock().table.enter(server, id, owner, version, unix_milliseconds())
    }

    /// Binds a session that a server has just opened. Its client is to be told once it is written.
    pub fn adopt(&self, new: &NewSession) -> Result<Adopted, Refused> {
        let listener = self.dialer.listener(Door { netns: new.netns, port: new.port });
        let new = NewSession { listener, ..new.clone() };
        match self.adopt_by(&new) {
            Err(Refused::Taken) if self.end_restarted(&new.server, &new.id) => self.adopt_by(&new),
            adopted => adopted,
        }
    }

    fn adopt_by(&self, new: &NewSession) -> Result<Adopted, Refused> {
        let now = unix_milliseconds();
        let mut state = self.lock();
        let State { table, journal, ended, .. } = &mut *state;
        let is_new = !table.has(&new.server, &new.id);
        let (visit, gone) = table.adopt(new.clone(), now)?;
        if let Some(gone) = gone {
            journal.ended(&gone.server, &gone.id);
            ended.push(gone);
        }
        let written = if is_new { journal.opened(new, now) } else { None };
        Ok(Adopted { visit, written })
    }

    /// Ends a session whose server does not listen any more with the socket by which it was opened: a server that counts its
    /// sessions begins anew when it is started again. Whether it was so.
    fn end_restarted(&self, server: &ServerName, id: &SessionId) -> bool {
        let Some((door, listener)) = self.lock().table.listener(server, id) else { return false };
        if self.dialer.has_listener(door, listener) {
            return false;
        }
        let mut state = self.lock();
        let is_over = state.table.end_restarted(server, id, (door, listener));
        if is_over {
            state.journal.ended(server, id);
            tracing::info!(session = id.name(), %server, "a session is over: its server was started again and gave its id away");
        }
        is_over
    }

    /// Takes out a session that ends with its stream.
    pub fn remove(&self, server: &ServerName, id: &SessionId, visit: &Visit) {
        self.lock().table.remove_visited(server, id, visit);
    }

    /// Forgets a session that its client or its server has ended. Only its owner can still name it, until it is idle for
    /// long enough, and gets the server's answer to that. Another one that has its id by now is not meant.
    pub fn forget(&self, server: &ServerName, id: &SessionId, visit: &Visit, gone: Gone) {
        let mut state = self.lock();
        if state.table.forget(server, id, visit, gone) {
            state.journal.ended(server, id);
        }
    }

    /// Takes a session back that its server had denied, and now serves. Another one with its id is not meant here either.
    pub fn revive(&self, server: &ServerName, id: &SessionId, visit: &Visit) {
        let mut state = self.lock();
        let State { table, journal, .. } = &mut *state;
        if let Some((new, opened_at)) = table.revive(server, id, visit) {
            // Its client has heard of it long ago.
            let _written = journal.opened(new, opened_at);
        }
    }

    /// Takes out every session whose time is over. They are still to be closed at their servers.
    /// Beside them: whose reading was forgotten with that, since he was idle, and how many sessions each had.
    pub fn sweep(&self) -> (Vec<Ended>, Vec<(Whose, usize)>) {
        let now = unix_milliseconds();
        let mut state = self.lock();
        let State { table, streams, tasks, rounds, journal, ended } = &mut *state;
        let over = table.sweep(now);
        streams.sweep(now, table.idle_milliseconds);
        tasks.sweep(now, table.milliseconds_max);
        rounds.sweep(now, table.milliseconds_max);
        journal.all_ended((&over, &[]), table, tasks);
        journal.keep_up(table, tasks, now);
        let mut ended = std::mem::take(ended);
        ended.extend(over);
        drop(state);
        let mut forgotten = Vec::new();
        for whose in self.contexts.sweep() {
            let taken = self.end_of(std::slice::from_ref(&whose));
            forgotten.push((whose, taken.sessions));
            ended.extend(taken.to_close);
        }
        (ended, forgotten)
    }

    /// Forgets what was read in the contexts that `is_meant` means, and ends the sessions of those in which something was.
    pub fn clear(&self, is_meant: impl Fn(&Whose) -> bool) -> (Vec<Whose>, Taken) {
        let cleared = self.contexts.clear(is_meant);
        let taken = self.end_of(&cleared);
        (cleared, taken)
    }

    fn end_of(&self, contexts: &[Whose]) -> Taken {
        if contexts.is_empty() {
            return Taken { sessions: 0, to_close: Vec::new(), tasks: 0 };
        }
        self.lock().end_of(contexts)
    }

    /// Takes out every session that `ends` wants gone, likewise, and forgets what else `frees` wants free: tasks, and event ids
    /// outside of sessions. The states of calls stay whose they are: an unknown one would be anybody's.
    pub fn end(&self, ends: impl Fn(&Seen) -> bool, frees: impl Fn(&ServerName, &Owner) -> bool) -> Taken {
        self.lock().end(ends, frees)
    }

    /// The protocol version that was agreed on, as far as it is known.
    pub fn version(&self, server: &ServerName, id: &SessionId, owner: &Owner) -> Option<String> {
        self.lock().table.version(server, id, owner)
    }

    /// Notes which one it is.
    pub fn agreed_on(&self, server: &ServerName, id: &SessionId, owner: &Owner, version: &str) {
        // That the session is not his any more is for his next request.
        let _visit = self.lock().table.enter(server, id, owner, Some(version), unix_milliseconds());
    }

    /// Every session, the newest first.
    pub fn list(&self) -> Vec<Seen> {
        let mut all = self.lock().table.list(unix_milliseconds());
        for seen in &mut all {
            (seen.opened_at, seen.used_at) = (clock::as_shown(seen.opened_at), clock::as_shown(seen.used_at));
        }
        all
    }

    /// How many of them each agent has.
    pub fn by_agent(&self) -> BTreeMap<AgentName, usize> {
        self.lock().table.by_agent()
    }

    /// A number for the events of one answer.
    pub fn new_stream(&self) -> u64 {
        self.next_stream.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes that an event of this stream went to `owner`: on a session, or on a stream without one.
    pub fn saw_event(
        &self,
        server: &ServerName,
        session: Option<&SessionId>,
        owner: &Owner,
        (stream, event): (u64, &[u8]),
    ) {
        let Some(event) = EventId::of(event) else { return };
        let mut state = self.lock();
        match session {
            None => {
                let now = unix_milliseconds();
                state.streams.add((server, owner), (stream, event), self.events_max, now);
            }
            Some(id) => {
                if let Some(events) = state.table.events(server, id, owner) {
                    events.add(stream, event, self.events_max);
                }
            }
        }
    }

    /// Whether `event`, from which a client wants to resume, went to it.
    pub fn may_resume(
        &self,
        server: &ServerName,
        session: Option<&SessionId>,
        owner: &Owner,
        event: &[u8],
    ) -> bool {
        let Some(event) = EventId::of(event) else { return false };
        let mut state = self.lock();
        match session {
            None => state.streams.has(server, owner, event),
            Some(id) => state.table.events(server, id, owner).is_some_and(|events| events.has(event)),
        }
    }

    /// Binds a task to the call that made it. Its client is to be told once it is written.
    pub fn made_task(&self, server: &ServerName, id: &str, made: &Made) -> Result<Option<Written>, Refused> {
        let now = unix_milliseconds();
        self.lock().made_task(server, id, made, (self.tasks_per_agent_max, now))
    }

    /// The call that made the task, if it was `owner`'s.
    pub fn task(&self, server: &ServerName, id: &str, owner: &Owner) -> Option<Made> {
        self.lock().tasks.of(server, id, owner).cloned()
    }

    /// Notes that a call waits for more input.
    pub fn wait_for_input(&self, round: Round) {
        self.lock().rounds.wait(round, unix_milliseconds());
    }

    /// The call that such a request goes on with; none if it is a new one.
    pub fn go_on(self: &Arc<Self>, logical: &Logical, owner: &Owner) -> Result<Option<Going>, Refused> {
        let going = self.lock().rounds.go_on(logical, owner, unix_milliseconds())?;
        Ok(going.map(|going| Going::new(Arc::clone(self), going)))
    }

    /// Writes down all that the next guard needs. For the end of this one: nothing else goes on meanwhile.
    pub fn save(&self) {
        let mut state = self.lock();
        let State { table, tasks, journal, .. } = &mut *state;
        journal.save(table, tasks);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn open(state_dir: &Path, limits: &Limits) -> io::Result<Self> {
        let (mut table, mut tasks) = (Table::new(limits), Tasks::default());
        let journal = Journal::open(state_dir, &mut table, &mut tasks)?;
        let (streams, rounds) = (Streams::default(), Rounds::default());
        Ok(Self { table, streams, tasks, rounds, journal, ended: Vec::new() })
    }

    /// What this makes the guard forget, the next one must not know either.
    fn made_task(
        &mut self,
        server: &ServerName,
        id: &str,
        made: &Made,
        (per_agent_max, now): (usize, u64),
    ) -> Result<Option<Written>, Refused> {
        let added = self.tasks.add(server, id, made.clone(), per_agent_max, now);
        match &added {
            Ok(Some((server, oldest))) => self.journal.task_ended(server, oldest),
            Err(Refused::Taken) => self.journal.task_ended(server, id),
            _ => {}
        }
        added?;
        Ok(self.journal.task(server, id, made, now))
    }

    /// Ends the sessions of whoever is of these contexts, and forgets their streams without one: what a server says again on a stream that
    /// is resumed was read before, and nothing would say so any more.
    fn end_of(&mut self, contexts: &[Whose]) -> Taken {
        let is_of = |owner: &Owner| contexts.iter().any(|whose| whose.is_of(owner));
        self.streams.end(|_, owner| is_of(owner));
        self.end(|session| is_of(&session.owner), |_, _| false)
    }

    fn end(&mut self, ends: impl Fn(&Seen) -> bool, frees: impl Fn(&ServerName, &Owner) -> bool) -> Taken {
        let Self { table, streams, tasks, journal, .. } = self;
        let (to_close, known) = table.end(unix_milliseconds(), ends);
        let forgotten = tasks.end(&frees);
        streams.end(&frees);
        journal.all_ended((&to_close, &forgotten), table, tasks);
        Taken { sessions: to_close.len() + known, to_close, tasks: forgotten.len() }
    }
}

#[cfg(test)]
mod tests {
    use super::owner::tests::owner;
    use super::*;

    fn made(agent: &str) -> Made {
        Made { owner: owner(agent), tool: "report".into(), decision: "d".into() }
    }

    /// As after a guard that was killed: nothing more is written at the end.
    fn next(dir: &Path, before: Option<State>) -> State {
        drop(before);
        State::open(dir, &Limits::default()).unwrap()
    }

    #[test]
    fn the_end_of_a_context_ends_its_streams_and_nobody_elses() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerName::parse("crm").unwrap();
        let mut state = next(dir.path(), None);
        let event = EventId::of(b"5").unwrap();
        for agent in ["a", "b"] {
            state.streams.add((&server, &owner(agent)), (1, event), 8, unix_milliseconds());
            assert!(state.made_task(&server, agent, &made(agent), (2, unix_milliseconds())).is_ok());
        }
        state.end_of(&[Whose { agent: AgentName::parse("a").unwrap(), user: None, is_shared: false }]);
        assert_eq!(["a", "b"].map(|agent| state.streams.has(&server, &owner(agent), event)), [false, true]);
        assert!(state.tasks.of(&server, "a", &owner("a")).is_some(), "its answer has a label");
    }

    #[test]
    fn the_next_guard_knows_no_task_that_this_one_has_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerName::parse("crm").unwrap();
        let make = |state: &mut State, id, agent| {
            state.made_task(&server, id, &made(agent), (2, unix_milliseconds())).is_ok()
        };
        let known = |state: &State, agent: &str| {
            ["1", "2", "3", "4"].map(|id| state.tasks.of(&server, id, &owner(agent)).is_some())
        };
        let mut state = next(dir.path(), None);
        assert!(make(&mut state, "1", "a"));
        // A server that was started again counts anew.
        assert!(!make(&mut state, "1", "b"));
        assert!(["2", "3", "4"].into_iter().all(|id| make(&mut state, id, "a")));
        assert_eq!(known(&state, "a"), [false, false, true, true]);
        let mut state = next(dir.path(), Some(state));
        assert_eq!(known(&state, "a"), [false, false, true, true]);

        assert_eq!(state.end(|_| true, |_, owner| owner.agent.as_str() == "b").tasks, 0);
        assert_eq!(state.end(|_| true, |at, _| *at == server).tasks, 2);
        let mut state = next(dir.path(), Some(state));
        assert_eq!(known(&state, "a"), [false; 4]);
        assert!(make(&mut state, "3", "b"), "its ids are anybody's again");
        assert_eq!(known(&state, "b"), [false, false, true, false]);
    }
}
