//! How far an export has come, in a file of its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::Format;
use super::ocsf::Made;
use crate::audit::disk::{beside, replace, sync_dir};
use crate::audit::merkle::{Hash, Tree};
use crate::audit::note::VerifierKey;
use crate::config::{others_may_write, read_bounded};

/// A cursor is some hundred bytes.
const BYTES_MAX: usize = 16 * 1024;

/// Behind the last record that arrived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// The key that the trail is checked with, and with it the trail's name.
    key: String,
    /// What its records become here.
    format: Format,
    /// What was exported, and the hash of its last record.
    pub(super) tree: Tree,
    pub(super) prev: Hash,
    /// The last OCSF event, which the next one names.
    pub(super) made: Option<Made>,
}

/// As it stands in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    key: String,
    format: Format,
    records: u64,
    hash: String,
    /// The roots of the complete subtrees over the records (RFC 6962), the largest first.
    peaks: Vec<String>,
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
    #[error("{}: {who} may write there, and could have the cursor written elsewhere; name a --cursor file in a folder of your own", .path.display())]
    Exposed { path: PathBuf, who: String },
    #[error("{}: of another --format; name another --cursor file for this one", .path.display())]
    OtherFormat { path: PathBuf },
    #[error("{}: another export uses this cursor; end that one, or name another --cursor file", .path.display())]
    Taken { path: PathBuf },
}

impl CursorError {
    /// Whether the trail is not the one that was exported before, as far as the cursor knows.
    pub fn is_of_the_trail(&self) -> bool {
        matches!(self, Self::Other { .. })
    }

    /// Whether the file that was named cannot be the cursor of this export, today or later.
    pub fn is_wrong_use(&self) -> bool {
        matches!(self, Self::Wrong { .. } | Self::Exposed { .. } | Self::OtherFormat { .. })
    }
}

impl Cursor {
    pub(super) fn new(key: &str, format: Format, (tree, prev): (&Tree, Hash), made: Option<&Made>) -> Self {
        Self { key: key.to_owned(), format, tree: tree.clone(), prev, made: made.cloned() }
    }

    /// How many records the cursor at `path` has behind it, whatever its format. `None`: there is none yet.
    pub fn records(path: &Path, key: &VerifierKey) -> Result<Option<u64>, CursorError> {
        Ok(written(path, key)?.map(|written| written.records))
    }

    /// `None`: there is none yet.
    pub fn read(path: &Path, key: &VerifierKey, format: Format) -> Result<Option<Self>, CursorError> {
        let Some(written) = written(path, key)? else { return Ok(None) };
        let wrong = |why: String| CursorError::Wrong { path: path.to_owned(), why };
        if written.format != format {
            return Err(CursorError::OtherFormat { path: path.to_owned() });
        }
        let peaks = written.peaks.iter().map(|text| digest(text)).collect::<Option<_>>();
        let tree = peaks.and_then(|peaks| Tree::from_peaks(written.records, peaks));
        let (Some(tree), Some(prev)) = (tree, digest(&written.hash)) else {
            return Err(wrong("its hashes do not fit its number of records".into()));
        };
        Ok(Some(Self { key: written.key, format, tree, prev, made: written.ocsf }))
    }

    /// Puts it in the file's place, synced.
    pub fn write(&self, path: &Path) -> Result<(), CursorError> {
        let written = Written {
            key: self.key.clone(),
            format: self.format,
            records: self.tree.size(),
            hash: hex::encode(self.prev),
            peaks: self.tree.peaks().iter().map(hex::encode).collect(),
            ocsf: self.made.clone(),
        };
        let put = || -> io::Result<()> {
            let name = path.file_name().ok_or_else(|| io::Error::other("it names no file"))?;
            replace(folder(path), name, &serde_json::to_vec(&written)?)?;
            sync_dir(folder(path))
        };
        put().map_err(|error| CursorError::Io { path: path.to_owned(), error })
    }

    /// Keeps other exports from the cursor at `path` while the file is held.
    /// Refused where others than root and this user could put links in the way.
    pub fn lock(path: &Path) -> Result<File, CursorError> {
        let at = |error| CursorError::Io { path: path.to_owned(), error };
        let folder = folder(path);
        if let Some((who, _)) = others_may_write(&folder.metadata().map_err(at)?) {
            return Err(CursorError::Exposed { path: folder.to_owned(), who });
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

/// What stands there, if it is about the trail with this key.
fn written(path: &Path, key: &VerifierKey) -> Result<Option<Written>, CursorError> {
    let text = match read_bounded(path, BYTES_MAX) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(CursorError::Io { path: path.to_owned(), error }),
    };
    let written: Written = serde_json::from_slice(&text)
        .map_err(|error| CursorError::Wrong { path: path.to_owned(), why: error.to_string() })?;
    let ours = key.to_string();
    if written.key == ours {
        Ok(Some(written))
    } else {
        Err(CursorError::Other { path: path.to_owned(), ours })
    }
}

fn digest(text: &str) -> Option<Hash> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).ok().map(|()| hash)
}

fn folder(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
