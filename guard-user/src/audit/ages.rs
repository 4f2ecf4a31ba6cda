//! The time by which records are too old: the host's clock, unless that runs ahead of what has passed.
//!
//! A clock that is set a year ahead makes every record a year older. So the time here never runs more than twice as fast as the host's steady clock
//! (`CLOCK_BOOTTIME`): a step ahead comes over as long as it is wide, and there is time to notice; what passed while no guard ran is made up for. While
//! the clock is behind it, the clock's time counts; what it had come to is kept, for when the clock is right again. Whoever knows better has `mcp-guard audit prune`, which goes by the clock as it is.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::sync::{MutexGuard, PoisonError};
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

use super::log::AuditLog;
use super::walk::{Found, Lines};
use super::{LINE_BYTES_MAX, disk};
use crate::config::read_bounded;
use crate::types::Uptime;

/// Beside the trail.
const FILE: &str = "clock";
const FILE_BYTES_MAX: usize = 4096;
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// How far the trail's time had come at some moment of a boot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Moment {
    time: Timestamp,
    /// Empty: nobody says which boot it is.
    boot: String,
    /// Milliseconds.
    since_boot: u64,
}

impl Moment {
    /// The time that the clock shows, in this boot.
    fn here() -> Self {
        let boot = fs::read_to_string(BOOT_ID).unwrap_or_default().trim().to_owned();
        Self { time: Timestamp::now(), boot, since_boot: Uptime::now().as_millis() }
    }

    /// What has become of it by `here`. In another boot nobody knows what has passed.
    fn until(&self, here: &Self) -> Self {
        let is_same = !here.boot.is_empty() && here.boot == self.boot;
        let passed = if is_same { here.since_boot.saturating_sub(self.since_boot) } else { 0 };
        let passed = SignedDuration::from_millis(i64::try_from(passed).unwrap_or(i64::MAX));
        let reached = self.time.saturating_add(passed.saturating_mul(2)).unwrap_or(Timestamp::MAX);
        Self { time: reached.min(here.time).max(self.time), ..here.clone() }
    }

