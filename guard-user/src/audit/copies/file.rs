//! A copy in a directory.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use super::super::disk;
use super::super::key as trail_key;
use super::super::keys::Keys;
use super::keeper::NOTE_BYTES_MAX;
use super::survey::{Agreement, agreement};
use super::{COPY_FILE, Note, Sink};
use crate::config::read_bounded;

/// Copies that were given up and have the same number of records.
const GIVEN_UP_MAX: u32 = 100;

/// Replaces the file, which has the old checkpoint or the new one at any moment.
pub(super) struct FileCopy {
    pub(super) path: PathBuf,
    /// The directory of the trail.
    pub(super) trail: PathBuf,
    /// The directory is the guard's, which makes it.
    pub(super) is_own: bool,
    /// An operator goes on without what the checkpoint that is there covers.
    pub(super) may_go_back: bool,
    /// What is there is of this trail: it was compared, or this guard put it there.
    pub(super) is_known: bool,
}

impl FileCopy {
    /// What is there, and why it is not to be replaced: it may be all that shows that the trail was put back, and may have come since the
    /// start: a disk that was mounted late.
    fn evidence(&self, note: &Note) -> Result<Option<(Note, String)>, String> {
        let is_file = match fs::symlink_metadata(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            there => there.map_err(|error| error.to_string())?.is_file(),
        };
        if !is_file {
            return Err("something else than a file is there".into());
        }
        let there = read_bounded(&self.path, NOTE_BYTES_MAX).map_err(|error| error.to_string())?;
        let Some(there) = String::from_utf8(there).ok().and_then(Note::parse) else { return Ok(None) };
        let why = if there.origin != note.origin {
            "the checkpoint of another trail is there. Keep it, and name another directory".into()
        } else if there.size > note.size {
            format!("a later checkpoint is there, of {} records; {NEXT}", there.size)
        } else if self.is_known || self.is_of_the_trail(&there)? {
            return Ok(None);
        } else {
            format!("the checkpoint there, of {} records, is not of those of this trail; {NEXT}", there.size)
        };
        Ok(Some((there, why)))
    }

    /// Whether the trail has the records that this covers, as far as it still has any of them.
    fn is_of_the_trail(&self, there: &Note) -> Result<bool, String> {
        let root = trail_key::root(&self.trail).map_err(|error| error.to_string())?;
        let root = root.ok_or("the trail has no key yet")?;
        let agreed = Keys::beside(&self.trail, root).and_then(|keys| {
            keys.open_checkpoint(&there.text)
                .map_or(Ok(Agreement::LaterKey), |checkpoint| agreement(&self.trail, &keys, &checkpoint))
        });
        let agreed = agreed.map_err(|error| format!("it cannot be compared with the trail: {error}"))?;
        Ok(matches!(agreed, Agreement::Agrees | Agreement::Pruned))
    }

    /// Given up, and still evidence.
    fn set_aside(&self, dir: &Path, there: &Note) -> io::Result<()> {
        for number in 1..=GIVEN_UP_MAX {
            let name = match number {
                1 => format!("{COPY_FILE}.given-up-{}", there.size),
                _ => format!("{COPY_FILE}.given-up-{}-{number}", there.size),
            };
            match fs::hard_link(&self.path, dir.join(name)) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => return done,
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }
}

/// What to do about evidence.
const NEXT: &str = "this trail was put back, or somebody else goes on with it. Keep it; `mcp-guard audit checkpoints` compares the two, and the \
                    next start will refuse";

impl Sink for FileCopy {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let (Some(dir), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err("it is no file's name".into());
        };
        let evidence = self.evidence(note)?;
        if let Some((_, why)) = evidence.as_ref().filter(|_| !self.may_go_back) {
            return Err(why.clone());
        }
        let made =
            if self.is_own { DirBuilder::new().recursive(true).mode(0o700).create(dir) } else { Ok(()) };
        let aside = |()| evidence.as_ref().map_or(Ok(()), |(there, _)| self.set_aside(dir, there));
        let written = made.and_then(aside).and_then(|()| disk::replace(dir, name, note.text.as_bytes()));
        let written = written.and_then(|()| disk::sync_dir(dir));
        written.map_err(|error| match error.kind() {
            io::ErrorKind::ReadOnlyFilesystem => {
                format!("{error}: in the unit's sandbox, add ReadWritePaths=-{}", dir.display())
            }
            _ => error.to_string(),
        })?;
        // What comes there from now on nobody has given up.
        (self.may_go_back, self.is_known) = (false, true);
        Ok(())
    }
}
