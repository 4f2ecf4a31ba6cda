//! How many lines of the log strangers can cause with their certificates.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines in each span of [`SPAN`].
const LINES_MAX: u64 = 10;
const SPAN: Duration = Duration::from_secs(10);

/// Lets [`LINES_MAX`] lines pass in each [`SPAN`], and counts the others.
#[derive(Debug)]
pub(super) struct Lines {
    start: Instant,
    span: Mutex<Span>,
}

#[derive(Debug, Default)]
struct Span {
    /// Since the start.
    begin: Duration,
    written: u64,
    left_out: u64,
}

impl Default for Lines {
    fn default() -> Self {
        Self { start: Instant::now(), span: Mutex::default() }
    }
}

impl Lines {
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Whether one more line may be written `now` (time since start): how many were left out since the last one that was.
    pub(super) fn admit(&self, now: Duration) -> Option<u64> {
        let mut span = self.span.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_sub(span.begin) >= SPAN {
            (span.begin, span.written) = (now, 0);
        }
        if span.written >= LINES_MAX {
            span.left_out += 1;
            return None;
        }
        span.written += 1;
        Some(std::mem::take(&mut span.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_above_the_rate_are_counted_and_told_with_the_next() {
        let lines = Lines::default();
        let at = Duration::from_secs;
        let admitted: Vec<_> = (0..1000).filter_map(|_| lines.admit(at(3))).collect();
        assert_eq!(admitted, [0; 10]);
        assert_eq!(lines.admit(at(9)), None, "the same span");
        assert_eq!((lines.admit(at(13)), lines.admit(at(13))), (Some(991), Some(0)));
    }
}
