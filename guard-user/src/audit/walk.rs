//! Reads a trail from its first line on and says which line is wrong. Knows nothing about how it is written.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufRead, Read};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::Deserialize;

use super::keys::{HandOvers, Keys};
use super::merkle::{Hash, Tree, leaf_hash};
use super::{FORMAT, KEYS_FILE, LINE_BYTES_MAX, packed, spelling};

/// `prev` of the first record.
pub(super) const NO_PREV: Hash = [0; 32];

/// Where a trail stands after some of its lines.
pub(super) struct Walk {
    /// Those whose turn has come.
    pub(super) keys: Keys,
    /// What the trail's file of keys has beyond them.
    hand_overs: HandOvers,
    pub(super) tree: Tree,
    /// `prev` of the next record.
    pub(super) prev: Hash,
    /// Forwarded calls without an outcome, by id.
    pub(super) open: BTreeMap<String, u64>,
    /// The same, of calls before the first record that was read; how many.
    open_before: usize,
    /// The first record that was read.
    first: u64,
    /// Records that the checkpoint covers.
    signed: u64,
    /// The highest record up to which those before were pruned, and the signed record that says so. What is not signed says nothing of that, since
    /// anybody could have written it.
    pub(super) pruned: Option<Pruned>,
    /// Signed records say that an operator accepted a loss among the first so many records.
    pub(super) accepted: BTreeSet<u64>,
    pub(super) counts: Counts,
}

/// What a record says of those that are no more.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Pruned {
    /// The first that was to stay.
    pub to: u64,
    /// The record that says so.
    pub seq: u64,
    pub time: String,
    /// `policy` or `operator`.
    pub cause: String,
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
    /// Of these, losses that an operator accepted.
    pub losses: u64,
}

/// The fields that hold a trail together. They have these types in records of any kind.
#[derive(Deserialize)]
struct Line<'a> {
    seq: u64,
    prev: &'a str,
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
    open_count: Option<usize>,
    /// Of the first record of a segment.
    #[serde(borrow)]
    peaks: Option<Vec<Cow<'a, str>>>,
    /// Of a record of a key, which [`Keys`] reads.
    #[expect(dead_code, reason = "its type counts")]
    epoch: Option<u64>,
    /// Of a record of pruning.
    to: Option<u64>,
    /// Of a loss that was accepted.
    lost_to: Option<u64>,
    #[serde(borrow)]
    cause: Option<Cow<'a, str>>,
    #[serde(borrow)]
    time: Option<Cow<'a, str>>,
}

impl Walk {
    /// Of a trail whose first record is this one, whose checkpoint covers so many, and which has these keys.
    pub(super) fn from(first: u64, signed: u64, keys: Keys) -> Self {
        let (keys, hand_overs) = keys.split(first);
        Self {
            keys,
            hand_overs,
            tree: Tree::default(),
            prev: NO_PREV,
            open: BTreeMap::new(),
            open_before: 0,
            first,
            signed,
            pruned: None,
            accepted: BTreeSet::new(),
            counts: Counts::default(),
        }
    }

    /// The number of the next record.
    pub(super) fn next(&self) -> u64 {
        self.first.max(self.tree.size())
    }

    /// Forwarded calls without an outcome.
    pub(super) fn open_count(&self) -> usize {
        self.open.len().saturating_add(self.open_before)
    }

    /// An error unless the trail begins with record 0, or a signed record says that those before it were pruned.
    pub(super) fn begins_rightly(&self) -> Result<(), String> {
        if self.first == 0 || self.pruned.as_ref().is_some_and(|pruned| pruned.to >= self.first) {
            return Ok(());
        }
        Err(format!(
            "the records before {} are gone, and no signed record says that they were pruned",
            self.first
        ))
    }

    /// The next record that the file of keys says hands over, and that was not met.
    pub(super) fn hand_over_missed(&self) -> Option<u64> {
        self.hand_overs.missed()
    }

