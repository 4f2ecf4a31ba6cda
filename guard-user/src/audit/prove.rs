//! Proofs about one record or one older checkpoint, for `mcp-guard audit prove`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::keys::Keys;
use super::merkle::{Tree, leaf_hash};
use super::note::{Checkpoint, NoteError, VerifierKey};
use super::proof::Gathering;
use super::walk::{Found, Lines, beginning, segments};
use super::{CHECKPOINT_FILE, KEYS_FILE};

/// What is to be proved, against the trail's latest signed checkpoint.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// That the record with this number is in the trail.
    Record(u64),
    /// That the trail goes on from this older signed checkpoint.
    Since(&'a str),
}

/// Why there is no proof.
#[derive(Debug, thiserror::Error)]
pub enum ProveError {
    #[error("{}: {error}", .path.display())]
    Read { path: PathBuf, error: io::Error },
    #[error("{}: {error}", .path.display())]
    Checkpoint { path: PathBuf, error: NoteError },
    #[error("the older checkpoint: {0}")]
    Older(NoteError),
    #[error(
        "record {seq} is not signed yet: the latest checkpoint covers the records 0 to {last}. A checkpoint follows within a \
         second of a record; is the number right?"
    )]
    NotSigned { seq: u64, last: u64 },
    #[error(
        "the older checkpoint covers {old} records, the latest one {size}: the trail was put back to an older state, or the two are \
         mixed up"
    )]
    Shrunk { old: u64, size: u64 },
    #[error("record {seq} was pruned: the trail begins with record {first}")]
    Pruned { seq: u64, first: u64 },
    #[error(
        "the older checkpoint covers {old} records, and the trail begins with record {first}: those before were pruned. A checkpoint from then \
         or later can be proved"
    )]
    OlderThanTheRest { old: u64, first: u64 },
    #[error(
        "the trail does not have the records that {what} covers, so nothing can be proved; `mcp-guard audit verify` tells what is \
         wrong with it"
    )]
    Differs { what: &'static str },
}

/// The text of a proof: a C2SP tlog-proof for a record, or an older checkpoint's consistency proof in the form that a C2SP
/// witness is posted. Reads the whole trail once.
pub fn prove(dir: &Path, key: &VerifierKey, claim: Claim<'_>) -> Result<String, ProveError> {
    let path = dir.join(CHECKPOINT_FILE);
    let note = fs::read_to_string(&path).map_err(|error| ProveError::Read { path: path.clone(), error })?;
    // Read after the checkpoint: what signed that is there.
    let keys = Keys::beside(dir, key.clone());
    let keys = &keys.map_err(|error| ProveError::Read { path: dir.join(KEYS_FILE), error })?;
    let latest = keys.open_checkpoint(&note).map_err(|error| ProveError::Checkpoint { path, error })?;
    match claim {
        Claim::Record(seq) => {
            let last = latest.size.saturating_sub(1);
            let mut gathering =
                Gathering::inclusion(seq, latest.size).ok_or(ProveError::NotSigned { seq, last })?;
            let record = gather(
                (dir, keys),
                &latest,
                &mut gathering,
                &Wanted { line: Some(seq), ..Wanted::default() },
            )?;
            Ok(gathering.inclusion_file(seq, &record, &note))
        }
        Claim::Since(older) => {
            let older = keys.open_checkpoint(older).map_err(ProveError::Older)?;
            let (old, size) = (older.size, latest.size);
            let mut gathering = Gathering::consistency(old, size).ok_or(ProveError::Shrunk { old, size })?;
            gather(
                (dir, keys),
                &latest,
                &mut gathering,
                &Wanted { older: Some(&older), ..Wanted::default() },
            )?;
            Ok(gathering.consistency_file(old, &note))
        }
    }
}

/// That what `latest` covers goes on from the first `old` records. Reads what stands behind these, by whole segments.
pub(super) fn growth(
    (dir, keys): (&Path, &Keys),
    latest: &Checkpoint,
    old: u64,
) -> Result<Gathering, ProveError> {
    let size = latest.size;
    let mut gathering = Gathering::consistency(old, size).ok_or(ProveError::Shrunk { old, size })?;
    // Nothing is to be proved of no records, nor of the same.
    if 0 < old && old < size {
        gather((dir, keys), latest, &mut gathering, &Wanted { from: Some(old), ..Wanted::default() })?;
    }
    Ok(gathering)
}

/// What is looked for beside the hashes.
#[derive(Default)]
struct Wanted<'a> {
    line: Option<u64>,
    older: Option<&'a Checkpoint>,
    /// What segments say of the records before this one need not be read anew: the root that comes out tells whether it is right.
    from: Option<u64>,
}

/// Reads what `latest` covers, and gives the line that is wanted.
fn gather(
    (dir, keys): (&Path, &Keys),
    latest: &Checkpoint,
    gathering: &mut Gathering,
    wanted: &Wanted<'_>,
) -> Result<Vec<u8>, ProveError> {
    let read = |path: &Path, error| ProveError::Read { path: path.to_owned(), error };
    let mut found = segments(dir).map_err(|error| read(dir, error))?;
    if let Some(from) = wanted.from {
        let begins = |(first, path): &(u64, PathBuf)| *first <= from && beginning(*first, path, keys).is_ok();
        found.drain(..found.iter().rposition(begins).unwrap_or(0));
    }
    let mut tree = Tree::default();
    if let Some((first, path)) = found.first().filter(|(first, _)| *first > 0) {
        (tree, _) = beginning(*first, path, keys).map_err(|error| read(path, error))?;
        let old = wanted.older.map(|older| older.size).or(wanted.from);
        match (wanted.line, old) {
            (Some(seq), _) if seq < *first => return Err(ProveError::Pruned { seq, first: *first }),
            (_, Some(old)) if old < *first => {
                return Err(ProveError::OlderThanTheRest { old, first: *first });
            }
            _ if !gathering.begin(&tree) => {
                return Err(ProveError::Differs { what: "the latest checkpoint" });
            }
            _ => {}
        }
    }
    let mut wanted_line = Vec::new();
    let look = |tree: &Tree| match wanted.older {
        Some(older) if older.size == tree.size() && older.root != tree.root() => {
            Err(ProveError::Differs { what: "the older checkpoint" })
        }
        _ => Ok(()),
    };
    look(&tree)?;
    for (_, path) in found {
        let mut lines = Lines::open(&path).map_err(|error| read(&path, error))?;
        while tree.size() < latest.size
            && let Some(Found::Line(line)) = lines.next().map_err(|error| read(&path, error))?
        {
            let (index, leaf) = (tree.size(), leaf_hash(line));
            if wanted.line == Some(index) {
                wanted_line = line.to_vec();
            }
            gathering.leaf(index, leaf);
            tree.push(leaf);
            look(&tree)?;
        }
    }
    if tree.size() == latest.size && tree.root() == latest.root {
        Ok(wanted_line)
    } else {
        Err(ProveError::Differs { what: "the latest checkpoint" })
    }
}
