//! How far an export has come, in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Format;
use super::ocsf::Made;
use crate::audit::disk::sync_dir;
use crate::audit::merkle::{Hash, Tree};
use crate::audit::walk::NO_PREV;
use crate::config::read_bounded;

/// A cursor is some hundred bytes.
const BYTES_MAX: usize = 16 * 1024;

/// Behind the last record that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The trail's name.
    trail: String,
    /// What its records become here.
    format: Format,
    /// How many records were exported.
    records: u64,
    /// The last one's hash: what the next record calls `prev`.
    hash: String,
    /// The roots of the complete subtrees over them (RFC 6962), the largest first.
    peaks: Vec<String>,
    /// The last OCSF event, which the next one names.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ocsf: Option<Made>,
}

/// Why a cursor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CursorError {
    #[error("{}: {error}", .path.display())]
    Io { path: PathBuf, error: io::Error },
    #[error("{}: not a cursor of `mcp-guard audit export`: {why}. Move it away to export all records anew", .path.display())]
    Wrong { path: PathBuf, why: String },
    #[error(
        "{}: of the trail {theirs}, but this is {ours}. Each trail needs a cursor of its own: name another --cursor file", .path.display()
    )]
    Other { path: PathBuf, theirs: String, ours: String },
    #[error("{}: of another --format; name another --cursor file for this one", .path.display())]
    OtherFormat { path: PathBuf },
    #[error("{}: another export uses this cursor; end that one, or name another --cursor file", .path.display())]
    Taken { path: PathBuf },
}

impl Cursor {
    pub(super) fn new(trail: &str, format: Format, tree: &Tree, hash: Hash, ocsf: Option<Made>) -> Self {
        let peaks = tree.peaks().iter().map(hex::encode).collect();
        Self { trail: trail.to_owned(), format, records: tree.size(), hash: hex::encode(hash), peaks, ocsf }
    }

    /// What was exported, and the hash of its last record. A cursor that says what cannot be is read as one of no records.
    pub(super) fn into_parts(self) -> (Tree, Hash, Option<Made>) {
        let (tree, hash) = self.parts().unwrap_or_else(|| (Tree::default(), NO_PREV));
        (tree, hash, self.ocsf)
    }

    fn parts(&self) -> Option<(Tree, Hash)> {
        let peaks = self.peaks.iter().map(|text| digest(text)).collect::<Option<_>>()?;
        Some((Tree::from_peaks(self.records, peaks)?, digest(&self.hash)?))
    }

    /// `None`: there is none yet.
    pub fn read(path: &Path, trail: &str, format: Format) -> Result<Option<Self>, CursorError> {
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let text = match read_bounded(path, BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        let wrong = |why: String| CursorError::Wrong { path: path.to_owned(), why };
        let cursor: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if cursor.trail != trail {
            return Err(CursorError::Other {
                path: path.to_owned(),
                theirs: cursor.trail,
                ours: trail.to_owned(),
            });
        }
        if cursor.format != format {
            return Err(CursorError::OtherFormat { path: path.to_owned() });
        }
        if cursor.parts().is_none() {
            return Err(wrong("its hashes do not fit its number of records".into()));
        }
        Ok(Some(cursor))
    }

    /// Puts it in the file's place, synced.
    pub fn write(&self, path: &Path) -> Result<(), CursorError> {
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let next = beside(path, ".next");
        let put = || -> io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&next, path)?;
            sync_dir(path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new(".")))
        };
        put().map_err(at)
    }

    /// Keeps other exports from the cursor at `path` while the file is held.
    pub fn lock(path: &Path) -> Result<File, CursorError> {
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let lock = beside(path, ".lock");
        let file =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(at)?;
        match file.try_lock() {
            Ok(()) => Ok(file),
            Err(fs::TryLockError::WouldBlock) => Err(CursorError::Taken { path: path.to_owned() }),
            Err(fs::TryLockError::Error(error)) => Err(at(error)),
        }
    }
}

fn digest(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}

/// A file with a longer name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
