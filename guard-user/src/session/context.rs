//! What each agent has read: the labels of what was let through to it, whatever servers and sessions it came by. Beside it, what it said before.
//!
//! A context is of an agent and the user for whom it works, wherever its requests come from: another process, local user or host of the
//! same agent may know what was read. It only grows, until it is over as a whole. Pure but for `book`: time is an argument, in milliseconds since the
//! host's boot, so that no step of the wall clock makes anything old. A guard that starts later gives each its whole time again.

mod book;
mod known;

use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

use super::Owner;
use super::clock::wall_milliseconds;
use super::visit::{Presence, Visit};
use crate::config::Limits;
use crate::rpc::Words;
use crate::types::{AgentName, LabelName, ServerName, Uptime, UserName};
use book::{Book, Line};
use known::Known;

/// Whose reading is counted together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Whose {
    pub agent: AgentName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    /// Of all the users for whom there was no room.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_shared: bool,
}

/// All contexts, and where they are written down.
pub struct Contexts {
    table: Mutex<Table>,
    book: Arc<Mutex<Book>>,
}

/// The hold of one request on its context: while it lasts, the context is not idle.
#[derive(Debug)]
pub struct Reading {
    whose: Whose,
    visit: Visit,
}

/// A message that is compared with what its agent said before.
#[derive(Debug, Clone)]
pub struct Said {
    whose: Whose,
    server: ServerName,
    words: Words,
    pub is_known: bool,
}

/// A context, for tables.
#[derive(Debug, Clone, Serialize)]
pub struct SeenContext {
    #[serde(flatten)]
    pub whose: Whose,
    /// What was read, the first first.
    pub labels: Vec<LabelName>,
    /// In milliseconds since 1970.
    pub used_at: u64,
    pub requests: u32,
}

struct Table {
    contexts: HashMap<Whose, Context>,
    by_agent: HashMap<AgentName, usize>,
    next_id: u64,
    per_agent_max: usize,
    idle_milliseconds: u64,
}

struct Context {
    /// Says in the file which one is over, whatever order the lines come in.
    id: u64,
    presence: Arc<Presence>,
    read: Vec<Read>,
    known: Known,
}

/// A context that is over.
struct Over {
    id: u64,
    whose: Whose,
    has_read: bool,
    is_written: bool,
}

#[derive(Debug, Clone)]
struct Read {
    label: LabelName,
    /// A guard that is killed now would leave it to the next one.
    is_written: bool,
}

impl Whose {
    pub(super) fn of(owner: &Owner) -> Self {
        Self { agent: owner.agent.clone(), user: owner.user.clone(), is_shared: false }
    }

    fn rest(&self) -> Self {
        Self { agent: self.agent.clone(), user: None, is_shared: true }
    }

    /// Whether `owner` is of this context.
    pub(super) fn is_of(&self, owner: &Owner) -> bool {
        self.agent == owner.agent && (self.is_shared || self.user == owner.user)
    }
}

impl Contexts {
    /// What a former guard left. A file that cannot be read is an error: nobody could say who has read what.
    pub(super) fn open(state_dir: &Path, limits: &Limits) -> io::Result<Self> {
        let mut table = Table::new(limits);
        let now = since_boot();
        book::load(state_dir, |line| table.restore(line, now))?;
        let mut book = Book::new(state_dir);
        if let Err(error) = book.rewrite(table.lines()) {
            tracing::warn!(%error, "what is read cannot be written down: answers with a label are refused until it can");
        }
        Ok(Self { table: Mutex::new(table), book: Arc::new(Mutex::new(book)) })
    }

    pub(super) fn check(state_dir: &Path) -> io::Result<()> {
        book::load(state_dir, |_line| ())
    }

    pub fn enter(&self, owner: &Owner) -> Reading {
        self.table().enter(Whose::of(owner), since_boot())
    }

    /// The labels of what was read in the context, and in that of all for whom there was no room.
    pub fn read(&self, reading: &Reading) -> Vec<LabelName> {
        self.table().read(&reading.whose)
    }

    /// The same for whoever has no request under way.
    pub fn read_by(&self, owner: &Owner) -> Vec<LabelName> {
        self.table().read(&Whose::of(owner))
    }

