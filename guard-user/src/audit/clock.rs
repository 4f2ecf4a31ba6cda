//! Steps of the host's clock while a guard writes: the times of records before and after one do not compare, so a record says by how much.

use jiff::Timestamp;
use serde::{Serialize, Serializer};

use super::text;
use super::writer::{State, Writer};
use crate::types::Uptime;

/// What the two clocks may differ by from one look to the next. A clock that is slewed into its place stays below it: nothing goes back then, and nothing is left out.
pub(super) const STEP_MILLISECONDS_MIN: i64 = 2_000;

/// The host's clock, and beside it the one that nobody sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) time: Timestamp,
    /// Milliseconds since the host's boot, time asleep included.
    pub(super) since_boot: u64,
}

/// The record of a step. Its own `time` is the first after it.
#[derive(Debug, Serialize, PartialEq, Eq)]
#[serde(tag = "kind", rename = "clock")]
struct Step {
    /// Ahead, or back if it is below 0.
    by_milliseconds: i64,
    /// What the clock would have shown.
    #[serde(serialize_with = "micros")]
    expected: Timestamp,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { time: Timestamp::now(), since_boot: Uptime::now().as_millis() }
    }

    /// Whether the clock was set between `self` and `later`.
    fn step_until(self, later: Self) -> Option<Step> {
        let passed = i64::try_from(later.since_boot.saturating_sub(self.since_boot)).unwrap_or(i64::MAX);
        let expected = self.time.as_millisecond().saturating_add(passed);
        let by_milliseconds = later.time.as_millisecond().saturating_sub(expected);
        // Beyond the year 9999 there is no time to be told.
        let expected = Timestamp::from_millisecond(expected).ok()?;
        (by_milliseconds.saturating_abs() >= STEP_MILLISECONDS_MIN)
            .then_some(Step { by_milliseconds, expected })
    }
}

impl Writer {
    /// Tells of a step before anything that is written after it. On the reserve of a full disk, or after an error, it is told once that is over.
    pub(super) fn heed_clock(&mut self) {
        if self.reserve.is_spent() || !matches!(self.state, State::Good(_)) {
            return;
        }
        let now = self.disk.now();
        if let Some(step) = self.clock.step_until(now) {
            tracing::warn!(
                by_milliseconds = step.by_milliseconds,
                "the host's clock was set; the times of audit records before and after do not compare"
            );
            self.write_own(text::encode(&step));
            if !matches!(self.state, State::Good(_)) {
                return;
            }
        }
        self.clock = now;
    }
}

fn micros<S: Serializer>(time: &Timestamp, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{time:.6}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn moment(milliseconds: i64, since_boot: u64) -> Moment {
        Moment { time: Timestamp::from_millisecond(milliseconds).unwrap(), since_boot }
    }

    #[test]
    fn a_step_is_what_the_clock_moved_beyond_the_time_that_passed() {
        let start = moment(1_000_000, 5_000);
        assert_eq!(start.step_until(moment(1_060_000, 65_000)), None, "time passed");
        assert_eq!(start.step_until(moment(1_061_999, 65_000)), None, "slewed");
        let ahead = start.step_until(moment(4_660_000, 65_000)).unwrap();
        assert_eq!((ahead.by_milliseconds, ahead.expected.as_millisecond()), (3_600_000, 1_060_000));
        let back = start.step_until(moment(1_058_000, 65_000)).unwrap();
        assert_eq!((back.by_milliseconds, back.expected.as_millisecond()), (-2_000, 1_060_000));
    }

    proptest! {
        #[test]
        fn any_two_moments_compare(a in any::<u64>(), b in any::<u64>(), from in -377_705_116_800_000..=253_402_207_200_000_i64, to in -377_705_116_800_000..=253_402_207_200_000_i64) {
            let step = moment(from, a).step_until(moment(to, b));
            prop_assert!(step.is_none_or(|step| step.by_milliseconds.saturating_abs() >= STEP_MILLISECONDS_MIN));
        }
    }
}
