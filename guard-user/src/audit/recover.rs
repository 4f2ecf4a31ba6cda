//! What stands in the directory when the guard starts, and what of it can be continued.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::copies::{Disagreement, Known, Loss};
use super::error::OpenError;
use super::keys::Keys;
use super::merkle::sha256;
use super::note::Checkpoint;
use super::record::{GAP_CALLS_MAX, Gap, OpenCall};
use super::walk::{Found, Lines, Walk, segments};
use super::{CHECKPOINT_FILE, KEYS_FILE, disk, packed, text};

/// A trail that can be continued.
pub(super) struct Recovered {
    pub(super) walk: Walk,
    /// The last segment.
    pub(super) path: PathBuf,
    /// Its first record.
    pub(super) first: u64,
    /// Its length; what stood behind was moved aside.
    pub(super) bytes: u64,
    pub(super) torn: Option<Torn>,
    /// Records that a checkpoint covers and that an operator goes on without.
    pub(super) losses: Vec<Loss>,
}

/// The end of a segment that is no record: the guard or the host died while writing it.
pub(super) struct Torn {
    pub(super) bytes: u64,
    pub(super) sha256: String,
}

impl Recovered {
    /// The records that tell what its end lacks.
    pub(super) fn gaps(&self) -> Vec<serde_json::Result<Vec<u8>>> {
        let Walk { tree, open, .. } = &self.walk;
        let open_count = self.walk.open_count();
        let torn = self.torn.as_ref();
        let gap = (open_count > 0 || torn.is_some()).then(|| {
            text::encode(&Gap {
                reason: "restart",
                cause: torn.map(|_| "the last write before this start was not finished"),
                durable_seq: tree.size().checked_sub(1),
                refused: 0,
                open_count,
                open: open.iter().take(GAP_CALLS_MAX).map(|(id, &seq)| OpenCall { id, seq }).collect(),
                torn_bytes: torn.map_or(0, |torn| torn.bytes),
                torn_sha256: torn.map(|torn| torn.sha256.clone()),
            })
        });
        gap.into_iter().chain(self.losses.iter().map(Loss::body)).collect()
    }
}

/// Holds the directory for this process until it is dropped.
pub fn lock(dir: &Path) -> Result<File, OpenError> {
    let file = File::open(dir).map_err(OpenError::io(dir))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => Err(OpenError::io(dir)(error)),
    }
}