    /// Notes that something with this label is about to go to the context. Ready once that outlives the guard and its host; on an
    /// error it must not go. The mark stands in any case.
    pub async fn raise(self: &Arc<Self>, reading: &Reading, label: &LabelName) -> io::Result<()> {
        let Some(id) = self.table().raise(reading, label, since_boot()) else { return Ok(()) };
        let line = Line::Read { id, whose: reading.whose.clone(), label: label.clone() };
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || this.write(&line)).await;
        written.map_err(io::Error::other)??;
        self.table().written(&reading.whose, id, label);
        Ok(())
    }

    /// Compares what the agent is about to say to `server` with what it said there before.
    pub fn compare(&self, reading: &Reading, server: &ServerName, words: Words) -> Said {
        let (whose, server) = (reading.whose.clone(), server.clone());
        let is_known = self.table().knows(&whose, &server, &words);
        Said { whose, server, words, is_known }
    }

    /// Remembers that it was let through, as far as there is room. Lost with the disk, the next guard judges it anew.
    pub async fn learn(self: &Arc<Self>, said: &Said) {
        let Some(id) = self.table().learn(said) else { return };
        let (whose, server) = (said.whose.clone(), said.server.clone());
        let line = Line::Said { id, whose, server, words: said.words };
        let this = Arc::clone(self);
        let written = tokio::task::spawn_blocking(move || this.write(&line)).await;
        if let Err(error) = written.map_err(io::Error::other).flatten() {
            tracing::warn!(%error, "what an agent may say again will not outlive this guard");
        }
    }

    fn write(&self, line: &Line) -> io::Result<()> {
        let mut book = self.book.lock().unwrap_or_else(PoisonError::into_inner);
        if book.is_due() {
            // It has what this line says.
            let lines = self.table().lines();
            return book.rewrite(lines);
        }
        book.append(std::slice::from_ref(line))
    }

    /// Takes out what was idle for too long. Those in which something was read.
    pub(super) fn sweep(&self) -> Vec<Whose> {
        self.end(|table| table.sweep(since_boot()))
    }

    /// Takes out what an operator means.
    pub(super) fn clear(&self, is_meant: impl Fn(&Whose) -> bool) -> Vec<Whose> {
        self.end(|table| table.clear(is_meant))
    }

    fn end(&self, end: impl FnOnce(&mut Table) -> Vec<Over>) -> Vec<Whose> {
        let ended = end(&mut self.table());
        let written = ended.iter().filter(|over| over.is_written);
        let lines: Vec<_> = written.map(|over| Line::Over { id: over.id }).collect();
        if !lines.is_empty() {
            let book = Arc::clone(&self.book);
            // Lost, the next guard holds the context for longer.
            let write = move || {
                let mut book = book.lock().unwrap_or_else(PoisonError::into_inner);
                if let Err(error) = book.append(&lines) {
                    tracing::warn!(%error, "that contexts are over will not outlive this guard");
                }
            };
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => drop(runtime.spawn_blocking(write)),
                Err(_none) => write(),
            }
        }
        ended.into_iter().filter(|over| over.has_read).map(|over| over.whose).collect()
    }

    pub fn list(&self) -> Vec<SeenContext> {
        let (mut all, now, wall) = (self.table().list(since_boot()), since_boot(), wall_milliseconds());
        for seen in &mut all {
            seen.used_at = wall.saturating_sub(now.saturating_sub(seen.used_at));
        }
        all
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Reading {
    /// Ends when an operator clears the context.
    pub fn until_over(&self) -> impl Future<Output = ()> + Send + 'static {
        self.visit.until_over()
    }
}

impl Table {
    fn new(limits: &Limits) -> Self {
        Self {
            contexts: HashMap::new(),
            by_agent: HashMap::new(),
            next_id: 1,
            per_agent_max: limits.contexts_per_agent_max,
            idle_milliseconds: limits.context_idle_seconds.saturating_mul(1000),
        }
    }

    /// The caller's context, or the one of all those of its agent for whom there is no room. As long as that one is there, nobody gets a
    /// new one of his own: what was read in it would be forgotten.
    fn enter(&mut self, whose: Whose, now: u64) -> Reading {
        let rest = whose.rest();
        let has_room = self.by_agent.get(&whose.agent).is_none_or(|count| *count < self.per_agent_max);
        let is_known = self.contexts.contains_key(&whose);
        let whose = if is_known || (has_room && !self.contexts.contains_key(&rest)) { whose } else { rest };
        let context = self.context(&whose, now);
        Reading { visit: context.presence.visit(now), whose }
    }

    fn context(&mut self, whose: &Whose, now: u64) -> &mut Context {
        let Self { contexts, by_agent, next_id, .. } = self;
        contexts.entry(whose.clone()).or_insert_with(|| {
            *by_agent.entry(whose.agent.clone()).or_default() += 1;
            let id = *next_id;
            *next_id += 1;
            Context { id, presence: Presence::by(since_boot, now), read: Vec::new(), known: Known::default() }
        })
    }

    fn read(&self, whose: &Whose) -> Vec<LabelName> {
        let contexts = [self.contexts.get(whose), self.contexts.get(&whose.rest())];
        let mut labels: Vec<LabelName> = Vec::new();
        for read in contexts.into_iter().flatten().flat_map(|context| &context.read) {
            if !labels.contains(&read.label) {
                labels.push(read.label.clone());
            }
        }
        labels
    }

