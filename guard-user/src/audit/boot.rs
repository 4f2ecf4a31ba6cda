//! When something is recorded, by a clock that nobody sets.

use std::fs;
use std::sync::LazyLock;

use serde::Serialize;

use crate::types::Uptime;

const BOOT_ID_FILE: &str = "/proc/sys/kernel/random/boot_id";

/// The boot's id; `None`: the kernel did not say.
static BOOT_ID: LazyLock<Option<String>> = LazyLock::new(|| {
    let told = fs::read_to_string(BOOT_ID_FILE).ok()?;
    let id = told.trim();
    let is_id = id.len() == 36 && id.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    is_id.then(|| id.to_owned())
});

/// A moment, counted from the host's boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BootMoment {
    /// Which boot, as the kernel names it.
    boot_id: Option<&'static str>,
    /// Since then, with the time that the host slept.
    boot_milliseconds: u64,
}

impl BootMoment {
    pub fn now() -> Self {
        Self { boot_id: BOOT_ID.as_deref(), boot_milliseconds: Uptime::now().as_millis() }
    }

    #[cfg(test)]
    pub(super) const fn longest_for_tests() -> Self {
        Self { boot_id: Some("ffffffff-ffff-ffff-ffff-ffffffffffff"), boot_milliseconds: u64::MAX }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_names_the_boot_and_comes_after_the_one_before() {
        let (first, second) = (BootMoment::now(), BootMoment::now());
        assert_eq!(first.boot_id.unwrap(), fs::read_to_string(BOOT_ID_FILE).unwrap().trim());
        assert_eq!(first.boot_id, second.boot_id);
        assert!(0 < first.boot_milliseconds && first.boot_milliseconds <= second.boot_milliseconds);
    }
}
