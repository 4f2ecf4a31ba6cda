//! Conditions against the facts that matchers provide.

use super::{Check, Facts, Flows};
use crate::config::problem::suggest;
use crate::policy::condition::{Condition, List};
use crate::policy::fact::{FactTest, Measure, Test};
use crate::policy::file::{Asked, At, Clause, Matcher};
use crate::policy::rule::IntentPattern;

/// A condition for calls of one target, which provides `facts`.
pub(super) fn bind(clause: &Clause, facts: &Facts<'_>, flows: Option<&Flows<'_>>) -> Condition {
    let (fact, asked) = match clause {
        Clause::Fact { fact, asked } => (fact, asked),
        Clause::Times(times) => return Condition::Times(times.clone()),
        Clause::Origin(origin) => return Condition::Origin(origin.clone()),
        Clause::Risk(bound, limit) => return Condition::Risk(*bound, *limit),
        Clause::Session(test) => return Condition::Session(*test),
        // Without labels, nobody can be said to have read less.
        Clause::Mark(mark) => return Condition::Mark(Flows::test(flows, mark)),
    };
    let source = facts.get(&**fact).map(|source| (*source).clone());
    let (test, is_fit) = match asked {
        Asked::Bound(bound, limit) => (Test::Bound(*bound, limit.clone()), true),
        Asked::Is(is) => (Test::Is(*is), true),
        Asked::Listed { entries, fits, .. } => {
            let list = match source.as_ref().map(|source| source.measure) {
                Some(Measure::Domains) => entries.domains.clone().ok().map(List::Domains),
                Some(Measure::Path) => entries.directories.clone().ok().map(List::Directories),
                _ => Some(List::Texts(entries.texts.clone())),
            };
            let is_fit = list.is_some();
            let list = list.unwrap_or_else(|| List::Texts(entries.texts.clone()));
            (Test::Listed { list, fits: *fits, shown: entries.shown.clone() }, is_fit)
        }
    };
    // What does not fit was told by `Check`. Were it here all the same, nobody could judge it.
    let source = source.filter(|source| is_fit && asked.fits(source.measure));
    Condition::Fact(FactTest { fact: fact.clone(), test, source })
}

impl Check<'_> {
    /// What a matcher asks of its calls must be among its own facts.
    pub(super) fn own_facts(&mut self, intent: &str, matcher: &Matcher) {
        let additions = matcher.risk.additions.iter().flat_map(|addition| &addition.when);
        for clause in matcher.when.iter().chain(additions) {
            let Clause::Fact { fact, .. } = &clause.value else { continue };
            if let Some((_, source)) = matcher.facts.iter().find(|(name, _)| name == fact) {
                if let Some(problem) = unfit(clause, source.measure, intent) {
                    self.problems.push(problem);
                }
                continue;
            }
            let hint = suggest(fact, matcher.facts.iter().map(|(name, _)| &**name)).unwrap_or_else(|| {
                format!("add it to the matcher's `facts`, such as `{fact}: {{MEASURE: ARGUMENT}}`")
            });
            self.problems
                .push(clause.place.problem(format!("this matcher has no fact {fact:?}"), Some(hint)));
        }
    }

    /// A condition on a fact that nothing provides would deny every call: surely not what was meant.
    pub(super) fn condition(&mut self, pattern: &IntentPattern, condition: &At<Clause>) {
        let Clause::Fact { fact, asked } = &condition.value else { return };
        let key = condition.value.key(fact);
        let mut intents: Vec<_> = self.facts.iter().filter(|(intent, _)| pattern.matches(intent)).collect();
        intents.sort_unstable_by_key(|(intent, _)| **intent);
        for (intent, facts) in intents {
            let Some(measures) = facts.get(&**fact) else {
                let what = format!("no matcher of {intent} provides the fact {fact:?}");
                let fitting = facts.iter().filter(|(_, measures)| measures.iter().any(|m| asked.fits(*m)));
                let known: Vec<_> = fitting.map(|(fact, _)| condition.value.key(fact)).collect();
                let measures = match asked {
                    Asked::Bound(..) => "number or count",
                    Asked::Listed { .. } => "text, domains or path",
                    Asked::Is(_) => "flag",
                };
                let of_caller = (&**fact == "user")
                    .then(|| format!("the caller's user stands in `source: {{{key}: [...]}}`"));
                let hint = of_caller.or_else(|| suggest(&key, known.iter().map(String::as_str)));
                let hint = hint.unwrap_or_else(|| {
                    format!(
                        "add `facts: {{{fact}: {{MEASURE: ARGUMENT}}}}` to its matcher; MEASURE is {measures}"
                    )
                });
                self.problems.push(condition.place.problem(what, Some(hint)));
                continue;
            };
            for measure in measures {
                if let Some(problem) = unfit(condition, *measure, intent) {
                    self.problems.push(problem);
                    // The same would be told of each further intent.
                    return;
                }
            }
        }
    }
}

/// Why the condition cannot be asked of a fact with this measure.
fn unfit(condition: &At<Clause>, measure: Measure, intent: &str) -> Option<crate::config::Problem> {
    let Clause::Fact { fact, asked } = &condition.value else { return None };
    let key = condition.value.key(fact);
    if !asked.fits(measure) {
        let what = format!("{key} needs {}; {fact} is a {} in {intent}", asked.wants(), measure.as_str());
        let hint = match asked {
            Asked::Bound(..) => {
                format!("write `{fact}_in: [...]`, or give the matcher a fact that is a number")
            }
            Asked::Listed { .. } => match measure {
                Measure::Flag => format!("write `{fact}_is: true` or `{fact}_is: false`"),
                _ => format!("write `max_{fact}: ...`, or give the matcher a fact that is a text"),
            },
            Asked::Is(_) => "give the matcher a fact that is a flag".into(),
        };
        return Some(condition.place.problem(what, Some(hint)));
    }
    let Asked::Listed { entries, places, .. } = asked else { return None };
    let (bad, hint) = match measure {
        Measure::Domains => (
            entries.domains.as_ref().err(),
            "write a domain such as example.com, or *.example.com for all below it",
        ),
        Measure::Path => (
            entries.directories.as_ref().err(),
            "write an absolute path such as /srv/data, for itself and all below it",
        ),
        _ => return None,
    };
    let (index, why) = bad?;
    let place = places.get(*index).unwrap_or(&condition.place);
    Some(place.problem(format!("this entry of {key} {why}"), Some(hint.into())))
}
