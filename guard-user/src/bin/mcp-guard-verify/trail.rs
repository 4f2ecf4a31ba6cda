//! Checks a trail from its first record to its last and stops at the first that is wrong.

use std::collections::HashMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::thread;

use super::blocks::{self, Batch, End};
use super::keys::Keys;
use super::note::{Checkpoint, Refused};
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
    /// The first record: not 0 where the beginning was pruned.
    pub(crate) first: u64,
    /// Behind the last record.
    pub(crate) next: u64,
    pub(crate) pruned: Option<Pruned>,
    pub(crate) calls: u64,
    pub(crate) refusals: u64,
    pub(crate) outcomes: u64,
    /// Calls whose outcome a gap record gives up.
    pub(crate) lost_outcomes: u64,
    /// Calls without an outcome at the end.
    pub(crate) open_calls: u64,
    pub(crate) gaps: u64,
    /// Of these, losses that an operator accepted.
    pub(crate) losses: u64,
    /// Checkpoint records.
    pub(crate) checkpoints: u64,
    /// How often the trail's key was replaced.
    pub(crate) keys: u64,
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
    /// The text of the trail's `keys`; else the file in its directory is taken.
    pub(crate) keys: Option<&'a str>,
    /// A file with a checkpoint of this trail that was copied before.
    pub(crate) since: Option<&'a Path>,
}

/// What a record says of those that are no more.
#[derive(Debug, Clone)]
pub(crate) struct Pruned {
    /// The first that was to stay.
    pub(crate) to: u64,
    /// The record that says so.
    pub(crate) seq: u64,
    pub(crate) time: String,
    pub(crate) cause: String,
}

struct Reader<'r> {
    report: &'r mut Report,
    keys: Keys,
    /// Records of keys that were read.
    keys_met: usize,
    latest: Checkpoint,
    since: Option<Checkpoint>,
    tree: Tree,
    prev: Hash,
    open: HashMap<String, u64>,
    /// Calls from before the first record that wait for their outcome, as that says.
    open_before: u64,
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
    pub(crate) fn records(&self) -> u64 {
        self.next - self.first
    }

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
    Keys::parse(&text, "").map_err(|reason| fault(Verdict::Unreadable, &key_path, 0, &reason))?;
    let path = dir.join("checkpoint");
    // Before the keys: a guard that is running may go on to another one.
    let note = read(&path, Verdict::Incomplete)?;
    let keys_path = dir.join("keys");
    let later = match wanted.keys {
        Some(later) => Some(later.to_owned()),
        None if keys_path.exists() => Some(read(&keys_path, Verdict::Incomplete)?),
        None => None,
    };
    let keys = Keys::parse(&text, later.as_deref().unwrap_or_default())
        .map_err(|reason| fault(Verdict::Tampered, &keys_path, 0, &reason))?;
    report.origin = Some(keys.name().to_owned());

    let since = wanted.since.map(|path| older(path, &keys)).transpose()?;
    report.since = since.as_ref().map(|since| since.size);
    let latest = keys.checkpoint(&note).map_err(|refused| match refused {
        Refused::Stranger(reason) if later.is_none() => {
            fault(Verdict::Incomplete, &path, 0, &format!("{reason}; the file `keys` is missing"))
        }
        refused => fault(Verdict::Tampered, &path, 0, &refused.to_string()),
    })?;
    let size = latest.size.max(report.since.unwrap_or(0));

    let segments = segments(dir)?;
    let last = segments.last().map_or(dir.to_owned(), |(_, path)| path.clone());
    let (firsts, files): (Vec<_>, Vec<_>) = segments.into_iter().unzip();
    let bytes: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    let first = firsts.first().copied().unwrap_or(0);
    (report.first, report.next) = (first, first);
    let (tree, prev, open) = (Tree::default(), [0; 32], HashMap::new());
    let mut reader = Reader { report, keys, keys_met: 0, latest, since, tree, prev, open, open_before: 0 };
    reader.look().map_err(|reason| fault(Verdict::Tampered, dir, 0, &reason))?;
    let (mut firsts, mut done) = (firsts.into_iter(), 0);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    blocks::read(&files, cores, |batch| {
        if batch.first <= 1
            && let Some(first) = firsts.next()
        {
            reader.segment(first, &batch.path)?;
        }
        done += batch.bytes;
        progress(done, bytes);
        reader.batch(batch)
    })?;
    let next = reader.report.next;
    if next < size {
        let reason = format!("the trail ends after {next} records; a signed checkpoint covers {size}");
        return Err(fault(Verdict::Incomplete, &last, 0, &reason));
    }
    if let Some(seq) = reader.keys.missed(first, reader.keys_met) {
        let verdict = if seq < next { Verdict::Tampered } else { Verdict::Incomplete };
        let reason =
            format!("record {seq} hands over to the next key, it says; the trail has no such record");
        return Err(fault(verdict, &keys_path, 0, &reason));
    }
    let is_told = |pruned: &Pruned| pruned.to >= first;
    if first > 0 && !reader.report.pruned.as_ref().is_some_and(is_told) {
        let reason =
            format!("the records before {first} are gone; no signed record says that they were pruned");
        return Err(fault(Verdict::Tampered, files.first().unwrap_or(&last), 0, &reason));
    }
    if let (Some(since), Some(path)) = (reader.report.since.filter(|since| *since < first), wanted.since) {
        let reason = format!(
            "it covers {since} records, and those before {first} were pruned: nothing says whether they were these; take a later one"
        );
        return Err(fault(Verdict::Incomplete, path, 0, &reason));
    }
    Ok(())
}

