//! The file of sessions and tasks: a line that names its format, and one JSON line for each that comes or goes.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::session::table::{NewSession, Table};
use crate::session::task::{Made, Tasks};
use crate::session::{SessionId, unix_milliseconds};
use crate::types::ServerName;

/// In `state_dir`.
pub(super) const FILE: &str = "sessions.jsonl";
/// What this build writes. It reads none that is newer; a file without a first line is from before there was one.
const FORMAT: u32 = 2;

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    Format {
        format: u32,
        /// The guard's version, for people.
        guard: String,
    },
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
    /// From format 2 on.
    TaskEnded {
        server: ServerName,
        id: String,
    },
}

/// The file as its one writer has it.
#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    /// `None`: it could not be written. What comes is left out until it is written anew.
    file: Option<File>,
}

impl Book {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self { path: state_dir.join(FILE), file: None }
    }

    /// Whether lines that are left out are to be made up for.
    pub(super) fn is_behind(&self) -> bool {
        self.file.is_none()
    }

    /// Writes one more line. A session or task that is left out is unknown after the next start, and its client begins anew.
    pub(super) fn append(&mut self, line: &Line) {
        if let Some(file) = &mut self.file {
            let written = serde_json::to_vec(line).map_err(io::Error::from).and_then(|mut line| {
                line.push(b'\n');
                file.write_all(&line)
            });
            if let Err(error) = written {
                self.warn(&error);
                self.file = None;
            }
        }
        // Its id may be given to somebody else, which the file would not say either.
        if self.file.is_none() && matches!(line, Line::Ended { .. } | Line::TaskEnded { .. }) {
            self.empty();
        }
    }

    /// Leaves nothing that is not so any more. Works on a full disk, too.
    pub(super) fn empty(&mut self) {
        self.file = None;
        if let Err(error) = OpenOptions::new().write(true).truncate(true).open(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            self.warn(&error);
        }
    }

    /// Replaces the file by one with these lines.
    pub(super) fn rewrite(&mut self, lines: impl IntoIterator<Item = Line>) {
        match self.replace(lines) {
            Ok(file) => self.file = Some(file),
            Err(error) => {
                // Half of it would only take room.
                let _gone = fs::remove_file(self.next());
                self.warn(&error);
            }
        }
    }

    fn next(&self) -> PathBuf {
        self.path.with_extension("next")
    }

    fn replace(&self, lines: impl IntoIterator<Item = Line>) -> io::Result<File> {
        let next = self.next();
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&next)?;
        let mut out = io::BufWriter::new(&file);
        let first = Line::Format { format: FORMAT, guard: env!("CARGO_PKG_VERSION").into() };
        for line in std::iter::once(first).chain(lines) {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        Ok(file)
    }

    fn warn(&self, error: &io::Error) {
        tracing::warn!(
            %error, file = %self.path.display(),
            "what was opened or ended just now will not outlive this guard, unless the file can be written again"
        );
    }
}

/// Reads what a former guard left into `table` and `tasks`.
pub(crate) fn load(state_dir: &Path, table: &mut Table, tasks: &mut Tasks) -> io::Result<()> {
    let path = state_dir.join(FILE);
    match File::open(&path) {
        Ok(file) => read(BufReader::new(file), table, tasks).map_err(|error| {
            let words = format!(
                "{}: {error}; without it no open session can be told from a stolen one. Start the build that wrote it, \
                 restore the file, or remove it: then all sessions begin anew",
                path.display()
            );
            io::Error::new(error.kind(), words)
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn read(file: impl BufRead, table: &mut Table, tasks: &mut Tasks) -> io::Result<()> {
    let mut lines = file.split(b'\n').peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice(&line?) {
            Ok(Line::Format { format: 1..=FORMAT, .. }) => {}
            Ok(Line::Format { format, guard }) => {
                return Err(io::Error::other(format!(
                    "it has format {format}, of mcp-guard {guard}, and this build reads up to format {FORMAT}"
                )));
            }
            Ok(Line::Session { new, opened_at, events }) => {
                // When it was used last is not written down: it gets its whole time again.
                table.restore(new, opened_at, unix_milliseconds(), events);
            }
            Ok(Line::Ended { server, id }) => _ = table.remove(&server, &id),
            Ok(Line::Task { server, id, made, at }) => tasks.restore(server, &id, made, at),
            Ok(Line::TaskEnded { server, id }) => _ = tasks.remove(&server, &id),
            // The guard was killed while it wrote.
            Err(_torn) if lines.peek().is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