    /// The state before the first line, by its own word: the root is signed.
    fn begin(&mut self, line: &Line<'_>) -> Result<(), String> {
        let wrong =
            || format!("a trail does not begin here: record {} does not say what came before", self.first);
        let (note, peaks) = line
            .note
            .as_deref()
            .zip(line.peaks.as_ref())
            .filter(|_| line.kind == "checkpoint")
            .ok_or_else(wrong)?;
        is_format(line)?;
        let checkpoint = self.keys.open_checkpoint(note).map_err(|error| format!("its note: {error}"))?;
        let tree = tree_of(self.first, peaks).ok_or_else(wrong)?;
        let mut prev = NO_PREV;
        let is_hash = line.prev.len() == 64 && hex::decode_to_slice(line.prev, &mut prev).is_ok();
        if line.seq != self.first
            || checkpoint.size != self.first
            || checkpoint.root != tree.root()
            || !is_hash
        {
            return Err(wrong());
        }
        (self.tree, self.prev) = (tree, prev);
        self.open_before = line.open_count.ok_or_else(wrong)?;
        Ok(())
    }

    /// Takes the next line, without its newline; says why it cannot be the next.
    pub(super) fn line(&mut self, bytes: &[u8]) -> Result<(), String> {
        if bytes.len() > LINE_BYTES_MAX {
            return Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
        }
        // Once for all of its texts; serde would look at each.
        let text = std::str::from_utf8(bytes).map_err(|error| format!("not a record: {error}"))?;
        let line: Line<'_> = serde_json::from_str(text).map_err(|error| format!("not a record: {error}"))?;
        if self.tree.size() < self.first {
            self.begin(&line)?;
        }
        let seq = self.tree.size();
        if line.seq != seq {
            return Err(format!("record {} stands where record {seq} belongs", line.seq));
        }
        let mut prev = [0; 64];
        if hex::encode_to_slice(self.prev, &mut prev).is_err() || line.prev.as_bytes() != prev {
            return Err("`prev` is not the hash of the line before: one of the two was changed".into());
        }
        if (seq == 0) != (line.kind == "genesis") {
            return Err("a trail has one genesis record, and it is the first".into());
        }
        is_written_so(bytes, seq, line.prev)?;
        self.meaning(&line, text)?;
        self.prev = leaf_hash(bytes);
        self.tree.push(self.prev);
        Ok(())
    }

    fn meaning(&mut self, line: &Line<'_>, text: &str) -> Result<(), String> {
        match &*line.kind {
            "genesis" => {
                is_format(line)?;
                if line.origin.as_deref() != Some(self.keys.name()) {
                    return Err(format!(
                        "the trail of {:?}, but the key of {}",
                        line.origin,
                        self.keys.name()
                    ));
                }
            }
            "call" => self.call(line)?,
            "outcome" => {
                let id = line.id.as_deref().ok_or("an outcome without an id")?;
                let call = self.open.remove(id);
                let is_of_before = line.call_seq.is_some_and(|seq| seq < self.first);
                match self.open_before.checked_sub(1).filter(|_| is_of_before && call.is_none()) {
                    Some(fewer) => self.open_before = fewer,
                    None if call.is_none() || call != line.call_seq => {
                        return Err("an outcome without a call that waits for it".into());
                    }
                    None => {}
                }
                self.counts.outcomes += 1;
            }
            "checkpoint" => {
                let note = line.note.as_deref().ok_or("a checkpoint record without a note")?;
                let checkpoint =
                    self.keys.open_checkpoint(note).map_err(|error| format!("its note: {error}"))?;
                if checkpoint.size != self.tree.size() || checkpoint.root != self.tree.root() {
                    return Err("its checkpoint was signed over other records than those before it".into());
                }
                if let Some(peaks) = &line.peaks {
                    is_format(line)?;
                    if tree_of(line.seq, peaks).as_ref() != Some(&self.tree)
                        || line.open_count != Some(self.open_count())
                    {
                        return Err("it says otherwise than the records before it how the trail stood".into());
                    }
                }
                self.counts.checkpoints += 1;
            }
            "key" => {
                if !self.hand_overs.meets(text) {
                    return Err(format!("`{KEYS_FILE}` has another record of this key"));
                }
                self.keys.take(text)?;
                if self.keys.last().is_none_or(|last| last.root != self.tree.root()) {
                    return Err("it was signed over other records than those before it".into());
                }
            }
            "pruned" => {
                let to = line.to.filter(|to| *to <= line.seq).ok_or("it does not say what was pruned")?;
                if line.seq < self.signed && self.pruned.as_ref().is_none_or(|pruned| pruned.to < to) {
                    let text = |text: &Option<Cow<'_, str>>| text.as_deref().unwrap_or_default().to_owned();
                    let (time, cause) = (text(&line.time), text(&line.cause));
                    self.pruned = Some(Pruned { to, seq: line.seq, time, cause });
                }
            }
            "gap" => {
                if line.reason.as_deref() == Some("restart") {
                    let open = self.open_count();
                    if line.open_count != Some(open) {
                        return Err(format!("a restart with {open} calls open, which it denies"));
                    }
                    self.counts.lost_outcomes += u64::try_from(open).unwrap_or(u64::MAX);
                    self.open.clear();
                    self.open_before = 0;
                }
                if line.reason.as_deref() == Some("loss_accepted") {
                    let last = line.lost_to.filter(|_| line.seq < self.signed);
                    self.accepted.extend(last.map(|last| last.saturating_add(1)));
                    self.counts.losses += 1;
                }
                self.counts.gaps += 1;
            }
            _ => {}
        }
        Ok(())
    }

