//! One sliding window in bounded memory. Pure.

mod moments;

pub(super) use moments::Moment;
use moments::Moments;

/// Moments that a window tells apart. With more of them than twice this, neighbours become one.
pub const PARTS: u64 = 256;
/// Moments that are kept before neighbours become one; 8 bytes each.
pub const MOMENTS_MAX: usize = 512;

/// The calls of one key within its window.
///
/// It is exact up to [`MOMENTS_MAX`] moments at which calls began. With more, calls that began within the same 256th part of
/// the window are remembered as if all had begun with the last of them. So no call leaves early, and none leaves later than
/// a 256th of the window after its time: a count is never too low, and within any span of the window no more passes than may.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// Milliseconds; what the moments count from.
    base: u64,
    /// Never falling. At most as long as a window, which is less than 2^32 milliseconds.
    moments: Moments,
    sum: u64,
}

impl Window {
    /// Forgets what has left the window and returns the time to judge by: `now`, or the latest call's time if the
    /// clock stands before it. So a clock that goes back never makes room; at worst the window moves on later.
    fn slide(&mut self, now: u64, length: u64) -> u64 {
        let now = now.max(self.latest());
        while let Some(first) = self.moments.front()
            && now - self.time(first) >= length
        {
            self.sum = self.sum.saturating_sub(u64::from(first.weight));
            self.moments.pop_front();
        }
        now
    }

    /// How much is in the window, and in how many milliseconds there is room for `weight` below `max` (`None`: now).
    pub(super) fn room(&mut self, now: u64, length: u64, max: u64, weight: u32) -> (u64, Option<u64>) {
        let now = self.slide(now, length);
        let mut excess = (self.sum + u64::from(weight)).saturating_sub(max);
        if excess == 0 {
            return (self.sum, None);
        }
        for moment in self.moments.iter() {
            excess = excess.saturating_sub(u64::from(moment.weight));
            if excess == 0 {
                return (self.sum, Some((self.time(*moment) + length).saturating_sub(now)));
            }
        }
        (self.sum, Some(length))
    }

    /// Counts a call.
    pub(super) fn count(&mut self, now: u64, length: u64, weight: u32) {
        let now = self.slide(now, length);
        if self.moments.is_empty() {
            self.base = now;
        }
        if self.moments.len() >= MOMENTS_MAX {
            self.merge(length);
        }
        let at = match u32::try_from(now - self.base) {
            Ok(at) => at,
            Err(_too_far) => self.rebase(now),
        };
        self.sum = self.sum.saturating_add(u64::from(weight));
        match self.moments.back_mut() {
            // It weighs less than 2^32 together: nothing passes that makes it more than the largest limit.
            Some(last) if last.at == at => last.weight = last.weight.saturating_add(weight),
            _ => self.moments.push_back(Moment { at, weight }),
        }
    }

    /// Whether nothing is left in the window. Gives memory back if it is far more than needed.
    pub(super) fn tidy(&mut self, now: u64, length: u64) -> bool {
        self.slide(now, length);
        self.moments.shrink();
        self.moments.is_empty()
    }

    /// When the last call began; 0 if there is none.
    pub(super) fn latest(&self) -> u64 {
        self.moments.back().map_or(0, |last| self.time(last))
    }

    pub(super) fn parts(&self) -> (u64, impl ExactSizeIterator<Item = &Moment>) {
        (self.base, self.moments.iter())
    }

    /// As it was written down.
    pub(super) fn from_parts(base: u64, moments: impl IntoIterator<Item = Moment>) -> Option<Self> {
        let moments: Moments = moments.into_iter().collect();
        let is_rising = moments.iter().zip(moments.iter().skip(1)).all(|(one, next)| one.at <= next.at);
        let is_in_time = moments.back().is_none_or(|last| base.checked_add(u64::from(last.at)).is_some());
        let sum = moments.iter().map(|moment| u64::from(moment.weight)).sum();
        (is_rising && is_in_time && moments.len() <= MOMENTS_MAX).then_some(Self { base, moments, sum })
    }

    fn time(&self, moment: Moment) -> u64 {
        self.base + u64::from(moment.at)
    }

    /// Makes the first moment the one that all count from. Returns where `now` is then.
    fn rebase(&mut self, now: u64) -> u32 {
        let first = self.moments.front().map_or(0, |first| first.at);
        self.moments.iter_mut().for_each(|moment| moment.at -= first);
        self.base += u64::from(first);
        u32::try_from(now - self.base).unwrap_or(u32::MAX)
    }

    /// Makes one moment, the last, of all within a 256th part of the window. Parts stand still on the clock, so that a call
    /// moves within its own part only, however often this is done.
    fn merge(&mut self, length: u64) {
        let part = (length / PARTS).max(1);
        let mut merged = Moments::default();
        for moment in self.moments.iter() {
            let of = |moment: Moment| self.time(moment) / part;
            match merged.back_mut() {
                Some(last) if of(*last) == of(*moment) => {
                    last.at = moment.at;
                    last.weight = last.weight.saturating_add(moment.weight);
                }
                _ => merged.push_back(*moment),
            }
        }
        self.moments = merged;
    }
}

#[cfg(test)]
mod tests;