/// The checkpoint that the trail must go on from.
fn older(path: &Path, keys: &Keys) -> Result<Checkpoint, Fault> {
    let note = read(path, Verdict::Unreadable)?;
    keys.checkpoint(&note).map_err(|refused| match refused {
        Refused::Stranger(reason) => {
            let reason = format!(
                "{reason}, nor with one that comes later in `keys`: the trail was put back to an older state, or it is another one's"
            );
            fault(Verdict::Incomplete, path, 0, &reason)
        }
        Refused::Wrong(reason) => fault(Verdict::Unreadable, path, 0, &reason),
    })
}

impl Reader<'_> {
    fn segment(&mut self, first: u64, path: &Path) -> Result<(), Fault> {
        let next = self.report.next;
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
                let verdict = match error.kind() {
                    // What is packed is not as it was written.
                    ErrorKind::InvalidInput | ErrorKind::InvalidData => Verdict::Tampered,
                    ErrorKind::UnexpectedEof => Verdict::Incomplete,
                    _ => Verdict::Unreadable,
                };
                Err(fault(verdict, &batch.path, number, &error.to_string()))
            }
        }
    }

    fn record(&mut self, record: Record) -> Result<(), String> {
        let seq = self.report.next;
        if seq > 0 && seq == self.report.first {
            self.begin(seq, &record)?;
        }
        if record.seq != seq {
            return Err(format!("record {seq} belongs here"));
        }
        if record.prev != self.prev {
            return Err("`prev` is not the hash of the line before; one of the two was changed".into());
        }
        if (seq == 0) != matches!(record.meaning, Meaning::Genesis { .. }) {
            return Err("the first record, and only the first, is a genesis record".into());
        }
        let leaf = record.leaf;
        if let Meaning::Key { epoch, note } = &record.meaning {
            self.keys.meet(&record, *epoch, note, self.tree.root())?;
            self.keys_met += 1;
        }
        self.meaning(seq, record.meaning)?;
        self.prev = leaf;
        self.tree.add(self.prev);
        self.report.next += 1;
        self.report.keys = self.keys.count(self.report.next);
        self.report.open_calls = self.open_calls();
        self.report.unsigned_records = self.report.next.saturating_sub(self.latest.size);
        self.look()
    }

    /// Takes the word of the first record of a trail without its beginning, which it has signed.
    fn begin(&mut self, seq: u64, record: &Record) -> Result<(), String> {
        let Meaning::Checkpoint { note, state: Some(state) } = &record.meaning else {
            return Err("a trail does not begin here: the record does not say what was before".into());
        };
        let signed = self.keys.checkpoint(note).map_err(|refused| refused.to_string())?;
        self.tree = Tree::of(seq, &state.peaks)
            .filter(|tree| signed.size == seq && tree.root() == signed.root)
            .ok_or("what was before it is not what it has signed")?;
        (self.prev, self.open_before) = (record.prev, state.open);
        match &self.since {
            Some(since) if since.size == seq && since.root != signed.root => {
                Err("the checkpoint of --since covers other records than those before it".into())
            }
            _ => Ok(()),
        }
    }

    /// Calls without an outcome.
    fn open_calls(&self) -> u64 {
        u64::try_from(self.open.len()).unwrap_or(u64::MAX).saturating_add(self.open_before)
    }

    /// Where a signed checkpoint ends, the tree has its root.
    fn look(&self) -> Result<(), String> {
        let is_other = |checkpoint: &Checkpoint| {
            // Before the first record of a trail without its beginning, nothing is known yet.
            let is_known = self.report.next == 0 || self.report.next > self.report.first;
            is_known && checkpoint.size == self.report.next && checkpoint.root != self.tree.root()
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
            Meaning::Genesis { origin } if origin != self.keys.name() => {
                return Err("another key's trail".into());
            }
            Meaning::Genesis { .. } | Meaning::Key { .. } | Meaning::Other => {}
            Meaning::Call(id) => {
                if self.open.insert(id, seq).is_some() {
                    return Err("a call with the id of another that is under way".into());
                }
                self.report.calls += 1;
            }
            Meaning::Refusal => self.report.refusals += 1,
            Meaning::Outcome { id, call_seq } => {
                match self.open.remove(&id) {
                    Some(seq) if seq == call_seq => {}
                    None if call_seq < self.report.first && self.open_before > 0 => self.open_before -= 1,
                    _ => return Err("an outcome, but no call waits for it".into()),
                }
                self.report.outcomes += 1;
            }
            Meaning::Checkpoint { note, state } => {
                let signed = self.keys.checkpoint(&note).map_err(|refused| refused.to_string())?;
                if signed.size != seq || signed.root != self.tree.root() {
                    return Err("its checkpoint covers other records than those before it".into());
                }
                if let Some(state) = state
                    && (state.open != self.open_calls()
                        || Tree::of(seq, &state.peaks).as_ref() != Some(&self.tree))
                {
                    return Err("how the trail stood before it is not as it says".into());
                }
                self.report.checkpoints += 1;
            }
            Meaning::Pruned { to, .. } if to > seq => return Err("it is about records behind it".into()),
            Meaning::Pruned { to, time, cause } => {
                // What is not signed anybody could have written.
                let is_signed = seq < self.latest.size;
                if is_signed && self.report.pruned.as_ref().is_none_or(|pruned| pruned.to < to) {
                    self.report.pruned = Some(Pruned { to, seq, time, cause });
                }
            }
            Meaning::Gap { restart, is_loss } => {
                self.report.gaps += 1;
                self.report.losses += u64::from(is_loss);
                let Some(said) = restart else { return Ok(()) };
                let open = self.open_calls();
                if said != open {
                    return Err(format!("{open} calls were open at this restart"));
                }
                self.report.lost_outcomes += open;
                self.open.clear();
                self.open_before = 0;
            }
        }
        Ok(())
    }
}

/// Files named by twenty digits, in order.
fn segments(dir: &Path) -> Result<Vec<(u64, PathBuf)>, Fault> {
    let unreadable = |error: std::io::Error| fault(Verdict::Unreadable, dir, 0, &error.to_string());
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let name = path.file_name().and_then(|name| name.to_str());
        let digits = name.and_then(|name| name.strip_suffix(".gz").unwrap_or(name).strip_suffix(".jsonl"));
        if let Some(digits) =
            digits.filter(|digits| digits.len() == 20 && digits.bytes().all(|byte| byte.is_ascii_digit()))
            && let Ok(first) = digits.parse()
        {
            found.push((first, path));
        }
    }
    // Of one that is there plain and packed, the plain one is first, and counts.
    found.sort();
    found.dedup_by_key(|(first, _)| *first);
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
