//! What outlives the guard: sessions and tasks, in a file that a thread of its own writes.
//!
//! A line is written at once and not synced: when the host dies, the servers' sessions die with it. When the file has
//! grown, it is replaced by one of what there is; when the guard ends in order, by one that has the event ids too, which are
//! too many to write down one by one. After a `kill -9` streams therefore cannot be resumed; sessions and tasks go on.
//!
//! Lines are handed over under the lock of the state that they are about, so that their order is that of the changes. No
//! disk holds that lock up: who must wait for a line, waits for it without the lock.

mod file;

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use tokio::sync::oneshot;

pub(super) use file::load;
use file::{Book, Line};

use super::table::{Ended, NewSession, SessionKind, Table};
use super::task::{Key, Made, Tasks};
use super::{SessionId, Written};
use crate::types::ServerName;

/// Lines beyond those that are needed, before the file is written anew.
const SPARE_LINES_MAX: usize = 4096;
/// Lines that may wait for the disk. With one more, the file is emptied and written anew.
const LINES_WAITING_MAX: usize = 4096;
/// Longest pause between two tries to write the file anew; each is twice as long as the one before.
const RETRY_MILLISECONDS_MAX: u64 = 8000;
/// Sessions that end at once, before a new file takes the place of as many lines.
const ENDED_LINES_MAX: usize = 256;

pub(super) struct Journal {
    writer: Writer,
    lines: usize,
    /// Times that there was no room for a line, and how many of them a new file makes up for that is under way. Until it is,
    /// what else comes is left out, too.
    lost: u64,
    made_up: u64,
    /// The last pause of a disk that refuses, and its end, in milliseconds since 1970.
    pause: u64,
    again_at: u64,
    shared: Arc<Shared>,
}

/// What the journal and its thread tell each other beside the lines.
#[derive(Default)]
struct Shared {
    /// `lost`: what is in the file may not be so any more.
    lost: AtomicU64,
    /// The disk refused a line, so that the file is to be written anew.
    is_behind: AtomicBool,
}

enum Writer {
    Thread(SyncSender<Job>, JoinHandle<Book>),
    /// Nobody is served any more.
    Here(Book),
    None,
}

enum Job {
    /// To be told once it is written.
    Line(Box<Line>, Option<oneshot::Sender<()>>),
    /// A new file, which makes up for so many losses.
    Rewrite(Vec<Line>, u64),
}

