//! Faults of the disk under a running guard's audit trail.
//!
//! What a test does few of in a run of all tests, `cargo xtask faults` does many of: it sets `GUARD_FAULTS_…`.

pub mod rig;
pub mod saved;
pub mod sites;
pub mod strace;

use std::time::{SystemTime, UNIX_EPOCH};

/// How many: `GUARD_FAULTS_NAME`, or else `usual`.
///
/// # Panics
/// If the variable is no number.
pub fn number(name: &str, usual: u64) -> u64 {
    set(name).unwrap_or(usual)
}

/// What random choices begin with: `GUARD_FAULTS_SEED`, or else another one in each run. The test prints it.
pub fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    set("SEED").unwrap_or_else(|| u64::from(now.subsec_nanos()))
}

fn set(name: &str) -> Option<u64> {
    let name = format!("GUARD_FAULTS_{name}");
    let value = std::env::var(&name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is {value:?}, which is no number")))
}
