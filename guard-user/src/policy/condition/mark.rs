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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_at_its_bound_is_within_it_and_a_list_names_what_it_names() {
        let labels = Arc::new(Labels::default());
        let name = |name: &str| LabelName::parse(name).unwrap();
        let level = |label: &str| labels.level(&name(label)).unwrap();
        let judged = |asked: MarkAsked| {
            let test = MarkTest { labels: Arc::clone(&labels), asked, shown: "x".into() };
            let met = |read: &str| if test.judge(Some(&[name(read)])) == Verdict::Met { 'y' } else { 'n' };
            assert!(matches!(test.judge(None), Verdict::Unknown(_)));
            ["public", "internal", "confidential", "restricted"].map(met).into_iter().collect::<String>()
        };
        assert_eq!(judged(MarkAsked::AtMost(level("internal"))), "yynn");
        assert_eq!(judged(MarkAsked::Above(level("internal"))), "nnyy");
        assert_eq!(judged(MarkAsked::OneOf([level("internal"), level("restricted")].into())), "nyny");
        assert_eq!(judged(MarkAsked::NoneOf([level("internal")].into())), "ynyy");
    }
}
