//! Reads a trail from its first line on and says which line is wrong. Knows nothing about how it is written.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::merkle::{Hash, Tree, leaf_hash};
use super::note::VerifierKey;
use super::{FORMAT, LINE_BYTES_MAX};

/// `prev` of the first record.
pub(super) const NO_PREV: Hash = [0; 32];

/// Where a trail stands after some of its lines.
pub(super) struct Walk {
    pub(super) tree: Tree,
    /// `prev` of the next record.
    pub(super) prev: Hash,
    /// Forwarded calls without an outcome, by id.
    pub(super) open: BTreeMap<String, u64>,
    pub(super) counts: Counts,
}

/// How many records of a kind there are.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Counts {
    /// Forwarded calls.
    pub calls: u64,
    pub refusals: u64,
    pub outcomes: u64,
    /// Calls whose outcome a gap record gave up.
    pub lost_outcomes: u64,
    pub checkpoints: u64,
    pub gaps: u64,
}

/// The fields that hold a trail together.
#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    prev: &'a str,
    kind: &'a str,
    format: Option<u32>,
    #[serde(borrow)]
    origin: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    decision: Option<&'a str>,
    call_seq: Option<u64>,
    #[serde(borrow)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    open_count: Option<usize>,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { tree: Tree::default(), prev: NO_PREV, open: BTreeMap::new(), counts: Counts::default() }
    }

    /// Takes the next line, without its newline; says why it cannot be the next.
    pub(super) fn line(&mut self, bytes: &[u8], key: &VerifierKey) -> Result<(), String> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
        }
        let line: Line<'_> =
            serde_json::from_slice(bytes).map_err(|error| format!("not a record: {error}"))?;
        let seq = self.tree.size();
        if line.seq != seq {
            return Err(format!("record {} stands where record {seq} belongs", line.seq));
        }
        if line.prev != hex::encode(self.prev) {
            return Err("`prev` is not the hash of the line before: one of the two was changed".into());
        }
        if (seq == 0) != (line.kind == "genesis") {
            return Err("a trail has one genesis record, and it is the first".into());
        }
        self.meaning(&line, key)?;
        self.prev = leaf_hash(bytes);
        self.tree.push(self.prev);
        Ok(())
    }

    fn meaning(&mut self, line: &Line<'_>, key: &VerifierKey) -> Result<(), String> {
        match line.kind {
            "genesis" => {
                if line.format != Some(FORMAT) {
                    return Err(format!("format {:?}, but this program reads {FORMAT}", line.format));
                }
                if line.origin.as_deref() != Some(key.name()) {
                    return Err(format!("the trail of {:?}, but the key of {}", line.origin, key.name()));
                }
            }
            "call" => self.call(line)?,
            "outcome" => {
                let call = line.id.as_deref().and_then(|id| self.open.remove(id));
                if call.is_none() || call != line.call_seq {
                    return Err("an outcome without a call that waits for it".into());
                }
                self.counts.outcomes += 1;
            }
            "checkpoint" => {
                let note = line.note.as_deref().ok_or("a checkpoint record without a note")?;
                let checkpoint = key.open_checkpoint(note).map_err(|error| format!("its note: {error}"))?;
                if checkpoint.size != self.tree.size() || checkpoint.root != self.tree.root() {
                    return Err("its checkpoint was signed over other records than those before it".into());
                }
                self.counts.checkpoints += 1;
            }
            "gap" => {
                if line.reason.as_deref() == Some("restart") {
                    if line.open_count != Some(self.open.len()) {
                        return Err(format!(
                            "a restart with {} calls open, which it denies",
                            self.open.len()
                        ));
                    }
                    self.counts.lost_outcomes += u64::try_from(self.open.len()).unwrap_or(u64::MAX);
                    self.open.clear();
                }
                self.counts.gaps += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, line: &Line<'_>) -> Result<(), String> {
        let id = line.id.as_deref().ok_or("a call without an id")?;
        match line.decision {
            Some("allow") => {
                if self.open.insert(id.to_owned(), line.seq).is_some() {
                    return Err("its id is that of a call under way".into());
                }
                self.counts.calls += 1;
            }
            Some("deny" | "hold" | "tell") => self.counts.refusals += 1,
            _ => return Err("a call without a verdict".into()),
        }
        Ok(())
    }
}

/// The segments of `dir`, as (first record, path), in order.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let Some(digits) = name.strip_suffix(".jsonl") else { continue };
        if digits.len() == 20
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(first) = digits.parse()
        {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

/// The name of the segment whose first record is `first`.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// The lines of a file, one after the other, in bounded memory.
pub(super) struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
    /// Bytes of the whole lines read so far, newlines included.
    pub(super) end: u64,
    /// Number of the line read last, from 1.
    pub(super) number: u64,
}

/// What [`Lines`] found.
pub(super) enum Found<'a> {
    /// A line, without its newline.
    Line(&'a [u8]),
    /// The file's last bytes, which no newline ends; or a line that is too long.
    Torn,
}

impl Lines {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let file = BufReader::with_capacity(256 * 1024, File::open(path)?);
        Ok(Self { file, line: Vec::new(), end: 0, number: 0 })
    }

    /// Goes on at the first whole line behind `bytes`. Line numbers count from there.
    pub(super) fn skip_to(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > 0 {
            self.file.seek(SeekFrom::Start(bytes))?;
            self.end = bytes;
            self.next()?;
        }
        Ok(())
    }

    /// Goes on with the line that begins at `bytes`. Line numbers count from there.
    pub(super) fn start_at(&mut self, bytes: u64) -> io::Result<()> {
        self.file.seek(SeekFrom::Start(bytes))?;
        self.end = bytes;
        Ok(())
    }

    pub(super) fn next(&mut self) -> io::Result<Option<Found<'_>>> {
        self.line.clear();
        let most = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
        let read = self.file.by_ref().take(most).read_until(b'\n', &mut self.line)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        match self.line.strip_suffix(b"\n") {
            Some(line) => {
                self.end += u64::try_from(read).unwrap_or(u64::MAX);
                Ok(Some(Found::Line(line)))
            }
            None => Ok(Some(Found::Torn)),
        }
    }
}
