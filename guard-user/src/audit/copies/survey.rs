//! What each copy of the checkpoint says of the trail as it is now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::Serialize;

use super::super::keys::Keys;
use super::super::merkle::{Hash, Tree, leaf_hash};
use super::super::note::Checkpoint;
use super::super::walk::{Found, Lines, beginning, segments};
use super::super::{CHECKPOINT_FILE, key};
use super::keeper::NOTE_BYTES_MAX;
use super::{files, witness};
use crate::config::{Config, read_bounded};

/// A trail, and the copies of its checkpoint that can be read here.
#[derive(Debug, Serialize)]
pub struct Survey {
    pub dir: PathBuf,
    /// Records of the trail.
    pub records: u64,
    pub copies: Vec<Surveyed>,
}

/// One copy.
#[derive(Debug, Serialize)]
pub struct Surveyed {
    /// `own` (the trail's own checkpoint), `file` or `witness`.
    pub kind: &'static str,
    pub place: String,
    /// Records that it covers.
    pub size: Option<u64>,
    /// Since its file was written.
    pub age_seconds: Option<u64>,
    pub standing: Agreement,
    /// Why it is not compared.
    pub error: Option<String>,
}

/// What a copy says of the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Agreement {
    /// The trail has these records.
    Agrees,
    /// It has others in their place.
    Other,
    /// It has fewer.
    Fewer,
    /// The beginning was pruned, up to behind what it covers.
    Pruned,
    /// None of the trail's keys signed it.
    Foreign,
    Missing,
    Unreadable,
}

impl Survey {
    /// Whether no copy that is there denies the trail. One that is missing, or that nobody could read, does not.
    pub fn agrees(&self) -> bool {
        let denies = [Agreement::Other, Agreement::Fewer, Agreement::Foreign];
        self.copies.iter().all(|copy| !denies.contains(&copy.standing))
    }
}

/// Reads the copies first, and then the trail, which goes on meanwhile.
pub fn survey(config: &Config) -> io::Result<Survey> {
    let dir = config.audit_dir();
    let root = key::root(&dir).map_err(io::Error::other)?;
    let root = root.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "there is no trail"))?;
    let mut read: Vec<_> = places(config, &dir).map(|(kind, place, path)| look(kind, place, &path)).collect();
    let keys = Keys::beside(&dir, root)?;
    let open = |(copy, note): &mut (Surveyed, Option<String>)| {
        let checkpoint = keys.open_checkpoint(note.as_ref()?);
        checkpoint
            .inspect_err(|error| {
                copy.standing = Agreement::Foreign;
                copy.error = Some(error.to_string());
            })
            .ok()
    };
    let checkpoints: Vec<_> = read.iter_mut().map(open).collect();
    let sizes: Vec<_> = checkpoints.iter().flatten().map(|checkpoint| checkpoint.size).collect();
    let Walked { first, records, roots } = walk(&dir, &keys, &sizes)?;
    for ((copy, _), checkpoint) in read.iter_mut().zip(&checkpoints) {
        let Some(Checkpoint { size, root, .. }) = checkpoint else { continue };
        copy.size = Some(*size);
        copy.standing = match roots.iter().find(|(at, _)| at == size) {
            Some((_, here)) if here == root => Agreement::Agrees,
            Some(_) => Agreement::Other,
            None if *size < first => Agreement::Pruned,
            None => Agreement::Fewer,
        };
    }
    Ok(Survey { dir, records, copies: read.into_iter().map(|(copy, _)| copy).collect() })
}

fn places<'a>(config: &'a Config, dir: &'a Path) -> impl Iterator<Item = (&'static str, String, PathBuf)> {
    let file = |kind, path: PathBuf| (kind, path.display().to_string(), path);
    let own = file("own", dir.join(CHECKPOINT_FILE));
    let copies = files(config).into_iter().map(move |path| file("file", path));
    let witnesses = config.audit.checkpoints.witnesses.iter();
    let witnesses = witnesses.map(|one| ("witness", one.url.to_string(), dir.join(witness::file_name(one))));
    std::iter::once(own).chain(copies).chain(witnesses)
}

fn look(kind: &'static str, place: String, path: &Path) -> (Surveyed, Option<String>) {
    let age = |modified: SystemTime| modified.elapsed().unwrap_or_default().as_secs();
    let age_seconds = fs::metadata(path).and_then(|metadata| metadata.modified()).ok().map(age);
    let mut copy =
        Surveyed { kind, place, size: None, age_seconds, standing: Agreement::Unreadable, error: None };
    let note = match read_bounded(path, NOTE_BYTES_MAX) {
        // What is no text is no checkpoint either, and is told as that.
        Ok(bytes) => Some(String::from_utf8_lossy(&bytes).into_owned()),
        Err(error) => {
            if error.kind() == io::ErrorKind::NotFound {
                copy.standing = Agreement::Missing;
            }
            copy.error = Some(error.to_string());
            None
        }
    };
    (copy, note)
}

/// A trail, as far as copies are about it.
struct Walked {
    /// The number of its first record.
    first: u64,
    records: u64,
    /// By the number of records.
    roots: Vec<(u64, Hash)>,
}

/// With the root at each of `sizes` that the trail has.
fn walk(dir: &Path, keys: &Keys, sizes: &[u64]) -> io::Result<Walked> {
    let mut found = segments(dir)?;
    let first = found.first().map_or(0, |(first, _)| *first);
    let from = sizes.iter().copied().filter(|size| *size >= first).min().unwrap_or(u64::MAX);
    // A root that a signature covers tells whether what a segment says of those before it is right.
    let begins = |(first, path): &(u64, PathBuf)| *first <= from && beginning(*first, path, keys).is_ok();
    found.drain(..found.iter().rposition(begins).unwrap_or(0));
    let mut tree = match found.first() {
        Some((first, path)) if *first > 0 => beginning(*first, path, keys)?.0,
        _ => Tree::default(),
    };
    let mut roots = Vec::new();
    let mut note = |tree: &Tree| {
        if sizes.contains(&tree.size()) {
            roots.push((tree.size(), tree.root()));
        }
    };
    note(&tree);
    for (_, path) in found {
        let mut lines = Lines::open(&path)?;
        // What no newline ends is being written.
        while let Some(Found::Line(line)) = lines.next()? {
            tree.push(leaf_hash(line));
            note(&tree);
        }
    }
    Ok(Walked { first, records: tree.size(), roots })
}
