//! What each copy of the checkpoint says of the trail as it is now.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant, UNIX_EPOCH};

use serde::Serialize;

use super::super::keys::Keys;
use super::super::merkle::{Hash, Tree, leaf_hash};
use super::super::note::Checkpoint;
use super::super::walk::{Found, Lines, beginning, segments};
use super::super::{CHECKPOINT_FILE, key};
use super::keeper::NOTE_BYTES_MAX;
use super::known::{PATIENCE, apart, until};
use super::{files, witness};
use crate::config::{Config, WitnessKey, read_bounded};

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
    /// Since its file was written; of a witness, since it signed.
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
    /// It names this trail, and none of the keys that this one tells of signed it.
    LaterKey,
    /// It is of another trail, or no checkpoint.
    Foreign,
    /// The witness has not signed it.
    Unsigned,
    Missing,
    Unreadable,
}

impl Survey {
    /// Whether no copy that is there denies the trail. One that is missing, or that nobody could read, does not.
    pub fn agrees(&self) -> bool {
        use Agreement::{Agrees, Missing, Pruned, Unreadable};
        self.copies.iter().all(|copy| matches!(copy.standing, Agrees | Missing | Pruned | Unreadable))
    }
}

/// Reads the copies first, and then the trail, which goes on meanwhile. Without a trail, a copy of one denies that.
pub fn survey(config: &Config) -> io::Result<Survey> {
    let dir = config.audit_dir();
    let root = key::root(&dir).map_err(io::Error::other)?;
    let mut copies = read(places(config, &dir));
    let Some(root) = root else {
        let said = |copy: &mut Copy| Checkpoint::said(copy.note.as_ref()?).ok();
        for (copy, said) in copies.iter_mut().filter_map(|copy| said(copy).map(|said| (copy, said))) {
            (copy.told.size, copy.told.standing) = (Some(said.size), Agreement::Fewer);
        }
        let copies: Vec<_> = copies.into_iter().map(|copy| copy.told).collect();
        if copies.iter().all(|copy| copy.size.is_none()) {
            return Err(io::Error::new(io::ErrorKind::NotFound, "there is no trail"));
        }
        return Ok(Survey { dir, records: 0, copies });
    };
    let keys = Keys::beside(&dir, root)?;
    let checkpoints: Vec<_> = copies.iter_mut().map(|copy| copy.open(&keys)).collect();
    let sizes: Vec<_> = checkpoints.iter().flatten().map(|checkpoint| checkpoint.size).collect();
    let walked = walk(&dir, &keys, &sizes)?;
    for (copy, checkpoint) in copies.iter_mut().zip(&checkpoints) {
        if let Some(checkpoint) = checkpoint {
            copy.told.standing = walked.agreement(checkpoint);
        }
    }
    let records = walked.records;
    Ok(Survey { dir, records, copies: copies.into_iter().map(|copy| copy.told).collect() })
}

/// What a signed checkpoint says of the trail in `dir`, which has these keys.
pub(super) fn agreement(dir: &Path, keys: &Keys, checkpoint: &Checkpoint) -> io::Result<Agreement> {
    Ok(walk(dir, keys, &[checkpoint.size])?.agreement(checkpoint))
}

/// Where a copy is.
struct Place {
    kind: &'static str,
    name: String,
    path: PathBuf,
    /// Of the witness that must have signed it.
    witness: Option<WitnessKey>,
}

/// What was read there.
struct Copy {
    told: Surveyed,
    note: Option<String>,
    witness: Option<WitnessKey>,
}

