//! What a run measured.

use std::time::Duration;

/// Latencies of the good answers, and the bad ones counted.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    /// Microseconds, sorted once the run is over.
    latencies_us: Vec<u32>,
    pub(crate) errors: u64,
    pub(crate) first_error: Option<String>,
    pub(crate) elapsed: Duration,
}

impl Measured {
    pub(crate) fn good(&mut self, latency: Duration) {
        self.latencies_us.push(u32::try_from(latency.as_micros()).unwrap_or(u32::MAX));
    }

    pub(crate) fn bad(&mut self, error: impl FnOnce() -> String) {
        self.errors += 1;
        self.first_error.get_or_insert_with(error);
    }

    /// Joins what the connections measured.
    pub(crate) fn of(parts: impl IntoIterator<Item = Self>, elapsed: Duration) -> Self {
        let mut whole = Self { elapsed, ..Self::default() };
        for part in parts {
            whole.latencies_us.extend(part.latencies_us);
            whole.errors += part.errors;
            whole.first_error = whole.first_error.or(part.first_error);
        }
        whole.latencies_us.sort_unstable();
        whole
    }

    /// Answers of both kinds.
    pub(crate) fn requests(&self) -> u64 {
        self.latencies_us.len() as u64 + self.errors
    }

    /// Good answers per second.
    pub(crate) fn per_second(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let good = self.latencies_us.len() as f64;
        good / self.elapsed.as_secs_f64()
    }

    /// The latency that `share` (0 to 1) of the good answers did not exceed; nothing without good answers.
    pub(crate) fn percentile_us(&self, share: f64) -> Option<u32> {
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let rank = (share * self.latencies_us.len() as f64).ceil();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between 0 and the length"
        )]
        let rank = rank as usize;
        self.latencies_us.get(rank.saturating_sub(1)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_ranks_of_the_good_answers() {
        let mut one = Measured::default();
        let mut two = Measured::default();
        for micros in 1..=50 {
            one.good(Duration::from_micros(micros));
            two.good(Duration::from_micros(micros + 50));
        }
        two.bad(|| "503".into());
        let whole = Measured::of([two, one], Duration::from_secs(2));
        assert_eq!((whole.requests(), whole.errors), (101, 1));
        assert_eq!(whole.percentile_us(0.5), Some(50));
        assert_eq!(whole.percentile_us(0.99), Some(99));
        assert_eq!(whole.percentile_us(1.0), Some(100));
        assert!((whole.per_second() - 50.0).abs() < f64::EPSILON);
        assert_eq!(Measured::of([], Duration::from_secs(1)).percentile_us(0.5), None);
    }
}