/// Reads the whole trail. `None` if there is no record yet and no checkpoint says that there was one.
pub(super) fn recover(dir: &Path, keys: &Keys, known: &mut Known) -> Result<Option<Recovered>, OpenError> {
    let checkpoint = checkpoint(dir, keys)?;
    let covered = checkpoint.as_ref().map_or(0, |checkpoint| checkpoint.size);
    // Of all that is known; what stands behind it is nobody's yet.
    let signed = covered.max(known.size());
    let rollback = OpenError::Rollback;

    let found = segments(dir).map_err(OpenError::io(dir))?;
    let mut walk = Walk::from(found.first().map_or(0, |(first, _)| *first), covered, keys.clone());
    let begin = found.first().map(|(_, path)| path.clone());
    known.begin(walk.next());
    let mut last: Option<(u64, PathBuf, u64)> = None;
    let mut torn = None;
    let mut empty = None;
    let count = found.len();
    for (at, (first, path)) in found.into_iter().enumerate() {
        let tampered =
            |line, reason: &str| OpenError::Tampered { file: path.clone(), line, reason: reason.to_owned() };
        if first != walk.next() {
            // The segments before end early: either they lost lines or a whole segment is gone.
            return Err(tampered(0, &format!("record {} is missing before it", walk.next())));
        }
        let mut lines = Lines::open(&path).map_err(OpenError::io(&path))?;
        let mut end = 0;
        loop {
            let number = lines.number + 1;
            let reason = match lines.next().map_err(OpenError::io(&path))? {
                None => break,
                Some(Found::Line(line)) => walk.line(line).err(),
                Some(Found::Torn) => Some("the line has no end".to_owned()),
            };
            if let Some(reason) = reason {
                if covered == 0 && walk.tree.size() > 0 {
                    return Err(checkpoint_gone(dir));
                }
                let last_of_all = at + 1 == count && reason == "the line has no end";
                if (at + 1 < count || walk.next() < signed) && !last_of_all {
                    return Err(tampered(number, &reason));
                }
                // Before anything is cut.
                known.end(walk.next(), covered, &walk.accepted).map_err(rollback)?;
                if packed::is_packed(&path) {
                    return Err(tampered(number, &reason));
                }
                torn = Some(move_aside(dir, &path, end, walk.tree.size()).map_err(OpenError::io(&path))?);
                break;
            }
            end = lines.end;
            if let Some(checkpoint) = checkpoint.as_ref().filter(|it| it.size == walk.tree.size())
                && checkpoint.root != walk.tree.root()
            {
                return Err(tampered(
                    number,
                    "the signed checkpoint covers other records than those up to here",
                ));
            }
            known.look(&walk.tree).map_err(rollback)?;
        }
        if end == 0 {
            empty = Some(path);
        } else {
            last = Some((first, path, end));
        }
    }
    known.end(walk.tree.size(), covered, &walk.accepted).map_err(rollback)?;
    if covered == 0 && walk.tree.size() > 1 {
        return Err(checkpoint_gone(dir));
    }
    if let Some(seq) = walk.hand_over_missed() {
        return Err(if seq < walk.next() {
            let reason = format!(
                "it says that record {seq} hands over to the next key, and the trail has no such record"
            );
            OpenError::Tampered { file: dir.join(KEYS_FILE), line: 0, reason }
        } else {
            OpenError::Rollback(Disagreement::KeyGone { dir: dir.to_owned(), have: walk.next(), seq })
        });
    }
    if let (Err(reason), Some(file)) = (walk.begins_rightly(), begin) {
        return Err(OpenError::Tampered { file, line: 0, reason });
    }
    if let Some(path) = empty {
        // Made, but its first record never reached the disk: the segment before is the last.
        fs::remove_file(&path).map_err(OpenError::io(&path))?;
    }
    let Some((first, path, bytes)) = last else { return Ok(None) };
    let path = packed::restore(&path).map_err(OpenError::io(&path))?;
    let losses = known.take_losses();
    Ok(Some(Recovered { walk, path, first, bytes, torn, losses }))
}

fn checkpoint_gone(dir: &Path) -> OpenError {
    let path = dir.join(CHECKPOINT_FILE);
    OpenError::io(&path)(io::Error::new(io::ErrorKind::NotFound, "the signed checkpoint is gone"))
}

/// The signed checkpoint in `dir`; `None` if there is no file.
pub(super) fn checkpoint(dir: &Path, keys: &Keys) -> Result<Option<Checkpoint>, OpenError> {
    let path = dir.join(CHECKPOINT_FILE);
    match fs::read_to_string(&path) {
        Ok(note) => keys.open_checkpoint(&note).map(Some).map_err(|source| OpenError::Key { path, source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(OpenError::io(&path)(error)),
    }
}

/// Names for what unfinished writes of one record left. Beyond them, the last is used again.
const TORN_MAX: u32 = 100;

/// Cuts `path` at `end` and keeps what was behind as `torn-<seq>`: it may be evidence.
fn move_aside(dir: &Path, path: &Path, end: u64, seq: u64) -> io::Result<Torn> {
    let mut file = File::options().read(true).write(true).open(path)?;
    file.seek(SeekFrom::Start(end))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    disk::replace(dir, name_aside(dir, seq, &rest)?, &rest)?;
    file.set_len(end)?;
    file.sync_all()?;
    Ok(Torn { bytes: u64::try_from(rest.len()).unwrap_or(u64::MAX), sha256: hex::encode(sha256(&[&rest])) })
}

/// What a start before this one put aside stays, if that did not come to tell of it. The same it did not come to cut.
fn name_aside(dir: &Path, seq: u64, rest: &[u8]) -> io::Result<String> {
    let first = format!("torn-{seq:020}");
    let later = (2..=TORN_MAX).map(|number| format!("{first}-{number}"));
    let mut names = std::iter::once(first.clone()).chain(later).peekable();
    while let Some(name) = names.next() {
        match fs::read(dir.join(&name)) {
            Ok(there) if there != rest && names.peek().is_some() => {}
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => return Ok(name),
        }
    }
    Ok(first)
}
