//! What a call means: the intents of its target, less those whose `when` it does not meet.

use std::sync::Arc;

use super::condition::{Condition, Verdict};
use super::decide::Conditions;
use super::fact::Judging;
use super::rule::Meter;
use crate::risk::Class;
use crate::types::IntentName;

/// An intent of a target.
#[derive(Debug, Clone)]
pub(super) struct Meant {
    pub intent: IntentName,
    /// What a call must meet to mean this; empty: every call does.
    pub when: Vec<Condition>,
    pub weights: Weights,
}

/// What a call with an intent weighs, as matchers say.
#[derive(Debug, Clone, Default)]
pub(super) struct Weights {
    /// `None`: nobody has said.
    pub class: Option<Class>,
    /// In place of the class's points.
    pub base: Option<u8>,
    /// Points for what its arguments are.
    pub additions: Vec<Addition>,
}

/// Points for a call that meets all of this, or of which nobody can say.
#[derive(Debug, Clone)]
pub(super) struct Addition {
    pub conditions: Vec<Condition>,
    pub points: u8,
}

/// Whether a call means an intent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    Yes,
    /// Some call does: what is asked is not about one call.
    Perhaps,
    No(String),
    /// Nobody can tell, so the call is refused.
    Unclear(String),
}

/// How a velocity rule counts a target of which not every call means every intent.
#[derive(Debug, Clone)]
pub(super) struct Counting {
    /// For each intent of the target, whether it makes the rule count.
    pub by: Box<[bool]>,
    /// For each, what a call with it costs.
    pub weights: Box<[Option<u32>]>,
}

impl Meant {
    pub(super) fn by(&self, how: Conditions<'_>) -> Means {
        if self.when.is_empty() {
            return Means::Yes;
        }
        let Conditions::Judged(arguments, around) = how else { return Means::Perhaps };
        let mut means = Means::Yes;
        for condition in &self.when {
            let each = condition.judge(arguments, &around, Judging::Each);
            let any = condition.judge(arguments, &around, Judging::Any);
            match (each, any) {
                (Verdict::NotMet(why), Verdict::NotMet(_)) if means == Means::Yes => means = Means::No(why),
                (Verdict::Met, Verdict::Met) | (Verdict::NotMet(_), Verdict::NotMet(_)) => {}
                (Verdict::Unknown(why), _) | (_, Verdict::Unknown(why)) => return Means::Unclear(why),
                // Of several things that it names, some fit and some do not.
                (Verdict::NotMet(why), _) | (_, Verdict::NotMet(why)) => {
                    return Means::Unclear(format!("{why}, and not by all that it names"));
                }
            }
        }
        means
    }
}

/// What a call of a target with these intents means; `None`: all of them, whatever the call is.
pub(super) fn read(meant: &[Meant], how: Conditions<'_>) -> Option<Vec<Means>> {
    let is_plain = meant.iter().all(|one| one.when.is_empty());
    (!is_plain).then(|| meant.iter().map(|one| one.by(how)).collect())
}

/// The meters of what a call means, each with what it costs then.
pub(super) fn counted(meters: &[Meter], counting: &[Counting], means: &[Means]) -> Arc<[Meter]> {
    let is_meant = |index: usize| means.get(index).is_some_and(|means| *means == Means::Yes);
    let meters = meters.iter().zip(counting).filter_map(|(meter, counting)| {
        counting.by.iter().enumerate().find(|(index, counts)| **counts && is_meant(*index))?;
        let weights = counting.weights.iter().enumerate().filter(|(index, _)| is_meant(*index));
        let weight = weights.filter_map(|(_, weight)| *weight).max().unwrap_or(1);
        Some(Meter { weight, ..meter.clone() })
    });
    meters.collect()
}
