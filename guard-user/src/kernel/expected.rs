//! Warnings that the guard's own proof causes: it does what no one else should, so the same words would come at each
//! start and hide a stranger's.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::maps::lock;

/// How long after the start of a proof its lines may still come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many such lines are still to come. One more than expected is a stranger's, and shows.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    lines: Mutex<Option<(usize, Instant)>>,
}

impl Expected {
    /// A proof begins `now`; what an earlier one left over counts no more.
    pub(crate) fn expect(&self, lines: usize, now: Instant) {
        *lock(&self.lines) = Some((lines, now + PATIENCE));
    }

    /// Whether a line that comes `now` is one of them.
    pub(crate) fn take(&self, now: Instant) -> bool {
        match &mut *lock(&self.lines) {
            Some((lines, end)) if *lines > 0 && now < *end => {
                *lines -= 1;
                true
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_lines_as_the_proof_causes_are_expected_and_only_in_its_time() {
        let (expected, now) = (Expected::default(), Instant::now());
        assert!(!expected.take(now));
        expected.expect(2, now);
        assert_eq!([0; 3].map(|_| expected.take(now)), [true, true, false]);
        expected.expect(1, now);
        assert!(!expected.take(now + PATIENCE));
    }
}
