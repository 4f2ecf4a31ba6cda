//! The file of contexts: a line that names its format, and one for each label that was read in one. What says that something was read is
//! on disk before the answer goes on; so what a crash tears off is of no answer. Beside them, what is known to servers.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Whose;
use crate::rpc::Words;
use crate::types::{LabelName, ServerName};

/// In `state_dir`.
pub(super) const FILE: &str = "contexts.jsonl";
/// 1 had no `said`.
const FORMAT: u32 = 2;
/// Lines before the file is written anew with those that count, if these are less than half.
const LINES_MAX: usize = 65_536;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Line {
    /// The first line.
    Format {
        format: u32,
    },
    Read {
        id: u64,
        whose: Whose,
        label: LabelName,
    },
    /// The agent said this to the server, and may say it again.
    Said {
        id: u64,
        whose: Whose,
        server: ServerName,
        words: Words,
    },
    /// The context with this number.
    Over {
        id: u64,
    },
}

#[derive(Debug)]
pub(super) struct Book {
    path: PathBuf,
    /// `None`: it could not be written.
    file: Option<File>,
    lines: usize,
    /// So many lines make it due: by then at least half of them count no more.
    lines_max: usize,
    /// How often the disk was waited for.
    #[cfg(test)]
    pub(super) syncs: usize,
}

impl Book {
    pub(super) fn new(state_dir: &Path) -> Self {
        Self {
            path: state_dir.join(FILE),
            file: None,
            lines: 0,
            lines_max: LINES_MAX,
            #[cfg(test)]
            syncs: 0,
        }
    }

    /// Whether it is to be written anew.
    pub(super) fn is_due(&self) -> bool {
        self.file.is_none() || self.lines >= self.lines_max
    }

    /// As if the disk had refused a line, and refused the file.
    #[cfg(test)]
    pub(super) fn break_for_tests(&mut self) {
        self.file = None;
        self.path = "/nowhere/contexts.jsonl".into();
    }

    /// Durable when it returns: one wait for the disk, whatever their number.
    pub(super) fn append(&mut self, lines: &[Line]) -> io::Result<()> {
        let Some(file) = &mut self.file else {
            return Err(io::Error::other("the file of contexts is not open"));
        };
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line)?;
            text.push(b'\n');
        }
        #[cfg(test)]
        {
            self.syncs += 1;
        }
        let written = file.write_all(&text).and_then(|()| file.sync_data());
        match written {
            Ok(()) => self.lines += lines.len(),
            // Half a line may stand there.
            Err(_) => self.file = None,
        }
        written
    }

    /// Replaces the file by one with these lines.
    pub(super) fn rewrite(&mut self, lines: Vec<Line>) -> io::Result<()> {
        self.file = None;
        let next = self.path.with_extension("next");
        match fs::remove_file(&next) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = OpenOptions::new().append(true).create_new(true).mode(0o600).open(&next)?;
        let mut out = io::BufWriter::new(&file);
        self.lines = lines.len();
        self.lines_max = LINES_MAX.max(self.lines.saturating_mul(2));
        for line in std::iter::once(Line::Format { format: FORMAT }).chain(lines) {
            serde_json::to_writer(&mut out, &line)?;
            out.write_all(b"\n")?;
        }
        out.flush()?;
        drop(out);
        file.sync_all()?;
        fs::rename(&next, &self.path)?;
        if let Some(dir) = self.path.parent() {
            File::open(dir)?.sync_all()?;
        }
        self.file = Some(file);
        Ok(())
    }
}

/// Hands each line to `take`.
pub(super) fn load(state_dir: &Path, mut take: impl FnMut(Line)) -> io::Result<()> {
    let path = state_dir.join(FILE);
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    read(BufReader::new(file), &mut take).map_err(|error| {
        let words = format!(
            "{}: {error}; without it nobody can tell who has read what. Start the build that wrote it or restore the file; to \
             forget what all agents have read, remove it",
            path.display()
        );
        io::Error::new(error.kind(), words)
    })
}

fn read(file: impl BufRead, take: &mut impl FnMut(Line)) -> io::Result<()> {
    let mut lines = file.split(b'\n').peekable();
    while let Some(line) = lines.next() {
        match serde_json::from_slice(&line?) {
            Ok(Line::Format { format }) if format > FORMAT => {
                return Err(io::Error::other(format!(
                    "it has format {format}, and this build reads format {FORMAT}"
                )));
            }
            Ok(line) => take(line),
            // The guard was killed while it wrote, and what it wrote about did not go on.
            Err(_torn) if lines.peek().is_none() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
