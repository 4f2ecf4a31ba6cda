//! When the calls of a window began. Most keys have few, and need no memory beside their own.

use std::collections::VecDeque;

/// What began at one time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(in crate::velocity) struct Moment {
    pub(in crate::velocity) at: u32,
    pub(in crate::velocity) weight: u32,
}

const FEW: usize = 4;

/// A queue.
#[derive(Debug, Clone)]
pub(super) enum Moments {
    Few { count: u8, first: [Moment; FEW] },
    Many(VecDeque<Moment>),
}

impl Moments {
    pub(super) fn len(&self) -> usize {
        self.halves().0.len() + self.halves().1.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn front(&self) -> Option<Moment> {
        self.halves().0.first().copied()
    }

    pub(super) fn back(&self) -> Option<Moment> {
        let (one, other) = self.halves();
        other.last().or(one.last()).copied()
    }

    pub(super) fn back_mut(&mut self) -> Option<&mut Moment> {
        match self {
            Self::Few { count, first } => first.get_mut(..usize::from(*count)).and_then(<[_]>::last_mut),
            Self::Many(all) => all.back_mut(),
        }
    }

    pub(super) fn pop_front(&mut self) {
        match self {
            Self::Few { count, first } => {
                first.copy_within(1.., 0);
                *count = count.saturating_sub(1);
            }
            Self::Many(all) => drop(all.pop_front()),
        }
    }

    pub(super) fn push_back(&mut self, moment: Moment) {
        match self {
            Self::Few { count, first } => {
                if let Some(place) = first.get_mut(usize::from(*count)) {
                    *place = moment;
                    *count += 1;
                    return;
                }
                // Doubled until there is room for all that are kept, and no further.
                let mut all = VecDeque::with_capacity(FEW * 2);
                all.extend(first.iter().copied().chain([moment]));
                *self = Self::Many(all);
            }
            Self::Many(all) => all.push_back(moment),
        }
    }

    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Moment> {
        let (one, other) = self.halves();
        All { one: one.iter(), other: other.iter() }
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Moment> {
        let (one, other) = match self {
            Self::Few { count, first } => {
                (first.get_mut(..usize::from(*count)).unwrap_or_default(), &mut [][..])
            }
            Self::Many(all) => all.as_mut_slices(),
        };
        one.iter_mut().chain(other)
    }

    /// Gives memory back if it is far more than needed.
    pub(super) fn shrink(&mut self) {
        let Self::Many(all) = self else { return };
        if all.len() <= FEW {
            *self = all.iter().copied().collect();
        } else if all.len() < all.capacity() / 4 {
            all.shrink_to_fit();
        }
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        match self {
            Self::Few { .. } => FEW,
            Self::Many(all) => all.capacity(),
        }
    }

    fn halves(&self) -> (&[Moment], &[Moment]) {
        match self {
            Self::Few { count, first } => (first.get(..usize::from(*count)).unwrap_or_default(), &[]),
            Self::Many(all) => all.as_slices(),
        }
    }
}

impl Default for Moments {
    fn default() -> Self {
        Self::Few { count: 0, first: [Moment::default(); FEW] }
    }
}

impl FromIterator<Moment> for Moments {
    fn from_iter<I: IntoIterator<Item = Moment>>(all: I) -> Self {
        let mut moments = Self::default();
        all.into_iter().for_each(|moment| moments.push_back(moment));
        moments
    }
}

impl PartialEq for Moments {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Moments {}

struct All<'m> {
    one: std::slice::Iter<'m, Moment>,
    other: std::slice::Iter<'m, Moment>,
}

impl<'m> Iterator for All<'m> {
    type Item = &'m Moment;

    fn next(&mut self) -> Option<&'m Moment> {
        self.one.next().or_else(|| self.other.next())
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let count = self.one.len() + self.other.len();
        (count, Some(count))
    }
}

impl ExactSizeIterator for All<'_> {}