impl Copy {
    /// The checkpoint, if it is one of this trail.
    fn open(&mut self, keys: &Keys) -> Option<Checkpoint> {
        let note = self.note.as_ref()?;
        let said = Checkpoint::said(note).ok();
        self.told.size = said.as_ref().map(|said| said.size);
        let deny = |told: &mut Surveyed, standing, why: String| {
            (told.standing, told.error) = (standing, Some(why));
            None
        };
        let checkpoint = match keys.open_checkpoint(note) {
            Ok(checkpoint) => checkpoint,
            Err(error) => {
                let is_own = said.is_some_and(|said| said.origin == keys.name());
                let standing = if is_own { Agreement::LaterKey } else { Agreement::Foreign };
                return deny(&mut self.told, standing, error.to_string());
            }
        };
        if let Some(key) = &self.witness {
            match witness::time(note, key) {
                Ok(time) => {
                    let signed = UNIX_EPOCH + Duration::from_secs(time);
                    self.told.age_seconds = Some(signed.elapsed().unwrap_or_default().as_secs());
                }
                Err(why) => return deny(&mut self.told, Agreement::Unsigned, why),
            }
        }
        Some(checkpoint)
    }
}

fn places<'a>(config: &'a Config, dir: &'a Path) -> impl Iterator<Item = Place> {
    let file = |kind, path: PathBuf| Place { kind, name: path.display().to_string(), path, witness: None };
    let own = file("own", dir.join(CHECKPOINT_FILE));
    let copies = files(config).into_iter().map(move |path| file("file", path));
    let witnesses = config.audit.checkpoints.witnesses.iter().map(|one| Place {
        kind: "witness",
        name: one.url.to_string(),
        path: dir.join(witness::file_name(one)),
        witness: Some(one.key.clone()),
    });
    std::iter::once(own).chain(copies).chain(witnesses)
}

/// Each in a thread of its own: one may be on another host, which does not answer.
fn read(places: impl Iterator<Item = Place>) -> Vec<Copy> {
    let end = Instant::now() + PATIENCE;
    let start = |place: Place| {
        let path = place.path.clone();
        (place, apart(move || look(&path)))
    };
    let reading: Vec<_> = places.map(start).collect();
    let late = |_late| Err(io::Error::from(io::ErrorKind::TimedOut));
    let wait = |(place, looking): (Place, io::Result<Receiver<io::Result<Looked>>>)| {
        let looked = looking.and_then(|looking| looking.recv_timeout(until(end)).unwrap_or_else(late));
        let Place { kind, name, witness, .. } = place;
        let mut told = Surveyed {
            kind,
            place: name,
            size: None,
            age_seconds: None,
            standing: Agreement::Unreadable,
            error: None,
        };
        match looked {
            Ok(Looked { note, age }) => {
                told.age_seconds = age;
                Copy { told, note: Some(note), witness }
            }
            Err(error) => {
                if error.kind() == io::ErrorKind::NotFound {
                    told.standing = Agreement::Missing;
                }
                told.error = Some(error.to_string());
                Copy { told, note: None, witness }
            }
        }
    };
    reading.into_iter().map(wait).collect()
}

struct Looked {
    note: String,
    /// Seconds since the file was written.
    age: Option<u64>,
}

fn look(path: &Path) -> io::Result<Looked> {
    let bytes = read_bounded(path, NOTE_BYTES_MAX)?;
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    let age = modified.ok().map(|modified| modified.elapsed().unwrap_or_default().as_secs());
    // What is no text is no checkpoint either, and is told as that.
    Ok(Looked { note: String::from_utf8_lossy(&bytes).into_owned(), age })
}

/// A trail, as far as copies are about it.
struct Walked {
    /// The number of its first record.
    first: u64,
    records: u64,
    /// By the number of records.
    roots: Vec<(u64, Hash)>,
}

impl Walked {
    fn agreement(&self, Checkpoint { size, root, .. }: &Checkpoint) -> Agreement {
        match self.roots.iter().find(|(at, _)| at == size) {
            Some((_, here)) if here == root => Agreement::Agrees,
            Some(_) => Agreement::Other,
            None if *size < self.first => Agreement::Pruned,
            None => Agreement::Fewer,
        }
    }
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
