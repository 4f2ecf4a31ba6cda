//! Checks a trail from its first record to its last and stops at the first that is wrong.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use super::blocks::{self, Batch, End};
use super::note::{Checkpoint, Key};
use super::record::{Meaning, Record};
use super::tree::{Hash, Tree};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Sound,
    Tampered,
    Incomplete,
    Unreadable,
}

/// What is wrong first, and where. Line 0 is the file as a whole.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) verdict: Verdict,
    pub(crate) file: PathBuf,
    pub(crate) line: u64,
    pub(crate) reason: String,
}

/// What was read, up to the first fault.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) fault: Option<Fault>,
    pub(crate) origin: Option<String>,
    pub(crate) key_from_trail: bool,
    pub(crate) segments: u64,
    pub(crate) records: u64,
    pub(crate) calls: u64,
    pub(crate) refusals: u64,
    pub(crate) outcomes: u64,
    /// Calls whose outcome a gap record gives up.
    pub(crate) lost_outcomes: u64,
    /// Calls without an outcome at the end.
    pub(crate) open_calls: u64,
    pub(crate) gaps: u64,
    /// Checkpoint records.
    pub(crate) checkpoints: u64,
    /// Records behind the latest signed checkpoint.
    pub(crate) unsigned_records: u64,
    /// Records that the older checkpoint covers, if one was given.
    pub(crate) since: Option<u64>,
}

/// What the trail is checked against.
pub(crate) struct Wanted<'a> {
    pub(crate) dir: &'a Path,
    /// The text of a verifier key; else the one in the trail's directory is taken.
    pub(crate) key: Option<&'a str>,
    /// A file with a checkpoint of this trail that was copied before.
    pub(crate) since: Option<&'a Path>,
}

struct Reader<'r> {
    report: &'r mut Report,
    key: Key,
    latest: Checkpoint,
    since: Option<Checkpoint>,
    tree: Tree,
    prev: Hash,
    open: HashMap<String, u64>,
}

impl Verdict {
    pub(crate) fn code(self) -> u8 {
        match self {
            Self::Sound => 0,
            Self::Tampered => 1,
            Self::Incomplete => 2,
            Self::Unreadable => 3,
        }
    }
}

impl Report {
    pub(crate) fn verdict(&self) -> Verdict {
        self.fault.as_ref().map_or(Verdict::Sound, |fault| fault.verdict)
    }
}

/// Checks a trail. `progress` is told the bytes that are done and those there are.
pub(crate) fn verify(wanted: &Wanted<'_>, progress: impl FnMut(u64, u64)) -> Report {
    let mut report = Report { key_from_trail: wanted.key.is_none(), ..Report::default() };
    report.fault = check(wanted, &mut report, progress).err();
    report
}

