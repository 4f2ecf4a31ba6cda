//! What outlives the guard: a file with one JSON line for each session or task that comes or goes.
//!
//! A line is written at once and not synced: when the host dies, the servers' sessions die with it. When the file has
//! grown, and when the guard ends in order, it is replaced by one of what there is, with the event ids, which are too many
//! to write down one by one. After a `kill -9` streams therefore cannot be resumed; sessions and tasks go on.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::table::{NewSession, SessionKind, Table};
use super::task::{Made, Tasks};
use super::{SessionId, unix_milliseconds};
use crate::types::ServerName;

/// In `state_dir`.
const FILE: &str = "sessions.jsonl";
/// Lines beyond those that are needed, before the file is written anew.
const SPARE_LINES_MAX: usize = 4096;

#[derive(Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
enum Line {
    Session {
        #[serde(flatten)]
        new: NewSession,
        opened_at: u64,
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        events: Vec<u64>,
    },
    Ended {
        server: ServerName,
        id: SessionId,
    },
    Task {
        server: ServerName,
        id: String,
        made: Made,
        at: u64,
    },
}

pub(super) struct Journal {
    path: PathBuf,
    /// `None`: it could not be opened again. What comes is then not written down until the next compaction.
    file: Option<File>,
    lines: usize,
}

impl Journal {
    /// Reads what is there into `table` and `tasks`.
    pub(super) fn open(state_dir: &Path, table: &mut Table, tasks: &mut Tasks) -> io::Result<Self> {
        fs::create_dir_all(state_dir)?;
        load(state_dir, table, tasks)?;
        let path = state_dir.join(FILE);
        let mut journal = Self { path, file: None, lines: 0 };
        journal.rewrite(table, tasks)?;
        Ok(journal)
    }

    /// A session that ends with its stream does not outlive the guard.
    pub(super) fn opened(&mut self, new: &NewSession, now: u64) {
        if new.kind == SessionKind::Sse {
            return;
        }
        self.append(&Line::Session { new: new.clone(), opened_at: now, events: Vec::new() });
    }

    pub(super) fn ended(&mut self, server: &ServerName, id: &SessionId) {
        self.append(&Line::Ended { server: server.clone(), id: id.clone() });
    }

    pub(super) fn task(&mut self, server: &ServerName, id: &str, made: &Made, now: u64) {
        self.append(&Line::Task { server: server.clone(), id: id.to_owned(), made: made.clone(), at: now });
    }

