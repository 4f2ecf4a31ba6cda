//! The clock of the windows. It never goes back, also not over a restart.
//!
//! It shows milliseconds, about those since 1970 at the guard's first start. While the host is up it goes with the host's time
//! since its boot, sleep included, whatever becomes of the wall clock. Over a reboot only the wall clock tells how long
//! it took; one that went back counts as no time at all.

use std::fs;

use crate::types::Uptime;

/// A moment on all clocks, for a guard that starts later.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Anchor {
    /// The kernel's name of this boot; empty: unknown, and never the same.
    pub boot_id: String,
    /// Milliseconds since the boot.
    pub boot: u64,
    /// Milliseconds since 1970.
    pub wall: u64,
    /// What the clock of the windows showed.
    pub time: u64,
}

#[derive(Debug, Clone)]
pub struct Clock {
    boot_id: String,
    boot: u64,
    time: u64,
}

impl Clock {
    /// Goes on from `before`, and not before `at_least`.
    pub fn start(before: Option<&Anchor>, at_least: u64) -> Self {
        let here = here();
        Self { time: resume(before, &here, at_least), boot: here.boot, boot_id: here.boot_id }
    }

    pub fn now(&self) -> u64 {
        self.time.saturating_add(boot().saturating_sub(self.boot))
    }

    /// This moment.
    pub fn anchor(&self) -> Anchor {
        let here = here();
        let time = self.time.saturating_add(here.boot.saturating_sub(self.boot));
        Anchor { boot_id: self.boot_id.clone(), time, ..here }
    }
}

/// What the clock shows at a start. `here` has no time of its own yet.
fn resume(before: Option<&Anchor>, here: &Anchor, at_least: u64) -> u64 {
    let time = match before {
        Some(before) if before.boot_id == here.boot_id && !here.boot_id.is_empty() => {
            before.time.saturating_add(here.boot.saturating_sub(before.boot))
        }
        Some(before) => before.time.saturating_add(here.wall.saturating_sub(before.wall)),
        None => here.wall,
    };
    time.max(at_least)
}

fn here() -> Anchor {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let wall = u64::try_from(jiff::Timestamp::now().as_millisecond()).unwrap_or_default();
    Anchor { boot_id: boot_id.trim().to_owned(), boot: boot(), wall, time: 0 }
}

fn boot() -> u64 {
    Uptime::now().as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(boot_id: &str, boot: u64, wall: u64, time: u64) -> Anchor {
        Anchor { boot_id: boot_id.into(), boot, wall, time }
    }

    #[test]
    fn over_a_restart_the_time_since_the_boot_counts_whatever_the_wall_clock_says() {
        let before = at("one", 5_000, 1_000_000, 700_000);
        for wall in [0, 1_000_000, 90_000_000] {
            assert_eq!(resume(Some(&before), &at("one", 5_250, wall, 0), 0), 700_250);
        }
    }

    #[test]
    fn over_a_reboot_the_wall_clock_counts_and_going_back_is_no_time() {
        let before = at("one", 5_000, 1_000_000, 700_000);
        assert_eq!(resume(Some(&before), &at("two", 10, 1_030_000, 0), 0), 730_000);
        assert_eq!(resume(Some(&before), &at("two", 10, 10, 0), 0), 700_000);
        // A boot that nobody can name is another one.
        let nameless = at("", 5_000, 1_000_000, 700_000);
        assert_eq!(resume(Some(&nameless), &at("", 9_000, 1_000_001, 0), 0), 700_001);
    }

    #[test]
    fn what_the_trail_tells_of_is_not_in_the_future() {
        assert_eq!(resume(None, &at("one", 1, 5_000, 0), 0), 5_000);
        assert_eq!(resume(None, &at("one", 1, 5_000, 0), 8_000), 8_000);
        let before = at("zero", 5_000, 1_000_000, 700_000);
        assert_eq!(resume(Some(&before), &at("two", 10, 1_000_010, 0), 700_200), 700_200);
    }

    #[test]
    fn the_clock_goes_on_by_itself() {
        let clock = Clock::start(None, 0);
        let (first, anchor) = (clock.now(), clock.anchor());
        assert!(anchor.time >= first && clock.now() >= anchor.time);
        let next = Clock::start(Some(&anchor), 0);
        assert!(next.now() >= anchor.time && next.now() < anchor.time + 60_000);
    }
}