fn check(wanted: &Wanted<'_>, report: &mut Report, mut progress: impl FnMut(u64, u64)) -> Result<(), Fault> {
    let dir = wanted.dir;
    let key_path = dir.join("verifier-key");
    let text = wanted.key.map_or_else(|| read(&key_path, Verdict::Unreadable), |text| Ok(text.to_owned()))?;
    let key = Key::parse(&text).map_err(|reason| fault(Verdict::Unreadable, &key_path, 0, &reason))?;
    report.origin = Some(key.name.clone());

    let since = wanted.since.map(|path| older(path, &key)).transpose()?;
    report.since = since.as_ref().map(|since| since.size);
    let path = dir.join("checkpoint");
    let note = read(&path, Verdict::Incomplete)?;
    let latest = key.checkpoint(&note).map_err(|reason| fault(Verdict::Tampered, &path, 0, &reason))?;
    let size = latest.size.max(report.since.unwrap_or(0));

    let segments = segments(dir)?;
    let last = segments.last().map_or(dir.to_owned(), |(_, path)| path.clone());
    let (firsts, files): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
    let bytes: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    let (tree, prev, open) = (Tree::default(), [0; 32], HashMap::new());
    let mut reader = Reader { report, key, latest, since, tree, prev, open };
    reader.look().map_err(|reason| fault(Verdict::Tampered, dir, 0, &reason))?;
    let (mut firsts, mut done) = (firsts.into_iter(), 0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    blocks::read(&files, cores, |batch| {
        if batch.first <= 1
            && let Some(first) = firsts.next()
        {
            reader.segment(first, &batch.path)?;
        }
        done += u64::try_from(batch.bytes).unwrap_or(u64::MAX);
        progress(done, bytes);
        reader.batch(batch)
    })?;
    let records = reader.report.records;
    if records < size {
        let reason = format!("the trail ends after {records} records; a signed checkpoint covers {size}");
        return Err(fault(Verdict::Incomplete, &last, 0, &reason));
    }
    Ok(())
}

/// The checkpoint that the trail must go on from.
fn older(path: &Path, key: &Key) -> Result<Checkpoint, Fault> {
    let note = read(path, Verdict::Unreadable)?;
    key.checkpoint(&note).map_err(|reason| fault(Verdict::Unreadable, path, 0, &reason))
}

impl Reader<'_> {
    fn segment(&mut self, first: u64, path: &Path) -> Result<(), Fault> {
        let next = self.report.records;
        if first != next {
            let verdict = if first > next { Verdict::Incomplete } else { Verdict::Tampered };
            let reason = format!("its first record should be {next}: a file is missing, cut or renamed");
            return Err(fault(verdict, path, 0, &reason));
        }
        self.report.segments += 1;
        Ok(())
    }

    fn batch(&mut self, batch: Batch) -> Result<(), Fault> {
        let mut number = batch.first;
        for record in batch.records {
            record
                .and_then(|record| self.record(record))
                .map_err(|reason| fault(Verdict::Tampered, &batch.path, number, &reason))?;
            number += 1;
        }
        match batch.end {
            None => Ok(()),
            Some(End::Torn) => {
                let reason =
                    "the line has no end or is too long; after a crash the guard's next start mends the end";
                Err(fault(Verdict::Incomplete, &batch.path, number, reason))
            }
            Some(End::Unreadable(error)) => {
                Err(fault(Verdict::Unreadable, &batch.path, number, &error.to_string()))
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        let seq = self.report.records;
        if record.seq != seq {
            return Err(format!("record {seq} belongs here"));
        }
        if record.prev != self.prev {
            return Err("`prev` is not the hash of the line before; one of the two was changed".into());
        }
        if (seq == 0) != matches!(record.meaning, Meaning::Genesis { .. }) {
            return Err("the first record, and only the first, is a genesis record".into());
        }
        self.meaning(seq, record.meaning)?;
        self.prev = record.leaf;
        self.tree.add(self.prev);
        self.report.records += 1;
        self.report.open_calls = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        self.report.unsigned_records = self.report.records.saturating_sub(self.latest.size);
        self.look()
    }

    /// Where a signed checkpoint ends, the tree has its root.
    fn look(&self) -> Result<(), String> {
        let is_other = |checkpoint: &Checkpoint| {
            checkpoint.size == self.report.records && checkpoint.root != self.tree.root()
        };
        if is_other(&self.latest) {
            return Err("the signed checkpoint covers other records than those up to here".into());
        }
        if self.since.as_ref().is_some_and(is_other) {
            return Err("the checkpoint of --since covers other records than those up to here".into());
        }
        Ok(())
    }

    fn meaning(&mut self, seq: u64, meaning: Meaning) -> Result<(), String> {
        match meaning {
            Meaning::Genesis { origin } if origin != self.key.name => {
                return Err("another key's trail".into());
            }
            Meaning::Genesis { .. } | Meaning::Other => {}
            Meaning::Call(id) => {
                if self.open.insert(id, seq).is_some() {
                    return Err("a call with the id of another that is under way".into());
                }
                self.report.calls += 1;
            }
            Meaning::Refusal => self.report.refusals += 1,
            Meaning::Outcome { id, call_seq } => {
                if self.open.remove(&id) != Some(call_seq) {
                    return Err("an outcome, but no call waits for it".into());
                }
                self.report.outcomes += 1;
            }
            Meaning::Checkpoint(note) => {
                let signed = self.key.checkpoint(&note)?;
                if signed.size != seq || signed.root != self.tree.root() {
                    return Err("its checkpoint covers other records than those before it".into());
                }
                self.report.checkpoints += 1;
            }
            Meaning::Gap { restart } => {
                self.report.gaps += 1;
                let Some(said) = restart else { return Ok(()) };
                let open = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
                if said != open {
                    return Err(format!("{open} calls were open at this restart"));
                }
                self.report.lost_outcomes += open;
                self.open.clear();
            }
        }
        Ok(())
    }
}

/// Files named by twenty digits, in order.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Fault> {
    let unreadable = |error: std::io::Error| fault(Verdict::Unreadable, dir, 0, &error.to_string());
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let digits =
            path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(".jsonl"));
        if let Some(digits) = digits.filter(|digits| digits.len() == 20)
            && let Ok(first) = digits.parse()
        {
            found.push((first, path));
        }
    }
    found.sort();
    Ok(found)
}

pub(crate) fn read(path: &Path, missing: Verdict) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| {
        let verdict = match error.kind() {
            ErrorKind::NotFound => missing,
            ErrorKind::InvalidData => Verdict::Tampered,
            _ => Verdict::Unreadable,
        };
        fault(verdict, path, 0, &error.to_string())
    })
}

pub(crate) fn fault(verdict: Verdict, file: &Path, line: u64, reason: &str) -> Fault {
    Fault { verdict, file: file.to_owned(), line, reason: reason.to_owned() }
}
