//! The one owner of the trail's file.
//!
//! With durability `durable` a thread of its own takes what has gathered in the queue (while the disk was busy with
//! the batch before), writes it at once, syncs once, then answers. With `os` there is nothing to wait for, so whoever
//! brings a record writes it, and what others brought meanwhile: a hand-over would cost more than the write. An error
//! of the disk retires the segment: a sync that is tried again may answer "done" for pages that were dropped. From
//! then on every call is refused, and each second a new segment is tried, whose first record tells of the gap.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use super::archive::Archive;
use super::checkpoint::{Checkpointer, Head};
use super::clock::Moment;
use super::disk::{self, Disk, Segment};
use super::epoch::Epoch;
use super::error::AuditError;
use super::log::Health;
use super::merkle::{Hash, Tree, leaf_hash};
use super::note::SigningKey;
use super::queue::{Append, Done, Queue, Woken};
use super::record::{Embedded, Gap};
use super::reserve::Reserve;
use super::rotate::Current;
use super::walk::{Found, Lines, segment_name};
use super::{LINE_BYTES_MAX, text};
use crate::config::Durability;
use crate::service::Beat;

/// Records in one write.
const BATCH_RECORDS_MAX: usize = 64;
/// Least time between two checkpoint files.
const CHECKPOINT_FILE_EVERY: Duration = Duration::from_millis(250);
/// Most time, and most records, between two checkpoint records. On a quiet guard they are its heartbeat.
const CHECKPOINT_RECORD_EVERY: Duration = Duration::from_secs(60);
const CHECKPOINT_RECORD_EVERY_RECORDS: u64 = 1000;
/// How long an outcome may wait for a record that somebody waits for: the two share one waking of the writer.
const OUTCOME_WAIT: Duration = Duration::from_millis(20);
/// Between two attempts to write again after an error.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// Of `{"seq":…,"prev":"…","time":"…"` at its longest.
pub(super) const PREFIX_BYTES_MAX: usize = 160;

/// Where the next record goes.
#[derive(Clone)]
pub(super) struct Position {
    pub(super) tree: Tree,
    pub(super) prev: Hash,
    /// Length of the segment.
    pub(super) bytes: u64,
}

pub(super) struct Writer {
    pub(super) dir: PathBuf,
    pub(super) disk: Box<dyn Disk>,
    pub(super) durability: Durability,
    pub(super) key: Arc<SigningKey>,
    pub(super) checkpointer: Checkpointer,
    /// Behind the last record written.
    pub(super) position: Position,
    /// Behind the last record that is safe: synced, or just written with durability `os`.
    pub(super) durable: Position,
    /// The records between the two. All are outcomes: nobody waits for one, so the next call's sync, or the next
    /// checkpoint's, is theirs too.
    pub(super) unsynced: Vec<Vec<u8>>,
    pub(super) path: PathBuf,
    pub(super) state: State,
    /// Calls forwarded and not concluded.
    pub(super) open_count: usize,
    pub(super) health: Arc<Health>,
    pub(super) published: (u64, Instant),
    pub(super) embedded: (u64, Instant),
    pub(super) current: Current,
    pub(super) epoch: Epoch,
    /// Ends before the directory is unlocked.
    pub(super) archive: Archive,
    pub(super) reserve: Reserve,
    /// As of the last look.
    pub(super) clock: Moment,
    pub(super) _lock: File,
}

pub(super) enum State {
    Good(Arc<dyn Segment>),
    Failed {
        cause: Arc<str>,
        segment: Arc<dyn Segment>,
        refused: u64,
        /// Outcomes that came or were under way meanwhile.
        owed: Vec<Append>,
        retry: Instant,
    },
}

/// A writer and its queue. Empty once the trail is closed.
pub(super) struct Desk {
    pub(super) queue: Queue,
    writer: Mutex<Option<Writer>>,
    durability: Durability,
    /// One turn of the thread, with all that was due done.
    pub(super) beat: Beat,
}

impl Desk {
    pub(super) fn new(writer: Writer) -> Self {
        let durability = writer.durability;
        Self { queue: Queue::default(), writer: Mutex::new(Some(writer)), durability, beat: Beat::default() }
    }

    /// Sees to it that what was pushed is written.
    pub(super) fn pushed(&self) {
        match self.durability {
            Durability::Durable => self.queue.wake(),
            Durability::Os => self.write_here(),
        }
    }

    /// Writes what waits, unless somebody else does. Nobody's record is left behind: who holds the writer looks at the
    /// queue again after he let go of it, and who could not get hold of it had pushed before.
    fn write_here(&self) {
        while self.queue.is_awaited() {
            let mut writer = match self.writer.try_lock() {
                Ok(writer) => writer,
                Err(TryLockError::WouldBlock) => return,
                Err(TryLockError::Poisoned(_)) => return self.queue.close(None),
            };
            let Some(writer) = writer.as_mut() else { return };
            writer.work(&self.queue);
            let due = writer.until_due();
            self.queue.wake_within(due);
        }
    }

