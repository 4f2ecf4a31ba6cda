//! How far an export has come, in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Format;
use super::ocsf::Made;
use crate::audit::disk::sync_dir;
use crate::audit::merkle::{Hash, Tree};
use crate::audit::note::VerifierKey;
use crate::audit::walk::NO_PREV;
use crate::config::read_bounded;

/// A cursor is some hundred bytes.
const BYTES_MAX: usize = 16 * 1024;

/// Behind the last record that arrived.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// The key that the trail is checked with, and with it the trail's name.
    key: String,
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
        "{}: of another trail, or of another key, than {ours}. If this host has had one trail alone, somebody has put another in its place; else \
         name another --cursor file", .path.display()
    )]
    Other { path: PathBuf, ours: String },
    #[error("{}: others may write there, and could have it written elsewhere; `chmod go-w` it, or name another --cursor file", .path.display())]
    Exposed { path: PathBuf },
    #[error("{}: of another --format; name another --cursor file for this one", .path.display())]
    OtherFormat { path: PathBuf },
    #[error("{}: another export uses this cursor; end that one, or name another --cursor file", .path.display())]
    Taken { path: PathBuf },
}

impl Cursor {
    pub(super) fn new(key: &str, format: Format, tree: &Tree, hash: Hash, ocsf: Option<Made>) -> Self {
        let peaks = tree.peaks().iter().map(hex::encode).collect();
        Self { key: key.to_owned(), format, records: tree.size(), hash: hex::encode(hash), peaks, ocsf }
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
    pub fn read(path: &Path, key: &VerifierKey, format: Format) -> Result<Option<Self>, CursorError> {
        let key = key.to_string();
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let text = match read_bounded(path, BYTES_MAX) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(error)),
        };
        let wrong = |why: String| CursorError::Wrong { path: path.to_owned(), why };
        let cursor: Self = serde_json::from_slice(&text).map_err(|error| wrong(error.to_string()))?;
        if cursor.key != key {
            return Err(CursorError::Other { path: path.to_owned(), ours: key });
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
            // Of a write that was cut off.
            match fs::remove_file(&next) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next)?;
            serde_json::to_writer(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&next, path)?;
            sync_dir(folder(path))
        };
        put().map_err(at)
    }

    /// Keeps other exports from the cursor at `path` while the file is held.
    /// Refused where others than root and this user could put links in the way.
    pub fn lock(path: &Path) -> Result<File, CursorError> {
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let folder = folder(path);
        let meta = folder.metadata().map_err(at)?;
        let is_own = meta.uid() == 0 || meta.uid() == rustix::process::geteuid().as_raw();
        if !is_own || meta.mode() & 0o022 != 0 {
            return Err(CursorError::Exposed { path: folder.to_owned() });
        }
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

fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// A file with a longer name.
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}