impl Journal {
    /// Reads what is there into `table` and `tasks`. That the file cannot be written keeps nobody from going on.
    pub(super) fn open(state_dir: &Path, table: &mut Table, tasks: &mut Tasks) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        load(state_dir, table, tasks)?;
        let mut book = Book::new(state_dir);
        book.rewrite(all(table, tasks, true));
        let is_behind = book.is_behind();
        let journal = Self::run(|jobs, shared| write(&jobs, &shared, book))?;
        journal.shared.is_behind.store(is_behind, Ordering::Relaxed);
        Ok(journal)
    }

    fn run(writer: impl FnOnce(Receiver<Job>, Arc<Shared>) -> Book + Send + 'static) -> io::Result<Self> {
        let (jobs, to_do) = sync_channel(LINES_WAITING_MAX);
        let shared: Arc<Shared> = Arc::default();
        let of_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("sessions".into()).spawn(move || writer(to_do, of_thread))?;
        Ok(Self {
            writer: Writer::Thread(jobs, thread),
            lines: 0,
            lost: 0,
            made_up: 0,
            pause: 0,
            again_at: 0,
            shared,
        })
    }

    /// A session that ends with its stream does not outlive the guard.
    pub(super) fn opened(&mut self, new: &NewSession, opened_at: u64) -> Option<Written> {
        if new.kind == SessionKind::Sse {
            return None;
        }
        self.append_and_tell(Line::Session { new: new.clone(), opened_at, events: Vec::new() })
    }

    pub(super) fn ended(&mut self, server: &ServerName, id: &SessionId) {
        self.append(Line::Ended { server: server.clone(), id: id.clone() }, None);
    }

    /// Of many that end at once the new file says so.
    pub(super) fn all_ended(&mut self, (ended, forgotten): (&[Ended], &[Key]), table: &Table, tasks: &Tasks) {
        if ended.len() + forgotten.len() > ENDED_LINES_MAX {
            self.rewrite(table, tasks);
            return;
        }
        for gone in ended.iter().filter(|gone| gone.kind == SessionKind::Streamable) {
            self.ended(&gone.server, &gone.id);
        }
        for (server, id) in forgotten {
            self.task_ended(server, id);
        }
    }

    /// A task is nobody's any more before its time.
    pub(super) fn task_ended(&mut self, server: &ServerName, id: &str) {
        self.append(Line::TaskEnded { server: server.clone(), id: id.to_owned() }, None);
    }

    pub(super) fn task(&mut self, server: &ServerName, id: &str, made: &Made, at: u64) -> Option<Written> {
        self.append_and_tell(Line::Task { server: server.clone(), id: id.to_owned(), made: made.clone(), at })
    }

    fn append_and_tell(&mut self, line: Line) -> Option<Written> {
        let (tell, told) = oneshot::channel();
        self.append(line, Some(tell)).then_some(told)
    }

    /// Whether it goes to the file.
    fn append(&mut self, line: Line, tell: Option<oneshot::Sender<()>>) -> bool {
        self.lines += 1;
        match &mut self.writer {
            Writer::Thread(..) if self.lost > self.made_up => false,
            Writer::Thread(jobs, _) => {
                let is_queued = jobs.try_send(Job::Line(Box::new(line), tell)).is_ok();
                if !is_queued {
                    tracing::warn!(
                        "{LINES_WAITING_MAX} lines about sessions wait for the disk; one more is left out"
                    );
                    self.lose();
                }
                is_queued
            }
            Writer::Here(book) => {
                book.append(&line);
                false
            }
            Writer::None => false,
        }
    }

    fn lose(&mut self) {
        self.lost += 1;
        self.shared.lost.store(self.lost, Ordering::Relaxed);
    }

    /// Has the file written anew if lines were left out, or most of it is of no use any more. On a disk that goes on refusing
    /// less and less often: each try is a copy of all that there is.
    pub(super) fn keep_up(&mut self, table: &Table, tasks: &Tasks, now: u64) {
        let is_behind = self.shared.is_behind.load(Ordering::Relaxed) || self.lost > self.made_up;
        if is_behind {
            if now < self.again_at {
                return;
            }
            self.pause = (self.pause * 2).clamp(1000, RETRY_MILLISECONDS_MAX);
            self.again_at = now.saturating_add(self.pause);
            self.rewrite(table, tasks);
            return;
        }
        // By then the last try would have failed.
        if now >= self.again_at {
            self.pause = 0;
        }
        if self.lines > (table.len() + tasks.len()) * 2 + SPARE_LINES_MAX {
            self.rewrite(table, tasks);
        }
    }

    fn rewrite(&mut self, table: &Table, tasks: &Tasks) {
        let Writer::Thread(jobs, _) = &self.writer else { return };
        if jobs.try_send(Job::Rewrite(all(table, tasks, false).collect(), self.lost)).is_ok() {
            self.shared.is_behind.store(false, Ordering::Relaxed);
            self.made_up = self.lost;
            self.lines = table.len() + tasks.len();
        } else {
            self.lose();
        }
    }

    /// Writes all down, with the event ids, before the guard ends.
    pub(super) fn save(&mut self, table: &Table, tasks: &Tasks) {
        self.stop();
        if let Writer::Here(book) = &mut self.writer {
            book.rewrite(all(table, tasks, true));
        }
    }

    /// Waits for the lines that wait for the disk.
    fn stop(&mut self) {
        match std::mem::replace(&mut self.writer, Writer::None) {
            Writer::Thread(jobs, thread) => {
                drop(jobs);
                if let Ok(book) = thread.join() {
                    self.writer = Writer::Here(book);
                }
            }
            other => self.writer = other,
        }
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The thread. Ends when nobody can leave more to do.
fn write(jobs: &Receiver<Job>, shared: &Shared, mut book: Book) -> Book {
    let mut made_up = 0;
    while let Ok(job) = jobs.recv() {
        let lost = shared.lost.load(Ordering::Relaxed);
        if lost > made_up && !book.is_behind() {
            book.empty();
        }
        match job {
            Job::Line(line, tell) => {
                book.append(&line);
                if let Some(tell) = tell {
                    // Who waited may have left.
                    let _gone = tell.send(());
                }
            }
            // With a newer loss there is a newer file to come.
            Job::Rewrite(_, up_to) if lost > up_to => made_up = up_to,
            Job::Rewrite(lines, up_to) => {
                book.rewrite(lines);
                made_up = up_to;
            }
        }
        if book.is_behind() {
            shared.is_behind.store(true, Ordering::Relaxed);
        }
    }
    book
}

fn all<'a>(table: &'a Table, tasks: &'a Tasks, with_events: bool) -> impl Iterator<Item = Line> + use<'a> {
    let kept = table.each().filter(|(new, ..)| new.kind == SessionKind::Streamable);
    let sessions = kept.map(move |(new, opened_at, events)| Line::Session {
        new: new.clone(),
        opened_at,
        events: if with_events { events.all() } else { Vec::new() },
    });
    let tasks = tasks.each().map(|(server, id, made, at)| Line::Task {
        server: server.clone(),
        id: id.to_owned(),
        made: made.clone(),
        at,
    });
    sessions.chain(tasks)
}

#[cfg(test)]
mod tests;
