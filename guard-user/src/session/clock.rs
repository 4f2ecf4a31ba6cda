//! The clock by which sessions and tasks age: in milliseconds since 1970, as if nobody had set the wall clock since the host's boot.
//!
//! A guard that starts later in the same boot goes on by the clock of the one before it; without its file, or after another boot, the
//! wall clock says anew when the host was booted.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::OnceLock;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use crate::types::Uptime;

/// In `state_dir`.
const FILE: &str = "sessions.clock";
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// Of this process.
static STEADY: OnceLock<Steady> = OnceLock::new();

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Steady {
    /// Which boot of the host it is of; none is known where nothing says so.
    boot: Option<String>,
    /// In milliseconds since 1970.
    booted_at: u64,
}

impl Steady {
    /// In this boot, with what a former guard had.
    fn of(former: Option<Self>, boot: Option<String>, wall: u64, since_boot: u64) -> Self {
        let former = former.filter(|former| former.boot.is_some() && former.boot == boot);
        former.unwrap_or_else(|| Self { boot, booted_at: wall.saturating_sub(since_boot) })
    }

    fn at(&self, since_boot: u64) -> u64 {
        self.booted_at.saturating_add(since_boot)
    }

    fn read(state_dir: &Path) -> Option<Self> {
        let text = fs::read(state_dir.join(FILE)).ok()?;
        let read = serde_json::from_slice(&text);
        read.inspect_err(
            |error| tracing::warn!(%error, "{FILE} cannot be read: the wall clock says how old sessions are"),
        )
        .ok()
    }

    fn write(&self, state_dir: &Path) -> io::Result<()> {
        let (file, next) = (state_dir.join(FILE), state_dir.join(FILE).with_extension("clock.next"));
        fs::write(&next, serde_json::to_vec(self)?)?;
        fs::rename(next, file)
    }

    fn now(former: Option<Self>) -> Self {
        let boot = fs::read_to_string(BOOT_ID).ok().map(|boot| boot.trim().to_owned());
        Self::of(former, boot, wall_milliseconds(), since_boot())
    }
}

/// Goes on by the clock of a former guard.
pub(super) fn go_on(state_dir: &Path) {
    let former = Steady::read(state_dir);
    let steady = STEADY.get_or_init(|| Steady::now(former.clone()));
    if former.as_ref() != Some(steady)
        && let Err(error) = steady.write(state_dir)
    {
        tracing::warn!(%error, "{FILE} cannot be written: for the next guard the wall clock says how old sessions are");
    }
}

pub(super) fn unix_milliseconds() -> u64 {
    STEADY.get_or_init(|| Steady::now(None)).at(since_boot())
}

/// What the wall clock shows for such a time, for tables.
pub(super) fn as_shown(time: u64) -> u64 {
    wall_milliseconds().saturating_sub(unix_milliseconds().saturating_sub(time))
}

pub(super) fn wall_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

fn since_boot() -> u64 {
    Uptime::now().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;

    #[test]
    fn no_step_of_the_wall_clock_makes_a_session_younger_or_older_not_even_for_the_next_guard() {
        let boot = || Some("boot-1".to_owned());
        let first = Steady::of(None, boot(), 100 * HOUR, 10 * HOUR);
        assert_eq!(first.at(10 * HOUR), 100 * HOUR, "as the wall clock has it");
        let opened_at = first.at(11 * HOUR);
        // The wall clock is set back, or on, and the guard is started anew.
        for wall in [0, 50 * HOUR, 500 * HOUR] {
            let next = Steady::of(Some(first.clone()), boot(), wall, 12 * HOUR);
            assert_eq!(next.at(13 * HOUR) - opened_at, 2 * HOUR);
        }
        // After another boot nothing but the wall clock knows.
        let next = Steady::of(Some(first.clone()), Some("boot-2".into()), 200 * HOUR, HOUR);
        assert_eq!(next.at(HOUR), 200 * HOUR);
        let next = Steady::of(Some(Steady { boot: None, ..first }), None, 200 * HOUR, HOUR);
        assert_eq!(next.at(HOUR), 200 * HOUR, "nobody says that it is the same boot");
    }

    #[test]
    fn the_next_guard_reads_what_the_former_one_went_by() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Steady::read(dir.path()), None);
        go_on(dir.path());
        let written = Steady::read(dir.path()).unwrap();
        assert_eq!(Some(&written), STEADY.get());
        assert_eq!(Steady::now(Some(written.clone())), written);
        // By one of this boot that began at another time of day.
        let other = Steady { booted_at: written.booted_at - HOUR, ..written };
        other.write(dir.path()).unwrap();
        assert_eq!(Steady::now(Steady::read(dir.path())), other);
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(Steady::read(dir.path()), None);
    }

    #[test]
    fn tables_show_the_time_of_day() {
        let now = unix_milliseconds();
        assert!(as_shown(now).abs_diff(wall_milliseconds()) < 60_000);
        assert!(as_shown(now - HOUR).abs_diff(wall_milliseconds() - HOUR) < 60_000);
    }
}
