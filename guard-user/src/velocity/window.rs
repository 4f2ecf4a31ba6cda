//! One sliding window, exact: it remembers when each counted call began. Pure.

use std::collections::VecDeque;

/// The calls of one key within its window. At most as many as the rule allows, 8 bytes each.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Milliseconds, never falling.
    calls: VecDeque<u64>,
}

impl Window {
    /// Forgets what has left the window and returns the time to judge by: `now`, or the latest call's time if the
    /// clock stands before it. So a clock that goes back never makes room; at worst the window moves on later.
    fn slide(&mut self, now: u64, window_milliseconds: u64) -> u64 {
        let now = self.calls.back().map_or(now, |latest| now.max(*latest));
        while self.calls.front().is_some_and(|call| now - call >= window_milliseconds) {
            self.calls.pop_front();
        }
        now
    }

    /// How many calls are in the window, and in how many milliseconds there is room below `max_calls`
    /// (`None`: there is room now).
    pub(super) fn room(
        &mut self,
        now: u64,
        window_milliseconds: u64,
        max_calls: usize,
    ) -> (usize, Option<u64>) {
        let now = self.slide(now, window_milliseconds);
        let count = self.calls.len();
        // All calls from here on may stay and leave room for one; a lowered limit can make this more than the first.
        let Some(blocking) = count.checked_sub(max_calls) else { return (count, None) };
        let wait =
            self.calls.get(blocking).map(|call| call.saturating_add(window_milliseconds).saturating_sub(now));
        (count, Some(wait.unwrap_or(window_milliseconds)))
    }

    /// Counts a call. The caller has asked for [`Self::room`] at the same `now`.
    pub(super) fn count(&mut self, now: u64) {
        let now = self.calls.back().map_or(now, |latest| now.max(*latest));
        self.calls.push_back(now);
    }

    /// Whether nothing is left in the window. Gives memory back if it is far more than needed.
    pub(super) fn tidy(&mut self, now: u64, window_milliseconds: u64) -> bool {
        self.slide(now, window_milliseconds);
        if self.calls.len() < self.calls.capacity() / 4 {
            self.calls.shrink_to_fit();
        }
        self.calls.is_empty()
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.calls.len()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_hundred_pass_the_next_is_refused_then_the_window_slides() {
        let mut window = Window::default();
        for n in 0..100 {
            assert_eq!(window.room(n * 10, 60_000, 100), (usize::try_from(n).unwrap(), None));
            window.count(n * 10);
        }
        // The first began at 0, the second at 10.
        assert_eq!(window.room(1_000, 60_000, 100), (100, Some(59_000)));
        assert_eq!(window.room(59_999, 60_000, 100), (100, Some(1)));
        assert_eq!(window.room(60_000, 60_000, 100), (99, None));
        window.count(60_000);
        assert_eq!(window.room(60_000, 60_000, 100), (100, Some(10)));
    }

    #[test]
    fn a_lowered_limit_waits_for_as_many_calls_as_are_too_many() {
        let mut window = Window::default();
        for now in [0, 100, 200, 300] {
            window.count(now);
        }
        assert_eq!(window.room(300, 1_000, 2), (4, Some(900)));
        assert_eq!(window.room(300, 1_000, 4), (4, Some(700)));
        assert_eq!(window.room(300, 1_000, 5), (4, None));
    }

    /// What the rule says, read literally: count the calls begun in the span that ends now.
    struct Model {
        calls: Vec<u64>,
        latest: u64,
    }

    impl Model {
        fn now(&self, now: u64) -> u64 {
            if self.calls.is_empty() { now } else { now.max(self.latest) }
        }

        fn in_window(&self, now: u64, window: u64) -> usize {
            self.calls.iter().filter(|call| self.now(now) - **call < window).count()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        /// Steps go forward mostly, sometimes back, and sometimes far.
        #[test]
        fn the_window_agrees_with_a_literal_reading(
            window in 1_u64..50,
            max in 1_usize..6,
            steps in proptest::collection::vec(prop_oneof![8 => 0_i64..20, 2 => -30_i64..0, 1 => 40_i64..200], 1..80),
        ) {
            let mut now = 1_000_u64;
            let mut kept = Window::default();
            let mut model = Model { calls: Vec::new(), latest: 0 };
            for step in steps {
                now = now.saturating_add_signed(step);
                let (count, wait) = kept.room(now, window, max);
                prop_assert_eq!(count, model.in_window(now, window));
                prop_assert_eq!(wait.is_none(), count < max);
                if let Some(wait) = wait {
                    // After the told time there is room, a moment before there is none.
                    let at = model.now(now);
                    prop_assert!(wait > 0);
                    prop_assert!(model.in_window(at + wait, window) < max);
                    prop_assert!(model.in_window(at + wait - 1, window) >= max);
                } else {
                    kept.count(now);
                    let at = model.now(now);
                    model.calls.push(at);
                    model.latest = at;
                }
                prop_assert!(kept.len() <= max);
            }
        }
    }
}