    fn call(&mut self, line: &Line<'_>) -> Result<(), String> {
        let id = line.id.as_deref().ok_or("a call without an id")?;
        match line.decision.as_deref() {
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

fn is_format(line: &Line<'_>) -> Result<(), String> {
    if line.format == Some(FORMAT.into()) {
        return Ok(());
    }
    Err(format!("format {:?}, but this program reads {FORMAT}", line.format))
}

/// What holds a trail together stands first in a line, and a line is printable ASCII in one spelling: no reader can take it for another.
pub(super) fn is_written_so(line: &[u8], seq: u64, prev: &str) -> Result<(), &'static str> {
    // Without an early end, so that many bytes are compared at once.
    if line.iter().fold(false, |is_odd, byte| is_odd | !(0x20..0x7f).contains(byte)) {
        return Err("it has a byte that is not printable ASCII");
    }
    if !line.starts_with(format!(r#"{{"seq":{seq},"prev":"{prev}","time":""#).as_bytes()) {
        return Err("it does not begin with `seq`, `prev` and `time`");
    }
    spelling::is_own(line)
}

/// How a trail stands before its first record, by that record's signed word, and what that has as `prev`.
pub(super) fn beginning(first: u64, path: &Path, keys: &Keys) -> io::Result<(Tree, Hash)> {
    let mut walk = Walk::from(first, u64::MAX, keys.clone());
    let mut lines = Lines::open(path)?;
    let Some(Found::Line(bytes)) = lines.next()? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
    let wrong = |reason| io::Error::new(io::ErrorKind::InvalidData, reason);
    walk.begin(&serde_json::from_slice(bytes)?).map_err(wrong)?;
    Ok((walk.tree, walk.prev))
}

/// As the first record of a segment tells it.
fn tree_of(size: u64, peaks: &[Cow<'_, str>]) -> Option<Tree> {
    let peak = |text: &Cow<'_, str>| BASE64.decode(&**text).ok().and_then(|hash| Hash::try_from(hash).ok());
    Tree::from_peaks(size, peaks.iter().map(peak).collect::<Option<_>>()?)
}

/// The segments of `dir`, as (first record, path), in order; where one is there packed and plain, the plain one.
pub(super) fn segments(dir: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let mut found: Vec<(u64, PathBuf)> = Vec::new();
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let plain = name.strip_suffix(packed::ENDING).unwrap_or(name);
        let Some(digits) = plain.strip_suffix(".jsonl") else { continue };
        if digits.len() == 20
            && digits.bytes().all(|byte| byte.is_ascii_digit())
            && let Ok(first) = digits.parse()
        {
            found.push((first, path));
        }
    }
    found.sort();
    found.dedup_by_key(|(first, _)| *first);
    Ok(found)
}

/// The name of the segment whose first record is `first`.
pub(super) fn segment_name(first: u64) -> String {
    format!("{first:020}.jsonl")
}

/// The lines of a segment, one after the other, in bounded memory.
pub(super) struct Lines {
    path: PathBuf,
    file: Box<dyn BufRead + Send>,
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
        Ok(Self { path: path.to_owned(), file: packed::open(path, 0)?, line: Vec::new(), end: 0, number: 0 })
    }

    /// Goes on at the first whole line behind `bytes`. Line numbers count from there.
    pub(super) fn skip_to(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > 0 {
            self.start_at(bytes)?;
            self.next()?;
        }
        Ok(())
    }

    /// Goes on with the line that begins at `bytes`. Line numbers count from there.
    pub(super) fn start_at(&mut self, bytes: u64) -> io::Result<()> {
        if bytes > 0 {
            self.file = packed::open(&self.path, bytes)?;
        }
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
