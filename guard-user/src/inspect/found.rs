//! What is kept of what a text holds: all of it counts, and so much of it is kept that it can be masked.

use std::ops::Range;

use super::{Kind, Within};

/// Finds in one text that are kept with their places. Nobody writes so many addresses into one answer but to have them pass.
pub const PLACES_MAX: usize = 65_536;

/// Something in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub kind: Kind,
    /// Its bytes in the text, escapes and all.
    pub range: Range<usize>,
    pub within: Within,
    /// Its last digits, as they mean.
    pub last: [u8; 4],
}

/// What a text holds.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Found {
    /// In the text's order; at most [`PLACES_MAX`].
    pub places: Vec<Place>,
    counts: [u64; Kind::ALL.len()],
    is_cut: bool,
}

impl Found {
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// All of this kind, also those whose places were not kept.
    pub fn count(&self, kind: Kind) -> u64 {
        self.counts.get(kind.index()).copied().unwrap_or_default()
    }

    /// Whether there was more than is kept: it cannot be masked.
    pub fn is_cut(&self) -> bool {
        self.is_cut
    }

    /// Takes in what a string at `start` holds, by its bytes in that.
    pub(super) fn take(&mut self, hits: &mut Hits, (start, within): (usize, Within)) {
        self.is_cut |= hits.is_cut;
        for (all, more) in self.counts.iter_mut().zip(&mut hits.counts) {
            *all += std::mem::take(more);
        }
        hits.is_cut = false;
        for hit in hits.kept.drain(..) {
            if self.places.len() == PLACES_MAX {
                self.is_cut = true;
                continue;
            }
            let range = start + hit.range.start..start + hit.range.end;
            self.places.push(Place { kind: hit.kind, range, within, last: hit.last });
        }
    }
}

/// A thing in a string, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
    /// Its last digits, as they mean.
    pub(super) last: [u8; 4],
}

/// What one string holds.
#[derive(Debug, Default)]
pub(super) struct Hits {
    pub(super) kept: Vec<Hit>,
    counts: [u64; Kind::ALL.len()],
    is_cut: bool,
}

impl Hits {
    pub(super) fn tell(&mut self, hit: Hit) {
        if let Some(count) = self.counts.get_mut(hit.kind.index()) {
            *count += 1;
        }
        if self.kept.len() < PLACES_MAX {
            self.kept.push(hit);
        } else {
            self.is_cut = true;
        }
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.kept.clear();
        (self.counts, self.is_cut) = Default::default();
    }

    /// Leaves out what is not meant, and its count.
    pub(super) fn retain(&mut self, is_meant: impl Fn(&Hit) -> bool) {
        self.kept.retain(is_meant);
        (self.counts, self.is_cut) = Default::default();
        for hit in &self.kept {
            if let Some(count) = self.counts.get_mut(hit.kind.index()) {
                *count += 1;
            }
        }
    }
}

/// Where bytes of a text that was decoded stand in the original: found by one more way through it for those that are asked for,
/// so that nothing is held for the others.
pub(super) struct Origins {
    wanted: Vec<usize>,
    at: Vec<usize>,
    length: usize,
}

impl Origins {
    /// Of the ends of `hits`.
    pub(super) fn of(hits: &[Hit]) -> Self {
        let mut wanted: Vec<usize> = hits.iter().flat_map(|hit| [hit.range.start, hit.range.end]).collect();
        wanted.sort_unstable();
        wanted.dedup();
        Self { at: Vec::with_capacity(wanted.len()), wanted, length: 0 }
    }

    /// The next bytes of the decoded text, which stand from `at` on: each at its own place (`is_run`), or all at the first.
    pub(super) fn step(&mut self, length: usize, at: usize, is_run: bool) {
        let begun = self.length;
        self.length += length;
        while let Some(wanted) = self.wanted.get(self.at.len()).filter(|wanted| **wanted < self.length) {
            self.at.push(if is_run { at + (wanted - begun) } else { at });
        }
    }

    /// `end`: where the original ends.
    pub(super) fn apply(mut self, end: usize, hits: &mut [Hit]) {
        self.at.resize(self.wanted.len(), end);
        let original = |at: usize| {
            let found = self.wanted.binary_search(&at).ok().and_then(|index| self.at.get(index));
            found.copied().unwrap_or(end)
        };
        for hit in hits {
            hit.range = original(hit.range.start)..original(hit.range.end);
        }
    }
}
