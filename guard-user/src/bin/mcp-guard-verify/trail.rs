//! Reads a trail from its first line to its last and stops at the first that is wrong.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::note::{Checkpoint, Key, hex};
use super::tree::{Hash, Tree, leaf};

const LINE_BYTES_MAX: u64 = 65_535;
const FORMAT: u64 = 1;

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
}

/// The fields that matter here. `seq` and `prev` are compared as bytes, before this is read.
#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    format: Option<u64>,
    #[serde(borrow)]
    origin: Option<Cow<'a, str>>,
    #[serde(borrow)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    decision: Option<Cow<'a, str>>,
    call_seq: Option<u64>,
    #[serde(borrow)]
    note: Option<Cow<'a, str>>,
    #[serde(borrow)]
    reason: Option<Cow<'a, str>>,
    open_count: Option<u64>,
}

struct Reader<'r> {
    report: &'r mut Report,
    key: Key,
    latest: Checkpoint,
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

/// Checks the trail in `dir`, with the text of a verifier key or with the one in `dir`.
pub(crate) fn verify(dir: &Path, key: Option<&str>) -> Report {
    let mut report = Report { key_from_trail: key.is_none(), ..Report::default() };
    report.fault = check(dir, key, &mut report).err();
    report
}

fn check(dir: &Path, key: Option<&str>, report: &mut Report) -> Result<(), Fault> {
    let key_path = dir.join("verifier-key");
    let text = key.map_or_else(|| read(&key_path, Verdict::Unreadable), |text| Ok(text.to_owned()))?;
    let key = Key::parse(&text).map_err(|reason| fault(Verdict::Unreadable, &key_path, 0, &reason))?;
    report.origin = Some(key.name.clone());

    let path = dir.join("checkpoint");
    let note = read(&path, Verdict::Incomplete)?;
    let latest = key.checkpoint(&note).map_err(|reason| fault(Verdict::Tampered, &path, 0, &reason))?;

    let segments = segments(dir)?;
    let last = segments.last().map_or(dir.to_owned(), |(_, path)| path.clone());
    let size = latest.size;
    let mut reader =
        Reader { report, key, latest, tree: Tree::default(), prev: [0; 32], open: HashMap::new() };
    for (first, path) in segments {
        reader.segment(first, &path)?;
    }
    let records = reader.report.records;
    if records < size {
        let reason = format!("the trail ends after {records} records; a signed checkpoint covers {size}");
        return Err(fault(Verdict::Incomplete, &last, 0, &reason));
    }
    Ok(())
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
        let unreadable =
            |line, error: std::io::Error| fault(Verdict::Unreadable, path, line, &error.to_string());
        let mut file =
            BufReader::with_capacity(1 << 18, File::open(path).map_err(|error| unreadable(0, error))?);
        let mut bytes = Vec::new();
        for number in 1.. {
            bytes.clear();
            let read = file.by_ref().take(LINE_BYTES_MAX + 1).read_until(b'\n', &mut bytes);
            if read.map_err(|error| unreadable(number, error))? == 0 {
                break;
            }
            let Some(line) = bytes.strip_suffix(b"\n") else {
                let reason =
                    "the line has no end or is too long; after a crash the guard's next start mends the end";
                return Err(fault(Verdict::Incomplete, path, number, reason));
            };
            self.line(line).map_err(|reason| fault(Verdict::Tampered, path, number, &reason))?;
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) -> Result<(), String> {
        let seq = self.report.records;
        if !line.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            return Err("a byte that is not printable ASCII".into());
        }
        let head = format!(r#"{{"seq":{seq},"prev":""#);
        let Some(rest) = line.strip_prefix(head.as_bytes()) else {
            return Err(format!("record {seq} belongs here"));
        };
        if !rest.starts_with(format!(r#"{}","time":""#, hex(&self.prev)).as_bytes()) {
            return Err("`prev` is not the hash of the line before; one of the two was changed".into());
        }
        let record: Record<'_> = serde_json::from_slice(line).map_err(|error| error.to_string())?;
        if (seq == 0) != (record.kind == "genesis") {
            return Err("the first record, and only the first, is a genesis record".into());
        }
        self.meaning(seq, &record)?;
        self.prev = leaf(line);
        self.tree.add(self.prev);
        self.report.records += 1;
        self.report.open_calls = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
        self.report.unsigned_records = self.report.records.saturating_sub(self.latest.size);
        if self.report.records == self.latest.size && self.tree.root() != self.latest.root {
            return Err("the signed checkpoint covers other records than those up to here".into());
        }
        Ok(())
    }

    fn meaning(&mut self, seq: u64, record: &Record<'_>) -> Result<(), String> {
        match &*record.kind {
            "genesis" if record.format != Some(FORMAT) => {
                Err("a format that this program does not know".into())
            }
            "genesis" if record.origin.as_deref() != Some(&*self.key.name) => {
                Err("another key's trail".into())
            }
            "call" => self.call(seq, record),
            "outcome" => {
                let call = record.id.as_deref().and_then(|id| self.open.remove(id));
                if call.is_none() || call != record.call_seq {
                    return Err("an outcome, but no call waits for it".into());
                }
                self.report.outcomes += 1;
                Ok(())
            }
            "checkpoint" => {
                let signed = self.key.checkpoint(record.note.as_deref().unwrap_or_default())?;
                if signed.size != seq || signed.root != self.tree.root() {
                    return Err("its checkpoint covers other records than those before it".into());
                }
                self.report.checkpoints += 1;
                Ok(())
            }
            "gap" => {
                self.report.gaps += 1;
                if record.reason.as_deref() == Some("restart") {
                    let open = u64::try_from(self.open.len()).unwrap_or(u64::MAX);
                    if record.open_count != Some(open) {
                        return Err(format!("{open} calls were open at this restart"));
                    }
                    self.report.lost_outcomes += open;
                    self.open.clear();
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn call(&mut self, seq: u64, record: &Record<'_>) -> Result<(), String> {
        match (record.id.as_deref(), record.decision.as_deref()) {
            (Some(id), Some("allow")) => {
                if self.open.insert(id.to_owned(), seq).is_some() {
                    return Err("a call with the id of another that is under way".into());
                }
                self.report.calls += 1;
            }
            (Some(_), Some("deny" | "hold")) => self.report.refusals += 1,
            _ => return Err("a call without an id or a verdict".into()),
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

fn read(path: &Path, missing: Verdict) -> Result<String, Fault> {
    std::fs::read_to_string(path).map_err(|error| {
        let verdict = match error.kind() {
            ErrorKind::NotFound => missing,
            ErrorKind::InvalidData => Verdict::Tampered,
            _ => Verdict::Unreadable,
        };
        fault(verdict, path, 0, &error.to_string())
    })
}

fn fault(verdict: Verdict, file: &Path, line: u64, reason: &str) -> Fault {
    Fault { verdict, file: file.to_owned(), line, reason: reason.to_owned() }
}
