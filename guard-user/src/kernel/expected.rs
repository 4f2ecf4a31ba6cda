//! Warnings that the guard's own proof causes: it does what no one else should, so the same words would come at each
//! start and hide a stranger's.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::maps::lock;

/// How long after the start of a proof its lines may still come.
const PATIENCE: Duration = Duration::from_secs(10);

/// How many such lines are still to come. One more than expected is a stranger's, and shows.
#[derive(Debug, Default)]
pub(crate) struct Expected {
    /// By the cookie of the namespace: several may be proven at once.
    lines: Mutex<BTreeMap<u64, (usize, Instant)>>,
}

impl Expected {
    /// A proof of a namespace begins `now`; what an earlier one of it left over counts no more.
    pub(crate) fn expect(&self, netns: u64, lines: usize, now: Instant) {
        lock(&self.lines).insert(netns, (lines, now + PATIENCE));
    }

    /// Whether a line that comes `now` is one of them.
    pub(crate) fn take(&self, now: Instant) -> bool {
        let mut all = lock(&self.lines);
        all.retain(|_, (lines, end)| *lines > 0 && now < *end);
        match all.values_mut().next() {
            Some((lines, _)) => {
                *lines -= 1;
                true
            }
            None => false,
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
        expected.expect(7, 2, now);
        assert_eq!([0; 3].map(|_| expected.take(now)), [true, true, false]);
        expected.expect(7, 1, now);
        expected.expect(8, 1, now);
        assert!(expected.take(now), "several namespaces are proven at once");
        assert!(!expected.take(now + PATIENCE));
    }
}