    /// The context's number, if this is still to be written. A context that was cleared meanwhile begins anew with it.
    fn raise(&mut self, reading: &Reading, label: &LabelName, now: u64) -> Option<u64> {
        let context = self.context(&reading.whose, now);
        if let Some(read) = context.read.iter().find(|read| read.label == *label) {
            return (!read.is_written).then_some(context.id);
        }
        context.read.push(Read { label: label.clone(), is_written: false });
        Some(context.id)
    }

    fn written(&mut self, whose: &Whose, id: u64, label: &LabelName) {
        let context = self.contexts.get_mut(whose).filter(|context| context.id == id);
        for read in context.into_iter().flat_map(|context| &mut context.read) {
            read.is_written |= read.label == *label;
        }
    }

    fn knows(&self, whose: &Whose, server: &ServerName, words: &Words) -> bool {
        self.contexts.get(whose).is_some_and(|context| context.known.has(server, words))
    }

    /// The context's number, if this is to be written. One that was cleared meanwhile learns nothing.
    fn learn(&mut self, said: &Said) -> Option<u64> {
        let context = self.contexts.get_mut(&said.whose)?;
        context.known.learn(&said.server, said.words).then_some(context.id)
    }

    fn sweep(&mut self, now: u64) -> Vec<Over> {
        let idle = self.idle_milliseconds;
        self.take(|context| {
            let is_used = context.presence.visits() > 0;
            !is_used && now.saturating_sub(context.presence.used_at(now)) >= idle
        })
    }

    fn clear(&mut self, is_meant: impl Fn(&Whose) -> bool) -> Vec<Over> {
        let meant: Vec<u64> = self
            .contexts
            .iter()
            .filter(|(whose, _)| is_meant(whose))
            .map(|(_, context)| context.id)
            .collect();
        self.take(|context| meant.contains(&context.id))
    }

    /// Ends what is under way in them.
    fn take(&mut self, is_over: impl Fn(&Context) -> bool) -> Vec<Over> {
        let mut ended = Vec::new();
        let by_agent = &mut self.by_agent;
        self.contexts.retain(|whose, context| {
            if !is_over(context) {
                return true;
            }
            context.presence.end();
            if let Some(count) = by_agent.get_mut(&whose.agent) {
                *count = count.saturating_sub(1);
            }
            let (id, whose, has_read) = (context.id, whose.clone(), !context.read.is_empty());
            ended.push(Over { id, whose, has_read, is_written: has_read || !context.known.is_empty() });
            false
        });
        by_agent.retain(|_, count| *count > 0);
        ended.sort_by(|a, b| a.whose.cmp(&b.whose));
        ended
    }

    fn list(&self, now: u64) -> Vec<SeenContext> {
        let mut all: Vec<_> = self
            .contexts
            .iter()
            .map(|(whose, context)| SeenContext {
                whose: whose.clone(),
                labels: context.read.iter().map(|read| read.label.clone()).collect(),
                used_at: context.presence.used_at(now),
                requests: context.presence.visits(),
            })
            .collect();
        all.sort_by(|a, b| a.whose.cmp(&b.whose));
        all
    }

    fn lines(&self) -> Vec<Line> {
        let of = |(whose, context): (&Whose, &Context)| -> Vec<Line> {
            let line =
                |read: &Read| Line::Read { id: context.id, whose: whose.clone(), label: read.label.clone() };
            let said = |(server, words): (&ServerName, Words)| {
                let (whose, server) = (whose.clone(), server.clone());
                Line::Said { id: context.id, whose, server, words }
            };
            context.read.iter().map(line).chain(context.known.iter().map(said)).collect()
        };
        self.contexts.iter().flat_map(of).collect()
    }

    /// When it was used last is not written down: it gets its whole time again.
    fn restore(&mut self, line: Line, now: u64) {
        match line {
            Line::Format { .. } => {}
            Line::Over { id } => _ = self.take(|context| context.id == id),
            Line::Read { id, whose, label } => {
                let context = self.restored(id, &whose, now);
                if let Some(context) = context.filter(|it| !it.read.iter().any(|read| read.label == label)) {
                    context.read.push(Read { label, is_written: true });
                }
            }
            Line::Said { id, whose, server, words } => {
                if let Some(context) = self.restored(id, &whose, now) {
                    context.known.learn(&server, words);
                }
            }
        }
    }

    /// The context with this number, of which a line tells. Numbers only grow, so the one before it is over, whether or not that is written;
    /// `None`: this one is.
    fn restored(&mut self, id: u64, whose: &Whose, now: u64) -> Option<&mut Context> {
        self.next_id = self.next_id.max(id.saturating_add(1));
        let standing = self.contexts.get(whose).map(|context| context.id);
        if let Some(before) = standing.filter(|before| *before < id) {
            self.take(|context| context.id == before);
        }
        let is_new = !self.contexts.contains_key(whose);
        let context = self.context(whose, now);
        if is_new {
            context.id = id;
        }
        Some(context).filter(|context| context.id == id)
    }
}

/// In milliseconds.
fn since_boot() -> u64 {
    Uptime::now().as_millis()
}

#[cfg(test)]
mod tests;
