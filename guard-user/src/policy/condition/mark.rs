//! Conditions on how confidential the data is that an agent has read.

use std::fmt;
use std::sync::Arc;

use super::Verdict;
use crate::policy::label::{Labels, Level};
use crate::types::LabelName;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) struct MarkTest {
    pub labels: Arc<Labels>,
    pub asked: MarkAsked,
    /// The key and its labels, as the rule has them.
    pub shown: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::policy) enum MarkAsked {
    AtMost(Level),
    Above(Level),
    OneOf(Vec<Level>),
    NoneOf(Vec<Level>),
}

impl MarkTest {
    pub(super) fn judge(&self, read: Option<&[LabelName]>) -> Verdict {
        let Some(read) = read else {
            return Verdict::Unknown("what the agent has read is not known for this call".into());
        };
        let mark = self.labels.mark(read);
        let is_met = match &self.asked {
            MarkAsked::AtMost(level) => mark <= *level,
            MarkAsked::Above(level) => mark > *level,
            MarkAsked::OneOf(levels) => levels.contains(&mark),
            MarkAsked::NoneOf(levels) => !levels.contains(&mark),
        };
        if is_met {
            return Verdict::Met;
        }
        let mark = self.labels.name(mark).map_or("", LabelName::as_str);
        Verdict::NotMet(format!("the agent has read what is {mark}, and the rule says {self}"))
    }
}

impl fmt::Display for MarkTest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