    fn read(dir: &Path) -> io::Result<Option<Self>> {
        match read_bounded(&dir.join(FILE), FILE_BYTES_MAX) {
            Ok(text) => Ok(Some(serde_json::from_slice(&text)?)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AuditLog {
    /// The time by which records are too old now. Reads and writes a file.
    pub fn time_of_ages(&self) -> Timestamp {
        let here = Moment::here();
        self.age(&here).time.min(here.time)
    }

    fn age(&self, here: &Moment) -> Moment {
        let (dir, health) = (&self.files().dir, self.health());
        let mut kept: MutexGuard<'_, Option<Moment>> =
            health.ages.lock().unwrap_or_else(PoisonError::into_inner);
        let read = || {
            Moment::read(dir).unwrap_or_else(|error| {
                tracing::warn!(%error, "{FILE} beside the audit trail cannot be read; its last record says how late it was");
                None
            })
        };
        let last = health.last_before.get().copied();
        let first = || Moment { time: last.unwrap_or(here.time), ..here.clone() };
        let now = kept.take().or_else(read).unwrap_or_else(first).until(here);
        let written = serde_json::to_vec(&now).map_err(io::Error::from);
        if let Err(error) = written.and_then(|text| disk::replace(dir, FILE, &text)) {
            tracing::debug!(%error, "{FILE} beside the audit trail is not written; the next guard may find records younger than they are");
        }
        let ahead = Duration::try_from(here.time.duration_since(now.time)).unwrap_or_default();
        health.ahead.store(ahead.as_secs(), Ordering::Relaxed);
        *kept = Some(now.clone());
        now
    }

    /// How far the host's clock runs ahead of the time by which records are too old, as of the last look.
    pub fn clock_ahead(&self) -> Duration {
        Duration::from_secs(self.health().ahead.load(Ordering::Relaxed))
    }
}

/// When the last record of a segment of so many bytes was written.
pub(super) fn last_time(path: &Path, bytes: u64) -> io::Result<Option<Timestamp>> {
    #[derive(Deserialize)]
    struct Line {
        time: Timestamp,
    }
    let back = u64::try_from(LINE_BYTES_MAX + 1).unwrap_or(u64::MAX);
    let mut lines = Lines::open(path)?;
    lines.skip_to(bytes.saturating_sub(back * 2))?;
    let mut last = None;
    while let Some(found) = lines.next()? {
        // The first one may be the end of a line.
        if let Found::Line(line) = found
            && let Ok(Line { time }) = serde_json::from_slice(line)
        {
            last = Some(time);
        }
    }
    Ok(last)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::Options;
    use crate::audit::Pruning;

    const HOUR: i64 = 3600;

    fn moment(hours: i64, boot: &str, since_boot: i64) -> Moment {
        let time = Timestamp::from_second(hours * HOUR).unwrap();
        Moment { time, boot: boot.into(), since_boot: u64::try_from(since_boot * HOUR * 1000).unwrap() }
    }

    #[test]
    fn a_step_ahead_comes_over_as_long_as_it_is_wide_and_one_back_leaves_nothing_behind() {
        let then = moment(1000, "a", 10);
        assert_eq!(then.until(&moment(1001, "a", 11)), moment(1001, "a", 11), "as time passes");
        assert_eq!(then.until(&moment(9000, "a", 10)), moment(1000, "a", 10), "nothing has passed");
        assert_eq!(then.until(&moment(9000, "a", 13)), moment(1006, "a", 13), "twice as fast");
        assert_eq!(then.until(&moment(1003, "a", 12)), moment(1003, "a", 12), "made up");
        let back = then.until(&moment(900, "a", 11));
        assert_eq!(back, moment(1000, "a", 11), "kept");
        assert_eq!(back.until(&moment(1003, "a", 13)), moment(1003, "a", 13), "right again");
        // Off for ten hours, or so the clock says.
        let booted = then.until(&moment(1010, "b", 0));
        assert_eq!(booted, moment(1000, "b", 0));
        assert_eq!(booted.until(&moment(1020, "b", 10)), moment(1020, "b", 10));
        // Nobody knows whether it is the same boot.
        assert_eq!(moment(1000, "", 10).until(&moment(1005, "", 15)), moment(1000, "", 15));
    }

    proptest! {
        #[test]
        fn it_is_never_ahead_of_where_the_clock_was_nor_more_than_twice_as_fast(
            steps in prop::collection::vec((0..5_i64, -2_000..2_000_i64), 1..40),
        ) {
            let mut at = moment(10_000, "a", 0);
            let (start, mut passed, mut wall, mut furthest) = (at.time, 0, 10_000, 10_000);
            for (hours, step) in steps {
                passed += hours;
                wall += hours + step;
                at = at.until(&moment(wall, "a", passed));
                prop_assert!(at.time <= start + SignedDuration::from_hours(2 * passed));
                furthest = furthest.max(wall);
                prop_assert!(at.time <= Timestamp::from_second(furthest * HOUR).unwrap());
            }
        }
    }

    #[tokio::test]
    async fn a_clock_that_was_set_ahead_removes_nothing_at_once_not_even_for_the_next_guard() {
        let dir = tempfile::tempdir().unwrap();
        let options = || Options {
            retention: crate::audit::Retention {
                keep: Some(Duration::from_secs(90 * 86_400)),
                ..Default::default()
            },
            ..crate::audit::tests::options(dir.path())
        };
        let log = AuditLog::open(options()).unwrap();
        let now = Timestamp::now();
        let here = |days: i64, passed: i64| Moment {
            time: now + SignedDuration::from_hours(24 * days),
            boot: "a".into(),
            since_boot: u64::try_from(passed * 1000).unwrap(),
        };
        // The trail has begun a moment before.
        let begun = log.age(&here(0, 100)).time;
        assert!(begun <= now && now.duration_since(begun) < SignedDuration::from_secs(60), "{begun}");
        let year = here(365, 160);
        let time = log.age(&year).time;
        assert_eq!(time, begun + SignedDuration::from_secs(120));
        assert!(log.clock_ahead() > Duration::from_secs(364 * 86_400));
        let before = Pruning::by_policy(&options().retention, time).unwrap().before.unwrap();
        assert!(before < now - SignedDuration::from_hours(24 * 89), "{before}");
        log.close().await;
        let log = AuditLog::open(options()).unwrap();
        assert_eq!(log.age(&here(365, 220)).time, begun + SignedDuration::from_secs(240));
        assert!(
            log.age(&here(0, 280)).time <= begun + SignedDuration::from_secs(240),
            "the clock is right again"
        );
        assert_eq!(log.clock_ahead(), Duration::ZERO);
        log.close().await;
        // Without the file the last record says how late it was.
        fs::remove_file(dir.path().join("audit").join(FILE)).unwrap();
        let log = AuditLog::open(options()).unwrap();
        let time = log.age(&here(365, 300)).time;
        assert!(time < now + SignedDuration::from_hours(1), "{time}");
        log.close().await;
    }
}