    /// The thread's life: until it is told to stop, or every handle is gone.
    pub(super) fn run(&self) {
        let mut due = Duration::ZERO;
        loop {
            let woken = self.queue.wait(due);
            let Ok(mut held) = self.writer.lock() else { return self.queue.close(None) };
            let Some(writer) = held.as_mut() else { return };
            writer.work(&self.queue);
            writer.recover_if_due();
            writer.refill_if_due();
            if let Woken::Stop(done) = woken {
                // The checkpointer ends its work and the directory is unlocked before anybody is told.
                if let Some(writer) = held.take() {
                    writer.finish(done.is_some());
                }
                if let Some(done) = done {
                    let _nobody_waits = done.send(());
                }
                return;
            }
            due = writer.until_due();
            drop(held);
            self.beat.beat();
            if self.durability == Durability::Os {
                self.write_here();
            }
        }
    }
}

/// `{"seq":…` of each of `bodies`, as lines; the position behind them.
pub(super) fn lines<'a>(
    position: &Position,
    bodies: impl Iterator<Item = &'a [u8]>,
    time: jiff::Timestamp,
) -> (Vec<u8>, Position) {
    let mut at = position.clone();
    let mut lines = Vec::new();
    for body in bodies {
        let start = lines.len();
        let head =
            format!(r#"{{"seq":{},"prev":"{}","time":"{time:.6}","#, at.tree.size(), hex::encode(at.prev));
        lines.extend_from_slice(head.as_bytes());
        lines.extend_from_slice(body.get(1..).unwrap_or_default());
        at.prev = leaf_hash(lines.get(start..).unwrap_or_default());
        at.tree.push(at.prev);
        lines.push(b'\n');
    }
    at.bytes += u64::try_from(lines.len()).unwrap_or(u64::MAX);
    (lines, at)
}

impl Writer {
    /// Writes what waits, and what is due besides.
    fn work(&mut self, queue: &Queue) {
        self.heed_clock();
        let mut waiting = queue.take().into_iter().peekable();
        while let Some(first) = waiting.peek_mut() {
            // What tells of all records before it is written apart from them.
            if let Some(compose) = first.compose.take() {
                if let Some(mut append) = waiting.next()
                    && let Some(body) = compose()
                {
                    append.body = body;
                    self.write(vec![append]);
                }
                continue;
            }
            let mut batch = Vec::new();
            while batch.len() < BATCH_RECORDS_MAX
                && let Some(append) = waiting.next_if(|append| append.compose.is_none())
            {
                batch.push(append);
            }
            self.write(batch);
        }
        self.tick();
    }

    fn finish(mut self, is_asked_to: bool) {
        if is_asked_to {
            // Outcomes that are still owed get a last chance.
            self.recover();
            self.stop();
        }
        self.publish();
    }

    fn until_due(&self) -> Duration {
        let due = match &self.state {
            State::Failed { retry, .. } => *retry,
            State::Good(_) if self.published.0 < self.position.tree.size() => {
                self.published.1 + CHECKPOINT_FILE_EVERY
            }
            State::Good(_) => self.embedded.1 + CHECKPOINT_RECORD_EVERY,
        };
        let due = match (&self.state, self.epoch.due()) {
            (State::Good(_), Some(over_at)) => due.min(over_at),
            _ => due,
        };
        let due = self.reserve.due().map_or(due, |refill| due.min(refill));
        let due = due.saturating_duration_since(Instant::now());
        if self.open_count > 0 { due.min(OUTCOME_WAIT) } else { due }
    }

    /// What is due besides the queue, but for a new segment.
    fn tick(&mut self) {
        let now = Instant::now();
        if let Some(error) = self.checkpointer.sync_error() {
            self.fail(&error, Vec::new());
        }
        self.heed_checkpointer();
        if let State::Failed { .. } = &self.state {
            return;
        }
        // On the reserve, a record that says nothing new is not worth its room.
        let is_news = !self.reserve.is_spent() || self.position.tree.size() > self.embedded.0;
        if self.position.tree.size().saturating_sub(self.embedded.0) >= CHECKPOINT_RECORD_EVERY_RECORDS
            || (is_news && self.embedded.1 + CHECKPOINT_RECORD_EVERY <= now)
        {
            self.sync();
            let note = self.key.checkpoint(self.position.tree.size(), self.position.tree.root());
            self.write_own(text::encode(&Embedded { note: &note }));
            self.embedded = (self.position.tree.size(), now);
        }
        self.hand_over_if_due();
        self.rotate_if_due();
        if self.published.0 < self.position.tree.size() && self.published.1 + CHECKPOINT_FILE_EVERY <= now {
            self.publish();
        }
    }

    fn publish(&mut self) {
        self.sync();
        if !self.epoch.settle(&self.dir) {
            // Nobody could check it.
            *self.health.unsigned() = Some(self.epoch.cause());
            self.make_more_room();
            self.published.1 = Instant::now();
            return;
        }
        let State::Good(segment) = &self.state else { return };
        let (size, root) = (self.position.tree.size(), self.position.tree.root());
        let unsynced = (self.durability == Durability::Os).then(|| Arc::clone(segment));
        let key = Arc::clone(&self.key);
        self.checkpointer.publish(Head { size, root, key, unsynced });
        self.published = (size, Instant::now());
    }

    /// Makes safe what was written.
    pub(super) fn sync(&mut self) {
        if let State::Good(segment) = &self.state
            && !self.unsynced.is_empty()
        {
            match segment.sync() {
                Ok(()) => self.advance(self.position.clone(), true),
                Err(error) => self.fail(&error, Vec::new()),
            }
        }
    }

    /// Writes a record of the writer's own.
    pub(super) fn write_own(&mut self, body: Result<Vec<u8>, serde_json::Error>) {
        let State::Good(segment) = &self.state else { return };
        let written = body.map_err(io::Error::other).and_then(|body| {
            write(segment.as_ref(), self.syncs(), &self.position, std::iter::once(body.as_slice()))
        });
        match written {
            Ok(position) => self.advance(position, true),
            Err(error) => self.fail(&error, Vec::new()),
        }
    }

    fn write(&mut self, batch: Vec<Append>) {
        let batch = self.reserve.admit(batch);
        if batch.is_empty() {
            return;
        }
        let segment = match &mut self.state {
            State::Good(segment) => Arc::clone(segment),
            State::Failed { cause, refused, owed, .. } => {
                refuse(batch, cause, refused, owed);
                return;
            }
        };
        let bodies = batch.iter().map(|append| append.body.as_slice());
        let first = self.position.tree.size();
        let awaited = batch.iter().any(|append| !matches!(append.done, Done::Outcome { .. }));
        let later = self.syncs() && !awaited && self.unsynced.len() + batch.len() <= BATCH_RECORDS_MAX;
        match write(segment.as_ref(), self.syncs() && !later, &self.position, bodies) {
            Ok(position) => {
                self.advance(position, !later);
                if later {
                    self.unsynced.extend(batch.iter().map(|append| append.body.clone()));
                }
                for (append, seq) in batch.into_iter().zip(first..) {
                    match append.done {
                        Done::Call(..) => self.open_count += 1,
                        Done::Outcome { .. } => self.open_count = self.open_count.saturating_sub(1),
                        Done::Note(..) => {}
                    }
                    if let Some(guest) = &append.guest {
                        guest.recorded();
                    }
                    append.done.written(seq);
                }
            }
            Err(error) => self.fail(&error, batch),
        }
    }

    /// Whether records are synced at all.
    fn syncs(&self) -> bool {
        self.durability == Durability::Durable
    }

    pub(super) fn advance(&mut self, position: Position, safe: bool) {
        self.health.records.store(position.tree.size(), Ordering::Relaxed);
        if safe {
            self.durable = position.clone();
            self.unsynced.clear();
        }
        self.position = position;
    }

    pub(super) fn set_failed(&self, cause: Option<&Arc<str>>) {
        *self.health.failed.lock().unwrap_or_else(PoisonError::into_inner) = cause.cloned();
    }

    /// Retires the segment.
    pub(super) fn fail(&mut self, error: &io::Error, batch: Vec<Append>) {
        let cause: Arc<str> = format!("{}: {error}", self.path.display()).into();
        if let State::Good(segment) = &self.state {
            tracing::error!(%cause, "the audit trail cannot be written; calls are refused");
            let segment = Arc::clone(segment);
            self.set_failed(Some(&cause));
            let (mut refused, mut owed) = (0, Vec::new());
            // What is not safe, or half written, must not stand before the records of the next segment. If this
            // fails, it shows in `recover`.
            self.position = self.durable.clone();
            let _tried_again_there = segment.truncate(self.position.bytes);
            self.open_count += self.unsynced.len();
            let unsynced = std::mem::take(&mut self.unsynced).into_iter();
            owed.extend(unsynced.map(|body| Append::new(body, Done::Outcome { slot: None })));
            let mut retry = Instant::now();
            let mut batch = batch;
            if self.make_do(error) {
                // On the reserve, it goes on at once.
                owed.extend(batch.extract_if(.., |append| append.is_vital));
            } else {
                retry += RETRY_EVERY;
            }
            refuse(batch, &cause, &mut refused, &mut owed);
            self.state = State::Failed { cause, segment, refused, owed, retry };
        }
    }

    pub(super) fn recover_if_due(&mut self) {
        if matches!(&self.state, State::Failed { retry, .. } if *retry <= Instant::now()) {
            self.recover();
        }
    }

    /// Tries to go on in a new segment.
    fn recover(&mut self) {
        let beginning = self.beginning();
        let State::Failed { cause, segment, refused, owed, retry } = &mut self.state else { return };
        *retry = Instant::now() + RETRY_EVERY;
        let seq = self.position.tree.size();
        let path = self.dir.join(segment_name(seq));
        let gap = text::encode(&Gap {
            reason: "write_failed",
            cause: Some(cause),
            durable_seq: seq.checked_sub(1).filter(|_| self.durability == Durability::Durable),
            refused: *refused,
            open_count: self.open_count,
            open: Vec::new(),
            torn_bytes: 0,
            torn_sha256: None,
        });
        let opened = segment.truncate(self.position.bytes).and_then(|()| {
            ends_with(&self.path, &self.position)?;
            let position = Position { bytes: 0, ..self.position.clone() };
            let bodies = [beginning?, gap?];
            if path != self.path {
                // What an attempt before left there, and could not remove.
                absent(std::fs::remove_file(&path))?;
            }
            let segment = self.disk.create(&path)?;
            // Whatever durability: the file before it may be packed from now on.
            write(segment.as_ref(), true, &position, bodies.iter().map(Vec::as_slice))
                .and_then(|position| disk::sync_dir(&self.dir).map(|()| (segment, position)))
                // Nothing in it has been answered for; the next attempt takes its name again.
                .inspect_err(|_| drop(std::fs::remove_file(&path)))
        });
        match opened {
            Ok((segment, position)) => {
                tracing::warn!(refused = *refused, segment = %path.display(), "the audit trail is written again");
                let owed = std::mem::take(owed);
                self.current.begins(seq);
                self.archive.full_up_to(seq);
                self.advance(position, true);
                self.set_failed(self.reserve.cause().as_ref());
                self.path = path;
                self.state = State::Good(segment);
                for batch in Batches(owed.into_iter()) {
                    self.write(batch);
                }
            }
            Err(error) => {
                *cause = format!("{}: {error}", self.path.display()).into();
                if self.make_do(&error)
                    && let State::Failed { retry, .. } = &mut self.state
                {
                    *retry = Instant::now();
                }
            }
        }
    }
}

/// Nothing there is as good as nothing left there.
fn absent(removed: io::Result<()>) -> io::Result<()> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// One write and, if asked, one sync.
pub(super) fn write<'a>(
    segment: &dyn Segment,
    sync: bool,
    position: &Position,
    bodies: impl Iterator<Item = &'a [u8]>,
) -> io::Result<Position> {
    write_lines(segment, sync, position, bodies).map(|(_lines, position)| position)
}

