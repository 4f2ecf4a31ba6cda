//! A copy in a directory.

use std::path::PathBuf;

use super::super::disk;
use super::{Note, Sink};

/// Replaces the file, which has the old checkpoint or the new one at any moment.
pub(super) struct FileCopy(pub(super) PathBuf);

impl Sink for FileCopy {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let (Some(dir), Some(name)) = (self.0.parent(), self.0.file_name()) else {
            return Err("it is no file's name".into());
        };
        let written = disk::replace(dir, name, note.text.as_bytes()).and_then(|()| disk::sync_dir(dir));
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem => {
                format!("{error}: in the unit's sandbox, add ReadWritePaths={}", dir.display())
            }
            _ => error.to_string(),
        })
    }
}