    /// What is lost here costs a client a new session after the next start, and opens nothing.
    fn append(&mut self, line: &Line) {
        let Some(file) = &mut self.file else { return };
        let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            file.write_all(&line)
        });
        self.lines += 1;
        if let Err(error) = written {
            tracing::warn!(%error, file = %self.path.display(), "sessions will not outlive this guard");
            self.file = None;
        }
    }

    /// Writes the file anew if most of it is of no use any more.
    pub(super) fn compact_if_long(&mut self, table: &Table, tasks: &Tasks) {
        if self.file.is_none() || self.lines > (table.len() + tasks.len()) * 2 + SPARE_LINES_MAX {
            self.compact(table, tasks);
        }
    }

    pub(super) fn compact(&mut self, table: &Table, tasks: &Tasks) {
        if let Err(error) = self.rewrite(table, tasks) {
            tracing::warn!(%error, file = %self.path.display(), "sessions will not outlive this guard");
        }
    }

    fn rewrite(&mut self, table: &Table, tasks: &Tasks) -> io::Result<()> {
        let next = self.path.with_extension("next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&next)?;
        let mut out = io::BufWriter::new(&file);
        let kept = table.each().filter(|(new, ..)| new.kind == SessionKind::Streamable);
        for (new, opened_at, events) in kept {
            line(&mut out, &Line::Session { new: new.clone(), opened_at, events })?;
        }
        for (server, id, made, at) in tasks.each() {
            line(
                &mut out,
                &Line::Task { server: server.clone(), id: id.to_owned(), made: made.clone(), at },
            )?;
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        (self.file, self.lines) = (Some(file), table.len() + tasks.len());
        Ok(())
    }
}

/// Reads what a former guard left into `table` and `tasks`.
pub(super) fn load(state_dir: &Path, table: &mut Table, tasks: &mut Tasks) -> io::Result<()> {
    let path = state_dir.join(FILE);
    match File::open(&path) {
        Ok(file) => read(BufReader::new(file), table, tasks).map_err(|error| {
            let words = format!(
                "{}: {error}; without it no open session can be told from a stolen one. Restore the file, or remove \
                 it: then all sessions begin anew",
                path.display()
            );
            io::Error::new(error.kind(), words)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    serde_json::to_writer(&mut *out, line)?;
    out.write_all(b"\n")
}

fn read(file: impl BufRead, table: &mut Table, tasks: &mut Tasks) -> io::Result<()> {
    let mut lines = file.split(b'\n').peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice(&line?) {
            Ok(Line::Session { new, opened_at, events }) => {
                // When it was used last is not written down: it gets its whole time again.
                table.restore(new, opened_at, unix_milliseconds(), events);
            }
            Ok(Line::Ended { server, id }) => _ = table.remove(&server, &id),
            Ok(Line::Task { server, id, made, at }) => tasks.restore(server, &id, made, at),
            // The guard was killed while it wrote.
            Err(_torn) if lines.peek().is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::owner::tests::owner;
    use super::*;
    use crate::config::Limits;

    fn new(id: &str) -> NewSession {
        let (server, id) = (ServerName::parse("crm").unwrap(), SessionId::parse(id.as_bytes()).unwrap());
        let (version, host, kind) = (Some("2025-11-25".into()), None, SessionKind::Streamable);
        NewSession { server, id, owner: owner("a"), netns: 1, port: 3001, version, host, kind }
    }

    fn open(dir: &Path) -> io::Result<(Journal, Table, Tasks)> {
        let (mut table, mut tasks) = (Table::new(&Limits::default()), Tasks::default());
        Ok((Journal::open(dir, &mut table, &mut tasks)?, table, tasks))
    }

    fn known(table: &Table) -> Vec<String> {
        let mut ids: Vec<_> = table.each().map(|(new, ..)| new.id.as_str().to_owned()).collect();
        ids.sort();
        ids
    }

    #[test]
    fn what_was_written_is_there_again_and_a_torn_end_is_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let now = unix_milliseconds();
        {
            let (mut journal, ..) = open(dir.path()).unwrap();
            journal.opened(&new("1"), now);
            journal.opened(&new("2"), now);
            journal.ended(&new("1").server, &new("1").id);
            let made = Made { owner: owner("a"), tool: "report".into(), decision: "d".into() };
            journal.task(&new("1").server, "t", &made, now);
            journal.opened(&new("3"), now);
        }
        let file = dir.path().join(FILE);
        let whole = fs::read(&file).unwrap();
        fs::write(&file, &whole[..whole.len() - 5]).unwrap();
        let (_, table, tasks) = open(dir.path()).unwrap();
        assert_eq!((known(&table), tasks.len()), (vec!["2".to_owned()], 1));
        // The torn line is gone, so that what is appended stands on a line of its own.
        let (mut journal, ..) = open(dir.path()).unwrap();
        journal.opened(&new("4"), now);
        drop(journal);
        assert_eq!(known(&open(dir.path()).unwrap().1), ["2", "4"]);
    }

    /// When it was used last is not written down.
    #[test]
    fn a_session_that_was_opened_long_ago_is_not_idle_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let now = unix_milliseconds();
        let idle = Limits::default().session_idle_seconds * 1000;
        let (mut journal, ..) = open(dir.path()).unwrap();
        journal.opened(&new("1"), now - 2 * idle);
        drop(journal);
        let (_, mut table, _) = open(dir.path()).unwrap();
        assert!(table.sweep(now + idle / 2).is_empty());
        assert_eq!(table.sweep(now + 2 * idle).len(), 1);
    }

    #[test]
    fn a_file_that_cannot_be_understood_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{}\n{}\n").unwrap();
        assert!(open(dir.path()).is_err());
    }

    #[test]
    fn lines_of_no_use_do_not_pile_up() {
        let dir = tempfile::tempdir().unwrap();
        let (mut journal, table, tasks) = open(dir.path()).unwrap();
        for _ in 0..=SPARE_LINES_MAX {
            journal.ended(&new("1").server, &new("1").id);
        }
        journal.compact_if_long(&table, &tasks);
        assert_eq!(fs::metadata(dir.path().join(FILE)).unwrap().len(), 0);
    }
}
