//! The calls that outcomes are about. Of what was exported before, they are found in the trail.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use memchr::memmem;
use serde_json::{Map, Value};

use super::feed::FeedError;
use super::lag::lines_from;
use crate::audit::merkle::{Hash, leaf_hash};
use crate::audit::walk::{Found, segments};

/// Calls under way that are remembered for the outcome; of others it is exported without what the call's record says.
const CALLS_REMEMBERED_MAX: usize = 65_536;
/// Records before the first one of an export that it looks through for such calls.
const LOOKED_BACK_MAX: u64 = 1_000_000;
/// Records of one look, where there are so many.
const LOOKED_BACK_LEAST: u64 = 10_000;

type Fields = Map<String, Value>;

/// Forwarded calls without an outcome, of the records from one on.
pub(super) struct Calls {
    dir: PathBuf,
    /// By their decision's id.
    open: HashMap<String, Fields>,
    first: u64,
    /// `prev` of that record: the hash of the one before, which was signed.
    prev: Hash,
    /// Calls before the first record whose outcomes were met when it was looked back.
    closed: HashSet<String>,
    /// How many records it may look back yet.
    left: u64,
}

/// What a record is to the calls.
enum Step {
    /// A call went on.
    Begins(String),
    Ends(String),
    /// None of the calls before it has an outcome any more.
    Restart,
    None,
}

impl Calls {
    /// Of the records of the trail in `dir` from this one on, which has this `prev`.
    pub(super) fn from(dir: &Path, first: u64, prev: Hash) -> Self {
        let (open, closed) = (HashMap::new(), HashSet::new());
        Self { dir: dir.to_owned(), open, first, prev, closed, left: LOOKED_BACK_MAX }
    }

    /// The call that an outcome is about, unless it was pruned, or is too long ago.
    pub(super) fn of(&mut self, fields: &Fields) -> Result<Option<Fields>, FeedError> {
        let Step::Ends(id) = step(fields) else { return Ok(None) };
        if let Some(seq) = fields.get("call_seq").and_then(Value::as_u64)
            && seq < self.first
            && !self.open.contains_key(&id)
        {
            self.look_back(seq)?;
        }
        Ok(self.open.remove(&id))
    }

    pub(super) fn remember(&mut self, fields: Fields) {
        match step(&fields) {
            Step::Begins(id) => insert(&mut self.open, id, fields),
            Step::Restart => self.open.clear(),
            Step::Ends(_) | Step::None => {}
        }
    }

    /// Reads the records from `seq` to the first one again. Each has the hash of the one before, and that of the last is known: what is not as
    /// it was signed is noticed.
    fn look_back(&mut self, seq: u64) -> Result<(), FeedError> {
        let found = segments(&self.dir).map_err(|error| FeedError::of(&self.dir, error))?;
        let Some((oldest, _)) = found.first().filter(|(first, _)| *first <= seq) else { return Ok(()) };
        if self.first - seq > self.left {
            return Ok(());
        }
        // Others that end next began near it: not one look for each.
        let seq = seq.min(self.first.saturating_sub(self.left.min(LOOKED_BACK_LEAST))).max(*oldest);
        let left = self.left - (self.first - seq);
        let Some(at) = found.iter().rposition(|(first, _)| *first <= seq) else { return Ok(()) };
        let changed = || FeedError::Behind { first: seq, last: self.first - 1 };
        let (mut open, mut closed) = (HashMap::new(), HashSet::new());
        let (mut next, mut before, mut prev) = (seq, None, None);
        for (_, path) in found.iter().skip(at).take_while(|(first, _)| *first < self.first) {
            let failed = |error| FeedError::of(path, error);
            let mut lines = lines_from(path, next).map_err(failed)?;
            while next < self.first
                && let Some(Found::Line(line)) = lines.next().map_err(failed)?
            {
                let said = prev_of(line, next).ok_or_else(changed)?;
                if prev.is_some_and(|prev| prev != said) {
                    return Err(changed());
                }
                before.get_or_insert(said);
                prev = Some(leaf_hash(line));
                next += 1;
                if [r#""kind":"call""#, r#""kind":"outcome""#, r#""kind":"gap""#]
                    .iter()
                    .any(|kind| memmem::find(line, kind.as_bytes()).is_some())
                {
                    let fields: Fields = serde_json::from_slice(line).map_err(|_no_record| changed())?;
                    match step(&fields) {
                        Step::Begins(id) => insert(&mut open, id, fields),
                        Step::Ends(id) => {
                            if open.remove(&id).is_none() {
                                closed.insert(id);
                            }
                        }
                        Step::Restart => open.clear(),
                        Step::None => {}
                    }
                }
            }
        }
        let before = before.filter(|_| prev == Some(self.prev)).ok_or_else(changed)?;
        open.retain(|id, _| !self.closed.contains(id));
        for (id, fields) in open {
            insert(&mut self.open, id, fields);
        }
        self.closed.extend(closed);
        (self.first, self.prev, self.left) = (seq, before, left);
        Ok(())
    }
}

fn insert(open: &mut HashMap<String, Fields>, id: String, fields: Fields) {
    if open.len() < CALLS_REMEMBERED_MAX {
        open.insert(id, fields);
    }
}

fn step(fields: &Fields) -> Step {
    let text = |name: &str| fields.get(name).and_then(Value::as_str);
    match (text("kind"), text("decision"), text("id")) {
        (Some("call"), Some("allow"), Some(id)) => Step::Begins(id.to_owned()),
        (Some("outcome"), _, Some(id)) => Step::Ends(id.to_owned()),
        (Some("gap"), ..) if text("reason") == Some("restart") => Step::Restart,
        _ => Step::None,
    }
}

/// What the line has as `prev`, if it is record `seq`.
fn prev_of(line: &[u8], seq: u64) -> Option<Hash> {
    let rest = line.strip_prefix(format!(r#"{{"seq":{seq},"prev":""#).as_bytes())?;
    let mut prev = [0; 32];
    hex::decode_to_slice(rest.get(..64)?, &mut prev).ok()?;
    rest.get(64..)?.starts_with(b"\",").then_some(prev)
}
