//! Where signed checkpoints of the trail are copied, so that one that was cut or put back shows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The places for copies. Two are always kept, in `state_dir` and in `runtime_dir`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Checkpoints {
    /// Between two copies to the same place; the last one follows at the guard's stop.
    pub every_seconds: u64,
    /// The system journal. Left out: if this host has one.
    pub journal: Option<bool>,
    /// A directory of its own for this guard, best on another disk.
    pub copy_to: Option<PathBuf>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every_seconds: 60, journal: None, copy_to: None }
    }
}