/// The same, and gives what was written.
pub(super) fn write_lines<'a>(
    segment: &dyn Segment,
    sync: bool,
    position: &Position,
    bodies: impl Iterator<Item = &'a [u8]>,
) -> io::Result<(Vec<u8>, Position)> {
    let (lines, position) = lines(position, bodies, jiff::Timestamp::now());
    segment.append(&lines)?;
    if sync {
        segment.sync()?;
    }
    Ok((lines, position))
}

/// An error unless the file ends with the record that `position` says.
fn ends_with(path: &Path, position: &Position) -> io::Result<()> {
    let mut lines = Lines::open(path)?;
    let back = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    lines.skip_to(position.bytes.saturating_sub(back * 2))?;
    let mut last = None;
    while let Some(found) = lines.next()? {
        last = match found {
            Found::Line(line) => Some(leaf_hash(line)),
            Found::Torn => None,
        };
    }
    if last == Some(position.prev) {
        Ok(())
    } else {
        Err(io::Error::other("it does not end with its last record"))
    }
}

/// Answers a batch that cannot be written; outcomes are kept.
pub(super) fn refuse(batch: Vec<Append>, cause: &Arc<str>, refused: &mut u64, owed: &mut Vec<Append>) {
    for append in batch {
        match append.done {
            Done::Call(_, reply) => {
                *refused += 1;
                let _nobody_waits = reply.send(Err(AuditError::Failed(Arc::clone(cause))));
            }
            Done::Note(_, reply) => {
                *refused += 1;
                let _nobody_waits = reply.send(Err(AuditError::Failed(Arc::clone(cause))));
            }
            Done::Outcome { .. } => owed.push(append),
        }
    }
}

struct Batches<I>(I);

impl<I: Iterator> Iterator for Batches<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch: Vec<_> = self.0.by_ref().take(BATCH_RECORDS_MAX).collect();
        (!batch.is_empty()).then_some(batch)
    }
}
