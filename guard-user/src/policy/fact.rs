//! Facts: what a condition may know about a call's arguments.

use std::fmt;
use std::sync::Arc;

use serde_json::Number;

use crate::rpc::Json;

/// How a fact is found in a call's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source {
    pub measure: Measure,
    /// Names of members, outermost first.
    pub path: Arc<[Box<str>]>,
}

/// How the argument becomes a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Measure {
    /// How many: the entries of a list, or of a text that names several (`a@x, b@x` is two).
    Count,
    /// A JSON number as it is. A number written as text is refused: its reader decides what it is.
    Number,
}

/// `max_<fact>: N`.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    /// Such as `recipients`.
    pub fact: Arc<str>,
    pub max: Number,
    /// `None`: the call's target does not provide the fact.
    pub source: Option<Source>,
}

/// What a condition says about a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Met,
    NotMet(String),
    /// The fact is missing or of the wrong type: nobody can say, so the call is refused.
    Unknown(String),
}

impl Condition {
    pub(super) fn judge(&self, arguments: Option<&Json>) -> Verdict {
        let fact = &self.fact;
        let Some(source) = &self.source else {
            return Verdict::Unknown(format!("{fact} is not known for this call"));
        };
        let mut value = arguments;
        for name in &*source.path {
            if value.is_some_and(|value| value.has_lookalike(name)) {
                let path = source.path.join(".");
                return Verdict::Unknown(format!(
                    "{fact} is there twice, in two spellings (argument {path})"
                ));
            }
            value = value.and_then(|value| value.get(name));
        }
        let Some(value) = value else {
            return Verdict::Unknown(format!("{fact} is missing (argument {})", source.path.join(".")));
        };
        let measured = match source.measure {
            Measure::Count => count(value).map(Number::from),
            Measure::Number => match value {
                Json::Number(number) => Some(number.clone()),
                _ => None,
            },
        };
        let Some(measured) = measured else {
            let wanted = match source.measure {
                Measure::Count => "a list or a text",
                Measure::Number => "a number",
            };
            return Verdict::Unknown(format!("{fact} must be {wanted} (argument {})", source.path.join(".")));
        };
        if !is_exact_everywhere(&measured) {
            return Verdict::Unknown(format!(
                "{fact} is {measured}; beyond ±(2^53−1) servers differ on what a number is"
            ));
        }
        if at_most(&measured, &self.max) {
            Verdict::Met
        } else {
            Verdict::NotMet(format!("{fact} is {measured}, at most {} are allowed", self.max))
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "max_{}: {}", self.fact, self.max)
    }
}

/// How many things `value` names. Separators inside a text count as such, so that a list cannot hide in one
/// entry; a name with a comma counts as two, which errs on the refusing side.
fn count(value: &Json) -> Option<u64> {
    let in_text = |text: &str| {
        let named = text.split([',', ';', '\n', '\r']).filter(|part| !part.trim().is_empty()).count();
        u64::try_from(named.max(1)).ok()
    };
    match value {
        Json::String(text) => in_text(text),
        Json::Array(items) => items.iter().try_fold(0_u64, |sum, item| {
            let named = match item {
                Json::String(text) => in_text(text)?,
                Json::Array(_) => return None,
                _ => 1,
            };
            sum.checked_add(named)
        }),
        _ => None,
    }
}

/// Whether a server that keeps numbers as 64-bit floats has the same one as a server that keeps integers.
fn is_exact_everywhere(number: &Number) -> bool {
    const WHOLE_MAX: f64 = 9_007_199_254_740_991.0;
    number.as_f64().is_some_and(|value| value.abs() <= WHOLE_MAX)
}

/// Exact for whole numbers, as `f64` otherwise; what cannot be compared is not at most.
fn at_most(value: &Number, max: &Number) -> bool {
    match (whole(value), whole(max)) {
        (Some(value), Some(max)) => value <= max,
        _ => match (value.as_f64(), max.as_f64()) {
            (Some(value), Some(max)) => value <= max,
            _ => false,
        },
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn condition(measure: Measure, max: impl Into<Number>) -> Condition {
        let path = ["mail", "to"].map(Box::from).into();
        Condition { fact: "recipients".into(), max: max.into(), source: Some(Source { measure, path }) }
    }

    fn mail(to: Json) -> Json {
        Json::Object(vec![("mail".into(), Json::Object(vec![("to".into(), to)]))])
    }

    fn texts(texts: &[&str]) -> Json {
        Json::Array(texts.iter().map(|text| Json::String((*text).into())).collect())
    }

    #[test]
    fn a_list_cannot_hide_in_a_text() {
        let two = condition(Measure::Count, 2);
        for (to, met) in [
            (texts(&[]), true),
            (texts(&["a@x", "b@x"]), true),
            (texts(&["a@x", "b@x", "c@x"]), false),
            (texts(&["a@x, b@x; c@x"]), false),
            (Json::String("a@x,b@x".into()), true),
            (Json::String("a@x\nb@x\nc@x".into()), false),
            (Json::Array(vec![Json::Null, Json::Bool(true), Json::Object(vec![])]), false),
        ] {
            assert_eq!(two.judge(Some(&mail(to.clone()))) == Verdict::Met, met, "{to:?}");
        }
    }

    #[test]
    fn a_missing_or_ill_typed_fact_is_unknown_and_never_met() {
        let unknown = |condition: &Condition, arguments: Option<&Json>| {
            assert!(matches!(condition.judge(arguments), Verdict::Unknown(_)), "{arguments:?}");
        };
        let recipients = condition(Measure::Count, 2);
        unknown(&recipients, None);
        unknown(&recipients, Some(&Json::Null));
        unknown(&recipients, Some(&Json::Object(vec![])));
        unknown(&recipients, Some(&mail(Json::Null)));
        unknown(&recipients, Some(&mail(Json::Number(1.into()))));
        unknown(&recipients, Some(&mail(Json::Array(vec![texts(&["a", "b", "c"])]))));
        let amount = condition(Measure::Number, 2);
        unknown(&amount, Some(&mail(Json::String("1".into()))));
        unknown(&amount, Some(&mail(texts(&["a"]))));
        unknown(&Condition { source: None, ..amount }, Some(&mail(Json::Number(1.into()))));
    }

    #[test]
    fn whole_numbers_are_compared_exactly_and_others_as_floats() {
        let amount = |max: Number, value: Number| {
            condition(Measure::Number, max).judge(Some(&mail(Json::Number(value)))) == Verdict::Met
        };
        let float = |value| Number::from_f64(value).unwrap();
        assert!(amount(100.into(), 100.into()) && !amount(100.into(), 101.into()));
        assert!(amount(100.into(), float(99.99)) && !amount(100.into(), float(100.01)));
        assert!(amount(0.into(), (-5).into()));
        let most = 9_007_199_254_740_991_u64;
        assert!(amount(most.into(), most.into()));
        // As a float the first is one less, the second one more.
        for value in [most + 2, most + 4, u64::MAX] {
            let huge = condition(Measure::Number, u64::MAX).judge(Some(&mail(Json::Number(value.into()))));
            assert!(matches!(huge, Verdict::Unknown(_)), "{huge:?}");
        }
        assert!(!amount(float(1e300), float(1e30)));
        assert!(!amount(i64::MAX.into(), u64::MAX.into()));
    }
}
