//! Checks one proof without the trail that it is about: what `mcp-guard audit prove` prints.

use std::path::Path;

use super::keys::Keys;
use super::note::{Checkpoint, Refused, base64};
use super::trail::{Fault, Verdict, fault, read};
use super::tree::{Hash, leaf, node};

const INCLUSION_HEAD: &str = "c2sp.org/tlog-proof@v1";
/// A tree of 2^64 records is 64 high.
const HASHES_MAX: usize = 64;

/// What a sound proof proves of a trail whose signed checkpoint covers `size` records.
#[derive(Debug)]
pub(crate) enum Proved {
    /// It has this record, with this number.
    Record { number: u64, record: String, size: u64 },
    /// It goes on from the older checkpoint, which covers `old` records.
    Grown { old: u64, size: u64 },
}

/// Checks the proof in the file `path`: of a record, or, with an older checkpoint's file, that the trail goes on from that.
pub(crate) fn verify(path: &Path, (key, later): (&str, &str), since: Option<&Path>) -> Result<Proved, Fault> {
    let unreadable = |path: &Path, reason: &str| fault(Verdict::Unreadable, path, 0, reason);
    let keys =
        Keys::parse(key, later).map_err(|reason| unreadable(path, &format!("--key or --keys: {reason}")))?;
    let text = read(path, Verdict::Unreadable)?;
    let (head, note) = text
        .split_once("\n\n")
        .ok_or_else(|| unreadable(path, "not a proof: no empty line before a checkpoint"))?;
    let latest = keys.checkpoint(note).map_err(|refused| {
        let hint = match refused {
            Refused::Stranger(_) => {
                "; the trail has had more than one key: its file `keys`, as --keys, has the later ones"
            }
            Refused::Wrong(_) => "",
        };
        fault(Verdict::Tampered, path, 0, &format!("{refused}{hint}"))
    })?;
    let wrong = |reason: &str| fault(Verdict::Tampered, path, 0, reason);
    let Some(since) = since else {
        let (number, record, path) = inclusion(head).map_err(|reason| unreadable(path, reason))?;
        if root_of(number, latest.size, leaf(&record), &path) != Some(latest.root) {
            return Err(wrong("the record is not that of the signed checkpoint, or the number is wrong"));
        }
        let record = String::from_utf8(record).map_err(|_why| wrong("the record is not text"))?;
        return Ok(Proved::Record { number, record, size: latest.size });
    };
    let note = read(since, Verdict::Unreadable)?;
    let older = keys.checkpoint(&note).map_err(|refused| unreadable(since, &refused.to_string()))?;
    let (old, path) = consistency(head).map_err(|reason| unreadable(path, reason))?;
    if old != older.size {
        return Err(unreadable(
            since,
            &format!("it covers {} records; the proof is about {old}", older.size),
        ));
    }
    if grows(&older, &latest, &path) {
        Ok(Proved::Grown { old, size: latest.size })
    } else {
        Err(wrong("the signed checkpoint does not go on from the older one"))
    }
}

/// Number, record and hashes of an inclusion proof (C2SP tlog-proof with the record as its extra data).
fn inclusion(head: &str) -> Result<(u64, Vec<u8>, Vec<Hash>), &'static str> {
    let mut lines = head.split('\n');
    if lines.next() != Some(INCLUSION_HEAD) {
        return Err(
            "not the proof of a record; for one that a trail has grown, name the older checkpoint with --since",
        );
    }
    let record = lines.next().and_then(|line| line.strip_prefix("extra ")).and_then(base64);
    let record = record.ok_or("the proof does not carry its record")?;
    let number = lines.next().and_then(|line| line.strip_prefix("index ")).and_then(number);
    Ok((number.ok_or("the proof does not say which record it is about")?, record, hashes(lines)?))
}

/// Size of the older tree, and hashes, of a consistency proof (as a C2SP witness is posted it).
fn consistency(head: &str) -> Result<(u64, Vec<Hash>), &'static str> {
    let mut lines = head.split('\n');
    let old = lines.next().and_then(|line| line.strip_prefix("old ")).and_then(number);
    Ok((old.ok_or("not a proof that a trail has grown; one of a record needs no --since")?, hashes(lines)?))
}

/// In its one spelling.
fn number(text: &str) -> Option<u64> {
    text.parse().ok().filter(|number: &u64| number.to_string() == text)
}

fn hashes<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Hash>, &'static str> {
    let hash = |line| base64(line).and_then(|hash| Hash::try_from(hash).ok());
    let hashes: Option<Vec<_>> = lines.take(HASHES_MAX + 1).map(hash).collect();
    hashes
        .filter(|hashes| hashes.len() <= HASHES_MAX)
        .ok_or("one of its hashes is none, or there are too many")
}

/// The root of the tree of `size` leaves in which `leaf` has this number and this path (RFC 9162, section 2.1.3.2).
pub(crate) fn root_of(number: u64, size: u64, leaf: Hash, path: &[Hash]) -> Option<Hash> {
    let (mut own, mut last) = (number, size.checked_sub(1).filter(|last| number <= *last)?);
    let mut root = leaf;
    for sibling in path {
        if last == 0 {
            return None;
        }
        if own & 1 == 1 || own == last {
            root = node(sibling, &root);
            while own & 1 == 0 && own != 0 {
                own >>= 1;
                last >>= 1;
            }
        } else {
            root = node(&root, sibling);
        }
        own >>= 1;
        last >>= 1;
    }
    (last == 0).then_some(root)
}

/// Whether the newer tree begins with all of the older one (RFC 9162, section 2.1.4.2).
pub(crate) fn grows(older: &Checkpoint, latest: &Checkpoint, path: &[Hash]) -> bool {
    if older.size == 0 || older.size == latest.size {
        let is_same = older.size == 0 || older.root == latest.root;
        return path.is_empty() && is_same && older.size <= latest.size;
    }
    let (mut own, mut last) = (older.size - 1, latest.size - 1);
    if own >= last {
        return false;
    }
    // The root of a complete older tree is where its path begins.
    let mut path = path.iter();
    let first = if older.size.is_power_of_two() { Some(&older.root) } else { path.next() };
    let Some(&first) = first else { return false };
    while own & 1 == 1 {
        own >>= 1;
        last >>= 1;
    }
    let (mut before, mut now) = (first, first);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if own & 1 == 1 || own == last {
            before = node(sibling, &before);
            now = node(sibling, &now);
            while own & 1 == 0 && own != 0 {
                own >>= 1;
                last >>= 1;
            }
        } else {
            now = node(&now, sibling);
        }
        own >>= 1;
        last >>= 1;
    }
    last == 0 && before == older.root && now == latest.root
}
