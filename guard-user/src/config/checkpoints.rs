//! Where signed checkpoints of the trail are copied, so that one that was cut or put back shows.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::Witness;

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
    /// Witnesses, which sign that the trail only grew (C2SP tlog-witness).
    pub witnesses: Vec<Witness>,
}

impl Default for Checkpoints {
    fn default() -> Self {
        Self { every_seconds: 60, journal: None, copy_to: None, witnesses: Vec::new() }
    }
}

impl Checkpoints {
    /// What counts from the directory of `guard.yaml`.
    pub(super) fn paths(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let authorities = self.witnesses.iter_mut().filter_map(|witness| witness.ca_file.as_mut());
        self.copy_to.iter_mut().chain(authorities)
    }
}
