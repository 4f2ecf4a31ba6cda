//! When an issuer is asked for its keys, and how long they are good. Pure: time is an argument.

use std::time::Duration;

use crate::config::JwksUrl;
use crate::types::Uptime;

/// An issuer that wants to be asked more often (`Cache-Control: max-age`) is, down to this.
const REFRESH_MIN: Duration = Duration::from_secs(60);
/// After a failure, it is asked again after a second, and each time after twice as long, up to this.
const RETRY_MAX: Duration = Duration::from_secs(60);
/// For keys that tokens name and that are not known, it is asked once in this time; after twice as long each time that it has no other
/// keys, up to `refresh_seconds`, after which it is asked anyway.
const ASKED_EVERY: Duration = Duration::from_secs(10);

#[derive(Debug, Clone)]
pub(super) struct Schedule {
    refresh: Duration,
    stale: Duration,
    next: Uptime,
    good_since: Option<Uptime>,
    failures: u32,
    last_asked: Option<Uptime>,
    /// How often it was asked for the sake of a token since it had other keys.
    in_vain: u32,
}

impl Schedule {
    /// Of one that was never asked.
    pub(super) fn new(jwks: &JwksUrl, now: Uptime) -> Self {
        Self {
            refresh: Duration::from_secs(jwks.refresh_seconds.into()),
            stale: Duration::from_secs(jwks.stale_seconds.into()),
            next: now,
            good_since: None,
            failures: 0,
            last_asked: None,
            in_vain: 0,
        }
    }

    /// It answered; it was asked at `begun`. How long its answer may be kept is its word, within bounds.
    pub(super) fn succeeded(&mut self, begun: Uptime, max_age: Option<Duration>) {
        let shortest = REFRESH_MIN.min(self.refresh);
        self.next = begun + max_age.map_or(self.refresh, |age| age.clamp(shortest, self.refresh));
        (self.good_since, self.failures) = (Some(begun), 0);
    }

    pub(super) fn failed(&mut self, now: Uptime) {
        let wait = Duration::from_secs(1 << self.failures.min(6)).min(RETRY_MAX).min(self.refresh);
        self.failures = self.failures.saturating_add(1);
        self.next = now + wait;
    }

    /// When it is asked the next time.
    pub(super) fn next(&self) -> Uptime {
        self.next
    }

    /// From when on the keys are good no more, unless they are heard of again; none if there are none.
    pub(super) fn stale_at(&self) -> Option<Uptime> {
        self.good_since.map(|since| since + self.stale)
    }

    /// The keys are over.
    pub(super) fn forget(&mut self) {
        self.good_since = None;
    }

    /// Whether it is asked for the sake of a token. Says yes once in a while.
    pub(super) fn may_be_asked(&mut self, now: Uptime) -> bool {
        let wait = ASKED_EVERY.saturating_mul(1 << self.in_vain.saturating_sub(1).min(16));
        let wait = wait.min(self.refresh.max(ASKED_EVERY));
        let may = self.last_asked.is_none_or(|last| now.since(last) >= wait);
        if may {
            self.last_asked = Some(now);
            self.in_vain = self.in_vain.saturating_add(1);
        }
        may
    }

    /// It has other keys than before: whoever named one that was not known may have been right.
    pub(super) fn has_news(&mut self) {
        self.in_vain = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn schedule(refresh: u32, stale: u32, now: Uptime) -> Schedule {
        let json =
            format!(r#"{{"url": "https://a/", "refresh_seconds": {refresh}, "stale_seconds": {stale}}}"#);
        Schedule::new(&serde_json::from_str(&json).unwrap(), now)
    }

    #[test]
    fn an_issuer_that_fails_is_asked_less_and_less_often_and_its_keys_end() {
        let begun = Uptime::now();
        let mut schedule = schedule(300, 3600, begun);
        assert_eq!((schedule.next(), schedule.stale_at()), (begun, None));
        schedule.succeeded(begun, None);
        assert_eq!(schedule.next(), begun + Duration::from_secs(300));
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60] {
            schedule.failed(begun);
            assert_eq!(schedule.next(), begun + Duration::from_secs(seconds));
        }
        assert_eq!(schedule.stale_at(), Some(begun + Duration::from_secs(3600)));
        schedule.forget();
        assert_eq!(schedule.stale_at(), None);
    }

    #[test]
    fn questions_for_the_sake_of_tokens_get_rarer_while_they_bring_nothing() {
        let begun = Uptime::now();
        let mut schedule = schedule(300, 3600, begun);
        let asked = |schedule: &mut Schedule, seconds: std::ops::Range<u64>| -> Vec<u64> {
            seconds.filter(|second| schedule.may_be_asked(begun + Duration::from_secs(*second))).collect()
        };
        assert_eq!(asked(&mut schedule, 0..1300), [0, 10, 30, 70, 150, 310, 610, 910, 1210]);
        schedule.has_news();
        assert_eq!(asked(&mut schedule, 1300..1400), [1300, 1310, 1330, 1370]);
    }

    proptest! {
        #[test]
        fn however_many_keys_are_made_up_it_is_asked_less_and_less_often(
            gaps in prop::collection::vec(0_u64..40_000, 1..400), refresh in 5_u32..1000,
        ) {
            let mut now = Uptime::now();
            let mut schedule = schedule(refresh, 3600, now);
            let (begun, mut asked) = (now, 0_u64);
            for gap in gaps {
                asked += u64::from(schedule.may_be_asked(now));
                now = now + Duration::from_millis(gap);
            }
            let steps = now.since(begun).as_secs() / ASKED_EVERY.as_secs();
            let bound = u64::from(refresh).max(ASKED_EVERY.as_secs());
            let doublings = u64::from((bound / ASKED_EVERY.as_secs()).ilog2()) + 1;
            prop_assert!(asked <= 1 + steps);
            prop_assert!(asked <= 2 + doublings + now.since(begun).as_secs() / bound);
        }

        #[test]
        fn what_an_issuer_says_of_its_age_moves_the_next_question_within_bounds(refresh in 5_u32..100_000, age: u64) {
            let now = Uptime::now();
            let mut schedule = schedule(refresh, 604_800, now);
            schedule.succeeded(now, Some(Duration::from_secs(age)));
            let (wait, refresh) = (schedule.next().since(now), Duration::from_secs(refresh.into()));
            prop_assert!(wait <= refresh && wait >= REFRESH_MIN.min(refresh));
        }
    }
}
