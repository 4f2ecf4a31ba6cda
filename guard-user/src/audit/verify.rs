//! The whole trail checked, for `mcp-guard audit verify`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::keys::Keys;
use super::note::{Checkpoint, NoteError, VerifierKey};
use super::walk::{Counts, Found, Lines, Pruned, Walk, beginning, segments};
use super::{CHECKPOINT_FILE, KEYS_FILE, VERIFIER_KEY_FILE, packed};

/// What a check came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Sound,
    /// A record, a checkpoint or their order was changed.
    Tampered,
    /// There are fewer records than a checkpoint covers, or a file is missing.
    Incomplete,
    /// A file cannot be read, or there is no usable key.
    Unreadable,
}

/// The first thing that is wrong.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Fault {
    pub file: PathBuf,
    /// From 1; 0 if it is about the file as a whole.
    pub line: u64,
    pub reason: String,
}

/// What a trail holds, up to the first fault.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    pub verdict: Verdict,
    pub fault: Option<Fault>,
    pub origin: Option<String>,
    pub records: u64,
    /// The first record: not 0 in a trail whose beginning was pruned.
    pub first: u64,
    /// What a signed record says of those before it.
    pub pruned: Option<Pruned>,
    pub segments: usize,
    pub counts: Counts,
    /// Forwarded calls without an outcome: under way, or cut off by a crash.
    pub open_calls: usize,
    /// How many times the trail's key was replaced.
    pub keys: u64,
    /// Records behind the latest checkpoint; only the chain protects these.
    pub unsigned_records: u64,
    /// Records that the older checkpoint covers, if one was given.
    pub since: Option<u64>,
    /// The key came from the trail's own directory: whoever could rewrite the trail could replace it, too.
    pub key_from_trail: bool,
}

const OTHER_RECORDS: &str = "a signed checkpoint covers other records than those up to here";

type Failure = (Verdict, Fault);

/// Checks the trail in `dir`, with `key` or else the one that lies beside it. With the file of an older checkpoint, the trail
/// must go on from that.
pub fn verify(dir: &Path, key: Option<&VerifierKey>, since: Option<&Path>) -> Report {
    verify_with(dir, key, since, &mut |_| {})
}

/// The same, and hands on every line that was found to be the next.
pub(super) fn verify_with(
    dir: &Path,
    key: Option<&VerifierKey>,
    since: Option<&Path>,
    each: &mut dyn FnMut(&[u8]),
) -> Report {
    let mut report = Report {
        verdict: Verdict::Sound,
        fault: None,
        origin: None,
        records: 0,
        first: 0,
        pruned: None,
        segments: 0,
        counts: Counts::default(),
        open_calls: 0,
        keys: 0,
        unsigned_records: 0,
        since: None,
        key_from_trail: key.is_none(),
    };
    if let Err((verdict, fault)) = check(dir, (key, since), &mut report, each) {
        report.verdict = verdict;
        report.fault = Some(fault);
    }
    report
}

fn check(
    dir: &Path,
    (key, since): (Option<&VerifierKey>, Option<&Path>),
    report: &mut Report,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), Failure> {
    let key = key.cloned().map_or_else(|| key_beside(dir), Ok)?;
    report.origin = Some(key.name().to_owned());
    // Read before the keys: a guard that is running may go on to another one.
    let note = checkpoint_beside(dir)?;
    let keys = keys_beside(dir, key)?;
    let older = since.map(|path| older(path, &keys)).transpose()?;
    report.since = older.as_ref().map(|older| older.size);
    let checkpoint = checkpoint(dir, &note, &keys)?;
    let found = segments(dir).map_err(|error| failure(Verdict::Unreadable, dir, 0, error))?;
    report.segments = found.len();

    let (first, begin) = found.first().map_or((0, dir), |(first, path)| (*first, path.as_path()));
    let mut walk = Walk::from(first, checkpoint.size, keys);
    report.first = first;
    let signed: Vec<_> = [Some(&checkpoint), older.as_ref()].into_iter().flatten().collect();
    look(&signed, &walk).map_err(|reason| failure(Verdict::Tampered, dir, 0, reason))?;
    // Where it begins, no line has been read yet; if it cannot begin there, the first line says why.
    if let Some((tree, _)) = (first > 0).then(|| beginning(first, begin, &walk.keys).ok()).flatten()
        && signed.iter().any(|checkpoint| checkpoint.size == first && checkpoint.root != tree.root())
    {
        return Err(failure(Verdict::Tampered, begin, 0, OTHER_RECORDS));
    }
    let mut end = Ok(());
    for (first, path) in &found {
        end = segment(*first, path, &signed, &mut walk, each);
        if end.is_err() {
            break;
        }
    }
    report.records = walk.next() - first;
    report.open_calls = walk.open_count();
    report.keys = walk.keys.epoch();
    report.pruned.clone_from(&walk.pruned);
    report.unsigned_records = walk.tree.size().saturating_sub(checkpoint.size);
    report.counts.clone_from(&walk.counts);
    end?;
    let size = signed.iter().map(|checkpoint| checkpoint.size).max().unwrap_or(0);
    if walk.next() < size {
        let last = found.last().map_or(dir, |(_, path)| path);
        let reason =
            format!("the trail ends after {} records, but {size} are in a signed checkpoint", walk.next());
        return Err(failure(Verdict::Incomplete, last, 0, reason));
    }
    if let Some(seq) = walk.hand_over_missed() {
        let verdict = if seq < walk.next() { Verdict::Tampered } else { Verdict::Incomplete };
        let reason =
            format!("it says that record {seq} hands over to the next key, and the trail has no such record");
        return Err(failure(verdict, &dir.join(KEYS_FILE), 0, reason));
    }
    walk.begins_rightly().map_err(|reason| failure(Verdict::Tampered, begin, 0, reason))?;
    if let (Some(older), Some(path)) = (older.filter(|older| older.size < first), since) {
        let reason = format!(
            "it covers {} records, and those before {first} were pruned: nothing says whether they were these. Keep a later one",
            older.size
        );
        return Err(failure(Verdict::Incomplete, path, 0, reason));
    }
    Ok(())
}

