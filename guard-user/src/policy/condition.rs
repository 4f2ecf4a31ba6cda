//! Conditions of rules: what they ask of a call, and what they say about one.

mod domain;
mod mark;
mod origin;
mod path;
mod session;
mod text;
mod time;

use std::fmt;
use std::sync::Arc;

use super::Circumstances;
use super::fact::{Bound, FactTest, Judging, Test};
use crate::rpc::Json;

pub(super) use domain::Domains;
pub(super) use mark::{MarkAsked, MarkTest};
pub(super) use origin::{Origin, Users};
pub(super) use path::Directories;
pub(super) use session::SessionTest;
pub(super) use text::Texts;
pub(super) use time::{Clock, Days, Hours, Times, Zone};

/// A condition of a rule, bound to the arguments of one target.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Condition {
    Fact(FactTest),
    Times(Arc<Times>),
    Origin(Arc<Origin>),
    /// On the call's score.
    Risk(Bound, u8),
    Mark(MarkTest),
    Session(SessionTest),
}

/// What a condition says about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    NotMet(String),
    /// The fact is missing or of the wrong type: nobody can say, so the call is refused.
    Unknown(String),
}

/// The entries of a condition's list, whatever the fact is: which of them is needed is known for each target.
#[derive(Debug, Clone)]
pub(super) struct Entries {
    pub texts: Arc<Texts>,
    /// Or the entry that is none, by its index, and why.
    pub domains: Result<Arc<Domains>, (usize, &'static str)>,
    pub directories: Result<Arc<Directories>, (usize, &'static str)>,
    /// As written, for messages.
    pub shown: Arc<str>,
}

/// A list, as a fact of one kind is compared with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum List {
    Texts(Arc<Texts>),
    Domains(Arc<Domains>),
    Directories(Arc<Directories>),
}

impl Condition {
    pub(super) fn judge(
        &self,
        arguments: Option<&Json>,
        around: &Circumstances<'_>,
        judging: Judging,
    ) -> Verdict {
        match self {
            Self::Fact(test) => test.judge(arguments, judging),
            Self::Times(times) => times.judge(around.moment),
            Self::Origin(origin) => origin.judge(around, judging),
            Self::Risk(bound, limit) => judge_risk(around.risk, *bound, *limit),
            Self::Mark(mark) => mark.judge(around.read),
            Self::Session(test) => test.judge(around.session, judging),
        }
    }

    /// What it says of every call of its target, if that does not depend on the call.
    pub(super) fn never(&self) -> Option<Verdict> {
        match self {
            Self::Fact(test) => test.never(),
            Self::Times(_) | Self::Origin(_) | Self::Risk(..) | Self::Mark(_) | Self::Session(_) => None,
        }
    }
}

fn judge_risk(score: Option<u8>, bound: Bound, limit: u8) -> Verdict {
    let Some(score) = score else { return Verdict::Unknown("the risk of this call is not known".into()) };
    if bound.holds(score.cmp(&limit)) {
        Verdict::Met
    } else {
        Verdict::NotMet(format!("risk is {score}, and not {} {limit}", bound.asks()))
    }
}

/// As a rule has it.
impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fact(FactTest { fact, test, .. }) => match test {
                Test::Bound(bound, limit) => write!(f, "{}{fact}: {limit}", bound.prefix()),
                Test::Is(is) => write!(f, "{fact}_is: {is}"),
                Test::Listed { fits: true, shown, .. } => write!(f, "{fact}_in: [{shown}]"),
                Test::Listed { fits: false, shown, .. } => write!(f, "{fact}_not_in: [{shown}]"),
            },
            Self::Times(times) => write!(f, "time: {times}"),
            Self::Origin(origin) => write!(f, "source: {origin}"),
            Self::Risk(bound, limit) => write!(f, "{}risk: {limit}", bound.prefix()),
            Self::Mark(mark) => write!(f, "{mark}"),
            Self::Session(test) => write!(f, "{test}"),
        }
    }
}

impl Entries {
    pub(super) fn new(entries: &[&str]) -> Self {
        /// A longer list helps no reader of a refusal.
        const SHOWN_MAX: usize = 8;
        let each = || entries.iter().copied();
        let mut shown = each().take(SHOWN_MAX).collect::<Vec<_>>().join(", ");
        if entries.len() > SHOWN_MAX {
            shown += ", ...";
        }
        Self {
            texts: Arc::new(Texts::new(each())),
            domains: Domains::new(each()).map(Arc::new),
            directories: Directories::new(each()).map(Arc::new),
            shown: shown.into(),
        }
    }
}

impl List {
    /// Tells of each thing that `text` names whether it is listed; or why nobody can say.
    pub(super) fn look(&self, text: &str, mut tell: impl FnMut(bool)) -> Result<(), &'static str> {
        match self {
            Self::Texts(texts) => texts.has(text).map(tell),
            Self::Domains(domains) => domains.look(text, &mut tell),
            Self::Directories(directories) => directories.has(text).map(tell),
        }
    }
}
