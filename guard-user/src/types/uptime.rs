//! A clock that nobody sets and that sleeps no more than the world does.

use std::ops::Add;
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the host's boot, sleep included (`CLOCK_BOOTTIME`). [`std::time::Instant`] stands still while a host is suspended:
/// what may be kept for an hour is kept for a night by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Uptime(Duration);

impl Uptime {
    pub const ZERO: Self = Self(Duration::ZERO);

    pub fn now() -> Self {
        let since = clock_gettime(ClockId::Boottime);
        let seconds = u64::try_from(since.tv_sec).unwrap_or_default();
        let nanos = u32::try_from(since.tv_nsec).unwrap_or_default();
        Self(Duration::new(seconds, nanos))
    }

    pub fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    pub fn as_millis(self) -> u64 {
        u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX)
    }

    /// None if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

impl Add<Duration> for Uptime {
    type Output = Self;
    fn add(self, time: Duration) -> Self {
        Self(self.0.saturating_add(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_with_the_boot_clock_and_never_overflows() {
        let first = Uptime::now();
        assert!(first > Uptime::ZERO && Uptime::now() >= first);
        // What /proc tells is that clock, rounded down.
        let told = std::fs::read_to_string("/proc/uptime").unwrap();
        let told: f64 = told.split(' ').next().unwrap().parse().unwrap();
        let seconds = |time: Uptime| time.since(Uptime::ZERO).as_secs_f64();
        assert!(seconds(first) - 0.02 <= told && told <= seconds(Uptime::now()), "{told} {first:?}");
        assert_eq!(Uptime::ZERO.since(first), Duration::ZERO);
        assert_eq!((first + Duration::MAX).as_millis(), u64::MAX);
        assert_eq!(Uptime::from_millis(1_500).as_millis(), 1_500);
    }
}