fn key_beside(dir: &Path) -> Result<VerifierKey, Failure> {
    let path = dir.join(VERIFIER_KEY_FILE);
    let text = fs::read_to_string(&path).map_err(|error| failure(Verdict::Unreadable, &path, 0, error))?;
    VerifierKey::parse(&text).map_err(|error| failure(Verdict::Unreadable, &path, 0, error))
}

fn segment(
    first: u64,
    path: &Path,
    signed: &[&Checkpoint],
    walk: &mut Walk,
    each: &mut dyn FnMut(&[u8]),
) -> Result<(), Failure> {
    if first != walk.next() {
        let reason = format!("it begins with record {first}, but record {} comes next", walk.next());
        let verdict = if first > walk.next() { Verdict::Incomplete } else { Verdict::Tampered };
        return Err(failure(verdict, path, 0, reason));
    }
    let unreadable = |number, error: io::Error| {
        let verdict = match error.kind() {
            _ if packed::is_damage(&error) => Verdict::Tampered,
            io::ErrorKind::UnexpectedEof => Verdict::Incomplete,
            _ => Verdict::Unreadable,
        };
        failure(verdict, path, number, error)
    };
    let mut lines = Lines::open(path).map_err(|error| unreadable(0, error))?;
    loop {
        let number = lines.number + 1;
        match lines.next().map_err(|error| unreadable(number, error))? {
            None => return Ok(()),
            Some(Found::Line(line)) => {
                walk.line(line).map_err(|reason| failure(Verdict::Tampered, path, number, reason))?;
                each(line);
            }
            Some(Found::Torn) => {
                let reason = "the line has no end; if the guard was killed, its next start repairs this";
                return Err(failure(Verdict::Incomplete, path, number, reason));
            }
        }
        look(signed, walk).map_err(|reason| failure(Verdict::Tampered, path, number, reason))?;
    }
}

/// Where a signed checkpoint ends, the tree has its root.
fn look(signed: &[&Checkpoint], walk: &Walk) -> Result<(), &'static str> {
    let mut ends =
        signed.iter().filter(|checkpoint| checkpoint.size == walk.next() && walk.next() == walk.tree.size());
    if ends.any(|checkpoint| checkpoint.root != walk.tree.root()) {
        return Err(OTHER_RECORDS);
    }
    Ok(())
}

/// All keys of the trail, which the first one vouches for.
fn keys_beside(dir: &Path, key: VerifierKey) -> Result<Keys, Failure> {
    Keys::beside(dir, key).map_err(|error| {
        let is_wrong = error.kind() == io::ErrorKind::InvalidData;
        let verdict = if is_wrong { Verdict::Tampered } else { Verdict::Unreadable };
        failure(verdict, &dir.join(KEYS_FILE), 0, error)
    })
}

/// The checkpoint that the trail must go on from.
fn older(path: &Path, keys: &Keys) -> Result<Checkpoint, Failure> {
    let note = fs::read_to_string(path).map_err(|error| failure(Verdict::Unreadable, path, 0, error))?;
    keys.open_checkpoint(&note).map_err(|error| {
        let is_ours = Checkpoint::said(&note).is_ok_and(|said| said.origin == keys.name());
        match error {
            // Of a later key than this trail has, if it is genuine.
            NoteError::NotSigned(_) if is_ours => {
                let reason = format!("it is signed with a key that `{KEYS_FILE}` does not have: the trail was put back to an older state, or it is another one's");
                failure(Verdict::Incomplete, path, 0, reason)
            }
            error => failure(Verdict::Unreadable, path, 0, error),
        }
    })
}

fn checkpoint_beside(dir: &Path) -> Result<String, Failure> {
    let path = dir.join(CHECKPOINT_FILE);
    fs::read_to_string(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => failure(Verdict::Incomplete, &path, 0, "the signed checkpoint is missing"),
        io::ErrorKind::InvalidData => failure(Verdict::Tampered, &path, 0, error),
        _ => failure(Verdict::Unreadable, &path, 0, error),
    })
}

fn checkpoint(dir: &Path, note: &str, keys: &Keys) -> Result<Checkpoint, Failure> {
    keys.open_checkpoint(note).map_err(|error| {
        let is_there = dir.join(KEYS_FILE).exists();
        let verdict = match error {
            NoteError::NotSigned(_) if !is_there => Verdict::Incomplete,
            _ => Verdict::Tampered,
        };
        let hint = if is_there { "" } else { ", and there is no file `keys`" };
        failure(verdict, &dir.join(CHECKPOINT_FILE), 0, format!("{error}{hint}"))
    })
}

fn failure(verdict: Verdict, file: &Path, line: u64, reason: impl std::fmt::Display) -> Failure {
    (verdict, Fault { file: file.to_owned(), line, reason: reason.to_string() })
}
