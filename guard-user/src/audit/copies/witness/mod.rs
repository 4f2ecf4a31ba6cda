//! A C2SP witness (`tlog-witness`): it is shown each checkpoint with the proof that the trail only grew since the one that it saw
//! before, and signs that (`tlog-cosignature`).
//!
//! ```text
//! key          the key that witnesses know the trail by
//! cosignature  what a witness signs (pure)
//! answer       what it says (pure)
//! submit       shows it a checkpoint
//! ```
//!
//! A witness knows a trail by its origin and one key, while the keys of the trail follow each other and are destroyed. So there is
//! a key for witnesses alone. Nothing that reads the trail believes it: whoever steals it can have a witness sign what the trail's
//! own keys did not, and no more.

mod answer;
mod cosignature;
mod key;
mod submit;

use std::path::PathBuf;
use std::sync::Arc;

use super::super::disk;
use super::super::key as trail_key;
use super::super::note::Checkpoint;
use super::keeper::NOTE_BYTES_MAX;
use super::{Note, Sink};
use crate::config::{Witness, read_bounded};
pub(super) use cosignature::time;
pub(super) use submit::{Refused, Submission};

/// Beside the trail: the latest checkpoint with this witness's signature, by the id of its key.
pub(super) fn file_name(witness: &Witness) -> String {
    format!("witnessed-{}", hex::encode(witness.key.id()))
}

/// Shows checkpoints to a witness, and keeps what it signed.
pub(super) struct WitnessCopy {
    pub(super) dir: PathBuf,
    pub(super) witness: Witness,
    pub(super) protected: Arc<[u16]>,
}

impl Sink for WitnessCopy {
    fn put(&mut self, note: &Note) -> Result<(), String> {
        let root = trail_key::root(&self.dir).map_err(|error| error.to_string())?;
        let root = root.ok_or("the trail has no key yet")?;
        let key = key::open_or_make(&self.dir, root.name()).map_err(|error| error.to_string())?;
        let submission =
            Submission { dir: &self.dir, root, key, witness: &self.witness, protected: &self.protected };
        // What a witness has signed must not be gone after a power cut.
        disk::sync_dir(&self.dir).map_err(|error| error.to_string())?;
        let old = Some(last(&self.dir, &self.witness));
        let cosigned = submission.submit(&note.text, old).map_err(|refused| refused.to_string())?;
        let name = file_name(&self.witness);
        let kept =
            disk::replace(&self.dir, &name, cosigned.as_bytes()).and_then(|()| disk::sync_dir(&self.dir));
        kept.map_err(|error| format!("it signed, and {name} cannot be written: {error}"))
    }
}

/// What the witness signed last, by the file beside the trail: how many records. It says where to begin, and no more.
fn last(dir: &std::path::Path, witness: &Witness) -> u64 {
    let note = read_bounded(&dir.join(file_name(witness)), NOTE_BYTES_MAX).unwrap_or_default();
    Checkpoint::said(&String::from_utf8_lossy(&note)).map_or(0, |checkpoint| checkpoint.size)
}
