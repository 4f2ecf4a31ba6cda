//! A trail as it was, to be put back.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, SystemTime};

use super::rig::Rig;

/// A checkpoint's name where it is copied to.
const COPY: &str = "audit-checkpoint";
/// Its bytes say nothing.
const RESERVE: &str = "reserve";
/// The shortest time that a key may last (`audit.key_epoch_seconds`).
pub const KEY_SECONDS_MIN: u64 = 60;

/// The files of a guard's trail.
#[derive(Debug)]
pub struct Saved {
    dir: tempfile::TempDir,
    at: SystemTime,
}

impl Saved {
    /// The trail of a guard that does not run.
    pub fn of(rig: &Rig) -> anyhow::Result<Self> {
        let dir = tempfile::tempdir()?;
        for entry in fs::read_dir(rig.trail())? {
            let entry = entry?;
            // What is made anew is in directories.
            if entry.file_type()?.is_file() && entry.file_name() != RESERVE {
                fs::copy(entry.path(), dir.path().join(entry.file_name()))?;
            }
        }
        Ok(Self { dir, at: SystemTime::now() })
    }

    /// Makes it the trail of a guard that does not run.
    pub fn put_back(&self, rig: &Rig) -> anyhow::Result<()> {
        for entry in fs::read_dir(rig.trail())? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                fs::remove_dir_all(entry.path())?;
            } else if entry.file_name() != RESERVE {
                fs::remove_file(entry.path())?;
            }
        }
        for entry in fs::read_dir(self.dir.path())? {
            let entry = entry?;
            // Modes go with it.
            fs::copy(entry.path(), rig.trail().join(entry.file_name()))?;
        }
        Ok(())
    }

    /// Waits until its key is so old that a guard which starts with it hands over at once.
    pub fn wait_for_its_key(&self) {
        let age = self.at.elapsed().unwrap_or_default();
        thread::sleep((Duration::from_secs(KEY_SECONDS_MIN + 1)).saturating_sub(age));
    }
}

/// Where a guard copies its checkpoint to.
pub fn copies(rig: &Rig) -> Vec<PathBuf> {
    let config = &rig.daemon.config;
    let dirs =
        [Some(&config.runtime_dir), Some(&config.state_dir), config.audit.checkpoints.copy_to.as_ref()];
    dirs.into_iter().flatten().map(|dir| dir.join(COPY)).collect()
}
