//! A copy in a directory.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::super::disk;
use super::{Note, Sink};

/// Replaces the file, which has the old checkpoint or the new one at any moment.
pub(super) struct FileCopy {
    pub(super) path: PathBuf,
    /// The directory is the guard's, which makes it.
    pub(super) is_own: bool,
}

impl Sink for FileCopy {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err("it is no file's name".into());
        };
        let made =
            if self.is_own { DirBuilder::new().recursive(true).mode(0o700).create(dir) } else { Ok(()) };
        let written = made.and_then(|()| disk::replace(dir, name, note.text.as_bytes()));
        let written = written.and_then(|()| disk::sync_dir(dir));
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem => {
                format!("{error}: in the unit's sandbox, add ReadWritePaths={}", dir.display())
            }
            _ => error.to_string(),
        })
    }
}
