//! Labels: how confidential data is. They have one order, from what anybody may have to what hardly anybody may.

use crate::types::LabelName;

/// The labels of a policy that names none, the lowest first.
pub const LABELS: [&str; 4] = ["public", "internal", "confidential", "restricted"];
/// The most labels of a policy.
pub const LABELS_MAX: usize = 32;

/// A label's place in the order of its policy; 0 is the lowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Level(usize);

/// Where a call's arguments go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Sink {
    /// They stay in the house.
    Internal,
    /// They may leave it.
    External,
}

impl Sink {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Internal => "internal",
            Self::External => "external",
        }
    }
}

/// All labels of one policy, the lowest first. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Labels(Vec<LabelName>);

impl Labels {
    /// `None`: there are none, or more than [`LABELS_MAX`].
    pub(super) fn new(names: Vec<LabelName>) -> Option<Self> {
        (1..=LABELS_MAX).contains(&names.len()).then_some(Self(names))
    }

    pub(super) fn level(&self, name: &LabelName) -> Option<Level> {
        self.0.iter().position(|known| known == name).map(Level)
    }

    pub(super) fn top(&self) -> Level {
        Level(self.0.len().saturating_sub(1))
    }

    /// As the policy calls it.
    pub(super) fn name(&self, level: Level) -> Option<&LabelName> {
        self.0.get(level.0)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(LabelName::as_str)
    }

    /// How far up somebody stands who has read all this. Of what another version of the policy called by a name that this one
    /// does not know, nobody can say how confidential it is: it counts as the highest.
    pub(super) fn mark(&self, read: &[LabelName]) -> Level {
        let levels = read.iter().map(|name| self.level(name).unwrap_or(self.top()));
        levels.max().unwrap_or(Level(0))
    }
}

impl Default for Labels {
    fn default() -> Self {
        Self(LABELS.iter().filter_map(|name| LabelName::parse(name).ok()).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Vec<LabelName> {
        names.iter().map(|name| LabelName::parse(name).unwrap()).collect()
    }

    #[test]
    fn a_mark_is_the_highest_of_what_was_read_and_an_unknown_label_counts_as_the_highest() {
        let labels = Labels::default();
        let mark = |read: &[&str]| labels.name(labels.mark(&names(read))).unwrap().as_str().to_owned();
        assert_eq!(mark(&[]), "public");
        assert_eq!(mark(&["internal"]), "internal");
        assert_eq!(mark(&["confidential", "public", "internal"]), "confidential");
        assert_eq!(mark(&["internal", "partner"]), "restricted");
        let own = Labels::new(names(&["public", "partner", "restricted"])).unwrap();
        assert_eq!(own.name(own.mark(&names(&["partner"]))).unwrap().as_str(), "partner");
        assert!(Labels::new(Vec::new()).is_none() && Labels::new(names(&["a"; 33])).is_none());
    }
}
