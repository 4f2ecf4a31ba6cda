use proptest::prelude::*;

use super::*;

#[test]
fn a_hundred_pass_the_next_is_refused_then_the_window_slides() {
    let mut window = Window::default();
    for n in 0..100 {
        assert_eq!(window.room(n * 10, 60_000, 100, 1), (n, None));
        window.count(n * 10, 60_000, 1);
    }
    // The first began at 0, the second at 10.
    assert_eq!(window.room(1_000, 60_000, 100, 1), (100, Some(59_000)));
    assert_eq!(window.room(59_999, 60_000, 100, 1), (100, Some(1)));
    assert_eq!(window.room(60_000, 60_000, 100, 1), (99, None));
    window.count(60_000, 60_000, 1);
    assert_eq!(window.room(60_000, 60_000, 100, 1), (100, Some(10)));
}

#[test]
fn a_lowered_limit_waits_for_as_many_calls_as_are_too_many() {
    let mut window = Window::default();
    for now in [0, 100, 200, 300] {
        window.count(now, 1_000, 1);
    }
    assert_eq!(window.room(300, 1_000, 2, 1), (4, Some(900)));
    assert_eq!(window.room(300, 1_000, 4, 1), (4, Some(700)));
    assert_eq!(window.room(300, 1_000, 5, 1), (4, None));
}

#[test]
fn a_dear_call_waits_until_enough_has_left() {
    let mut window = Window::default();
    for (now, weight) in [(0, 5), (100, 1), (200, 4)] {
        window.count(now, 1_000, weight);
    }
    assert_eq!(window.room(300, 1_000, 10, 1), (10, Some(700)));
    assert_eq!(window.room(300, 1_000, 10, 6), (10, Some(800)));
    assert_eq!(window.room(300, 1_000, 10, 10), (10, Some(900)));
    assert_eq!(window.room(1_000, 1_000, 10, 5), (5, None));
}

#[test]
fn thirty_one_days_fit_and_the_window_moves_on_for_years() {
    const DAY: u64 = 24 * 3600 * 1000;
    let mut window = Window::default();
    for day in 0..1_000 {
        window.count(day * DAY, 31 * DAY, 1);
        assert_eq!(window.room(day * DAY, 31 * DAY, 1, 1).0, 31.min(day + 1));
    }
}

#[test]
fn a_million_calls_take_no_more_than_four_kilobytes() {
    let mut window = Window::default();
    for n in 0..1_000_000 {
        window.count(n * 3, 2_678_400_000, 1);
        assert!(window.moments.len() <= MOMENTS_MAX && window.moments.capacity() * 8 <= 4096, "{n}");
    }
    assert_eq!(window.room(3_000_000, 2_678_400_000, 1, 1).0, 1_000_000);
}

/// What the rule says, read literally: count the calls begun in the span that ends now.
#[derive(Default)]
struct Model {
    calls: Vec<(u64, u32)>,
    /// The latest time of all that was asked: what has left by then is not counted again.
    asked: u64,
}

impl Model {
    fn now(&self, now: u64) -> u64 {
        self.calls.last().map_or(now, |(latest, _)| now.max(*latest))
    }

    fn in_window(&self, now: u64, window: u64) -> u64 {
        let now = self.now(now).max(self.asked);
        self.calls.iter().filter(|(call, _)| now - call < window).map(|(_, weight)| u64::from(*weight)).sum()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Steps go forward mostly, sometimes back, and sometimes far.
    #[test]
    fn the_window_agrees_with_a_literal_reading(
        window in 1_u64..50,
        max in 5_u64..12,
        steps in proptest::collection::vec(
            (prop_oneof![8 => 0_i64..20, 2 => -30_i64..0, 1 => 40_i64..200], 1_u32..5), 1..80),
    ) {
        let mut now = 1_000_u64;
        let mut kept = Window::default();
        let mut model = Model::default();
        for (step, weight) in steps {
            now = now.saturating_add_signed(step);
            model.asked = model.asked.max(now);
            let (count, wait) = kept.room(now, window, max, weight);
            let fits = |at| model.in_window(at, window) + u64::from(weight) <= max;
            prop_assert_eq!(count, model.in_window(now, window));
            prop_assert_eq!(wait.is_none(), fits(now));
            if let Some(wait) = wait {
                // After the told time there is room, a moment before there is none.
                let at = model.now(now);
                prop_assert!(wait > 0);
                prop_assert!(fits(at + wait) && !fits(at + wait - 1));
            } else {
                kept.count(now, window, weight);
                model.calls.push((model.now(now), weight));
            }
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    /// However many calls there are: none leaves early, and none leaves more than a 256th of the window late.
    #[test]
    fn a_full_memory_keeps_calls_a_little_longer_and_never_lets_one_go_early(
        window in 1_000_u64..10_000,
        steps in proptest::collection::vec((0_u64..12, 1_u32..4), 600..2_500),
    ) {
        let mut now = 5_000_u64;
        let mut kept = Window::default();
        let mut model = Model::default();
        for (step, weight) in steps {
            now += step;
            kept.count(now, window, weight);
            model.calls.push((now, weight));
            let (count, _) = kept.room(now, window, u64::MAX, 1);
            prop_assert!(count >= model.in_window(now, window), "{} too few", model.in_window(now, window) - count);
            prop_assert!(count <= model.in_window(now, window + window / PARTS));
        }
    }

    #[test]
    fn what_was_written_down_reads_back(steps in proptest::collection::vec((0_u64..90_000, 1_u32..9), 0..700)) {
        let (mut now, mut window) = (0, Window::default());
        for (step, weight) in steps {
            now += step;
            window.count(now, 2_678_400_000, weight);
        }
        let (base, moments) = window.parts();
        let read = Window::from_parts(base, moments.copied());
        prop_assert_eq!(read, Some(window));
    }
}
