//! A copy in a directory.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;

use super::super::disk;
use super::keeper::NOTE_BYTES_MAX;
use super::{COPY_FILE, Note, Sink};
use crate::config::read_bounded;

/// Replaces the file, which has the old checkpoint or the new one at any moment.
pub(super) struct FileCopy {
    pub(super) path: PathBuf,
    /// The directory is the guard's, which makes it.
    pub(super) is_own: bool,
    /// An operator goes on without what a later checkpoint covers.
    pub(super) may_go_back: bool,
}

impl FileCopy {
    /// What is there, and why it is not to be replaced: it may be all that shows that the trail was put back, and may have come since the
    /// start: a disk that was mounted late.
    fn ahead_of(&self, note: &Note) -> Option<(Note, String)> {
        let there = read_bounded(&self.path, NOTE_BYTES_MAX).ok()?;
        let there = Note::parse(String::from_utf8(there).ok()?)?;
        let why = match there.origin == note.origin {
            true if there.size <= note.size => return None,
            true => format!(
                "a later checkpoint is there, of {} records; this trail was put back, or somebody else goes on with it. Keep it; \
                 `mcp-guard audit checkpoints` compares the two, and the next start will refuse",
                there.size
            ),
            false => "the checkpoint of another trail is there. Keep it, and name another directory".into(),
        };
        Some((there, why))
    }
}

impl Sink for FileCopy {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err("it is no file's name".into());
        };
        match self.ahead_of(note) {
            Some((_, why)) if !self.may_go_back => return Err(why),
            // Given up, and still evidence.
            Some((there, _)) => {
                let aside = dir.join(format!("{COPY_FILE}.given-up-{}", there.size));
                fs::rename(&self.path, aside).map_err(|error| error.to_string())?;
            }
            None => {}
        }
        let made =
            if self.is_own { DirBuilder::new().recursive(true).mode(0o700).create(dir) } else { Ok(()) };
        let written = made.and_then(|()| disk::replace(dir, name, note.text.as_bytes()));
        let written = written.and_then(|()| disk::sync_dir(dir));
        written.map_err(|error| match error.kind() {
            std::io::ErrorKind::ReadOnlyFilesystem => {
                format!("{error}: in the unit's sandbox, add ReadWritePaths=-{}", dir.display())
            }
            _ => error.to_string(),
        })
    }
}
