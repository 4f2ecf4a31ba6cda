//! Facts: what a condition may know about a call's arguments.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Number;

use super::condition::{List, Verdict};
use crate::rpc::Json;

/// How a fact is found in a call's arguments.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Source {
    pub measure: Measure,
    /// Names of members, outermost first.
    pub path: Arc<[Box<str>]>,
}

/// What the argument is read as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Measure {
    /// How many: the entries of a list, or of a text that names several (`a@x, b@x` is two).
    Count,
    /// A JSON number as it is. A number written as text is refused: its reader decides what it is.
    Number,
    /// A text, or a list of texts.
    Text,
    /// The domains of e-mail addresses and URLs, in a text or a list of texts.
    Domains,
    /// The absolute path of a file, or a list of them.
    Path,
}

/// A condition on a fact.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct FactTest {
    /// Such as `recipients`.
    pub fact: Arc<str>,
    pub test: Test,
    /// `None`: the call's target does not provide the fact.
    pub source: Option<Source>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Test {
    Bound(Bound, Number),
    Listed {
        list: List,
        /// Whether what is listed fits, or what is not.
        fits: bool,
        /// The list as written.
        shown: Arc<str>,
    },
}

/// How a number is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Bound {
    /// `max_`: at most.
    Max,
    /// `min_`: at least.
    Min,
    /// `above_`: more than.
    Above,
    /// `below_`: less than.
    Below,
}

/// How many of a fact's entries must fit for the condition to be met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Judging {
    /// For a rule that allows.
    Each,
    /// One is enough for a rule that restricts.
    Any,
}

/// Texts of one fact that are compared with a list, all together; more cannot be judged.
const LISTED_BYTES_MAX: usize = 64 * 1024;

impl Measure {
    pub(super) const ALL: [Self; 5] = [Self::Count, Self::Number, Self::Text, Self::Domains, Self::Path];

    /// The key in a policy file.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Number => "number",
            Self::Text => "text",
            Self::Domains => "domains",
            Self::Path => "path",
        }
    }

    pub(super) fn is_number(self) -> bool {
        matches!(self, Self::Count | Self::Number)
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Count => "a list or a text",
            Self::Number => "a number",
            Self::Text | Self::Domains | Self::Path => "a text, or a list of texts that is not empty",
        }
    }
}

impl FactTest {
    pub(super) fn judge(&self, arguments: Option<&Json>, judging: Judging) -> Verdict {
        let fact = &self.fact;
        let Some(source) = &self.source else { return self.not_known() };
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
        let judged = match &self.test {
            Test::Bound(bound, _) if source.measure == Measure::Count && !is_counted_alike(value, *bound) => {
                return Verdict::Unknown(format!(
                    "how many {fact} there are cannot be told: servers may count fewer or more (argument {})",
                    source.path.join(".")
                ));
            }
            Test::Bound(bound, limit) => self.compare(number(source.measure, value), *bound, limit),
            Test::Listed { list, fits, shown } => texts(value).map(|texts| {
                if texts.iter().map(|text| text.len()).sum::<usize>() > LISTED_BYTES_MAX {
                    return Verdict::Unknown(format!("{fact} is longer than {LISTED_BYTES_MAX} bytes"));
                }
                self.search(&texts, (list, *fits), shown, judging)
            }),
        };
        judged.unwrap_or_else(|| {
            let path = source.path.join(".");
            Verdict::Unknown(format!("{fact} must be {} (argument {path})", source.measure.wanted()))
        })
    }

    /// Whatever the arguments are.
    pub(super) fn never(&self) -> Option<Verdict> {
        self.source.is_none().then(|| self.not_known())
    }

    fn not_known(&self) -> Verdict {
        Verdict::Unknown(format!("{} is not known for this call", self.fact))
    }

    fn compare(&self, measured: Option<Number>, bound: Bound, limit: &Number) -> Option<Verdict> {
        let (fact, measured) = (&self.fact, measured?);
        if !is_exact_everywhere(&measured) {
            return Some(Verdict::Unknown(format!(
                "{fact} is {measured}; beyond ±(2^53−1) servers differ on what a number is"
            )));
        }
        let Some(order) = compare(&measured, limit) else {
            return Some(Verdict::Unknown(format!("{fact} is {measured}, which cannot be compared")));
        };
        let (is_met, asked) = match bound {
            Bound::Max => (order.is_le(), "at most"),
            Bound::Min => (order.is_ge(), "at least"),
            Bound::Above => (order.is_gt(), "more than"),
            Bound::Below => (order.is_lt(), "less than"),
        };
        Some(match (is_met, bound) {
            (true, _) => Verdict::Met,
            (false, Bound::Max) => {
                Verdict::NotMet(format!("{fact} is {measured}, at most {limit} are allowed"))
            }
            (false, _) => Verdict::NotMet(format!("{fact} is {measured}, and not {asked} {limit}")),
        })
    }

    /// One entry that nobody can judge hides what it is, so it decides for all.
    fn search(&self, texts: &[&str], (list, fits): (&List, bool), shown: &str, judging: Judging) -> Verdict {
        let fact = &self.fact;
        let (mut one_fits, mut all_fit) = (false, true);
        for text in texts {
            let told = list.look(text, |is_listed| {
                one_fits |= is_listed == fits;
                all_fit &= is_listed == fits;
            });
            if let Err(why) = told {
                return Verdict::Unknown(format!("what {fact} names cannot be told: an entry {why}"));
            }
        }
        let is_met = match judging {
            Judging::Each => all_fit,
            Judging::Any => one_fits,
        };
        if is_met {
            Verdict::Met
        } else if fits {
            Verdict::NotMet(format!("{fact} names something else than {shown}"))
        } else {
            Verdict::NotMet(format!("{fact} names one of {shown}"))
        }
    }
}

fn number(measure: Measure, value: &Json) -> Option<Number> {
    match (measure, value) {
        (Measure::Count, _) => count(value).map(Number::from),
        (Measure::Number, Json::Number(number)) => Some(number.clone()),
        _ => None,
    }
}

/// An empty list names nothing, which servers may take for everything.
fn texts(value: &Json) -> Option<Vec<&str>> {
    match value {
        Json::String(text) => Some(vec![text]),
        Json::Array(items) if !items.is_empty() => items.iter().map(Json::as_str).collect(),
        _ => None,
    }
}

/// Whether no server counts other than [`count`] does, in the direction that matters. What is counted as too many errs on the
/// refusing side for an upper bound alone; an empty list names nothing, or everything.
fn is_counted_alike(value: &Json, bound: Bound) -> bool {
    let is_one = |text: &str| !text.trim().is_empty() && !text.contains([',', ';', '\n', '\r']);
    let is_empty = matches!(value, Json::Array(items) if items.is_empty());
    match (bound, value) {
        (Bound::Above, _) => !is_empty,
        (Bound::Min | Bound::Below, Json::String(text)) => is_one(text),
        (Bound::Min | Bound::Below, Json::Array(items)) => {
            !is_empty && items.iter().all(|item| item.as_str().is_some_and(is_one))
        }
        // What is of the wrong type is told as such.
        (Bound::Max | Bound::Min | Bound::Below, _) => true,
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

/// Exact for whole numbers, as `f64` otherwise.
fn compare(value: &Number, limit: &Number) -> Option<Ordering> {
    match (whole(value), whole(limit)) {
        (Some(value), Some(limit)) => Some(value.cmp(&limit)),
        _ => value.as_f64()?.partial_cmp(&limit.as_f64()?),
    }
}

fn whole(number: &Number) -> Option<i128> {
    number.as_i64().map(i128::from).or_else(|| number.as_u64().map(i128::from))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::condition::Entries;

    fn condition(measure: Measure, max: impl Into<Number>) -> FactTest {
        bound(measure, Bound::Max, max)
    }

    fn bound(measure: Measure, bound: Bound, limit: impl Into<Number>) -> FactTest {
        let path = ["mail", "to"].map(Box::from).into();
        let test = Test::Bound(bound, limit.into());
        FactTest { fact: "recipients".into(), test, source: Some(Source { measure, path }) }
    }

    fn judge(test: &FactTest, arguments: &Json) -> Verdict {
        let each = test.judge(Some(arguments), Judging::Each);
        // A number is one thing.
        assert_eq!(each, test.judge(Some(arguments), Judging::Any));
        each
    }

    fn listed(measure: Measure, entries: &[&str], fits: bool) -> FactTest {
        let entries = Entries::new(entries);
        let list = match measure {
            Measure::Domains => List::Domains(entries.domains.unwrap()),
            Measure::Path => List::Directories(entries.directories.unwrap()),
            _ => List::Texts(entries.texts),
        };
        let test = Test::Listed { list, fits, shown: entries.shown };
        FactTest { test, ..condition(measure, 0) }
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
            assert_eq!(judge(&two, &mail(to.clone())) == Verdict::Met, met, "{to:?}");
        }
    }

    #[test]
    fn a_missing_or_ill_typed_fact_is_unknown_and_never_met() {
        let unknown = |test: &FactTest, arguments: Option<&Json>| {
            for judging in [Judging::Each, Judging::Any] {
                assert!(matches!(test.judge(arguments, judging), Verdict::Unknown(_)), "{arguments:?}");
            }
        };
        let of_kinds = [
            condition(Measure::Count, 2),
            bound(Measure::Number, Bound::Above, 2),
            listed(Measure::Text, &["a"], true),
            listed(Measure::Text, &["a"], false),
            listed(Measure::Domains, &["a.example"], true),
            listed(Measure::Path, &["/a"], false),
        ];
        for test in &of_kinds {
            unknown(test, None);
            unknown(test, Some(&Json::Null));
            unknown(test, Some(&Json::Object(vec![])));
            unknown(test, Some(&mail(Json::Null)));
            unknown(test, Some(&mail(Json::Object(vec![]))));
            unknown(test, Some(&mail(Json::Array(vec![texts(&["a", "b", "c"])]))));
            unknown(&FactTest { source: None, ..test.clone() }, Some(&mail(Json::String("a".into()))));
        }
        for test in &of_kinds[2..] {
            unknown(test, Some(&mail(texts(&[]))));
            unknown(test, Some(&mail(Json::Number(1.into()))));
            unknown(test, Some(&mail(Json::Array(vec![Json::String("/a".into()), Json::Number(1.into())]))));
        }
        let recipients = condition(Measure::Count, 2);
        unknown(&recipients, Some(&mail(Json::Number(1.into()))));
        let amount = condition(Measure::Number, 2);
        unknown(&amount, Some(&mail(Json::String("1".into()))));
        unknown(&amount, Some(&mail(texts(&["a"]))));
        unknown(&FactTest { source: None, ..amount }, Some(&mail(Json::Number(1.into()))));
    }

    #[test]
    fn whole_numbers_are_compared_exactly_and_others_as_floats() {
        let amount = |max: Number, value: Number| {
            judge(&condition(Measure::Number, max), &mail(Json::Number(value))) == Verdict::Met
        };
        let float = |value| Number::from_f64(value).unwrap();
        assert!(amount(100.into(), 100.into()) && !amount(100.into(), 101.into()));
        assert!(amount(100.into(), float(99.99)) && !amount(100.into(), float(100.01)));
        assert!(amount(0.into(), (-5).into()));
        let most = 9_007_199_254_740_991_u64;
        assert!(amount(most.into(), most.into()));
        // As a float the first is one less, the second one more.
        for value in [most + 2, most + 4, u64::MAX] {
            let huge = judge(&condition(Measure::Number, u64::MAX), &mail(Json::Number(value.into())));
            assert!(matches!(huge, Verdict::Unknown(_)), "{huge:?}");
        }
        assert!(!amount(float(1e300), float(1e30)));
        assert!(!amount(i64::MAX.into(), u64::MAX.into()));
    }

    #[test]
    fn each_bound_says_whether_its_own_number_fits() {
        for (which, below, same, more) in [
            (Bound::Max, true, true, false),
            (Bound::Min, false, true, true),
            (Bound::Above, false, false, true),
            (Bound::Below, true, false, false),
        ] {
            for (value, met) in [(9.5, below), (10.0, same), (10.5, more)] {
                let number = Json::Number(Number::from_f64(value).unwrap());
                let told = judge(&bound(Measure::Number, which, 10), &mail(number)) == Verdict::Met;
                assert_eq!(told, met, "{which:?} {value}");
            }
        }
    }

    #[test]
    fn padding_meets_no_lower_bound_and_an_empty_list_is_few_for_an_upper_one_alone() {
        let told = |which, to: &Json| judge(&bound(Measure::Count, which, 2), &mail(to.clone()));
        let two = texts(&["a@x", "b@x"]);
        assert_eq!(told(Bound::Min, &two), Verdict::Met);
        assert_eq!(told(Bound::Below, &texts(&["a@x"])), Verdict::Met);
        for padded in [
            texts(&["a@x,a@x"]),
            texts(&["a@x", ""]),
            texts(&["a@x", " "]),
            texts(&["a@x;", "b@x"]),
            texts(&[]),
            Json::String("a@x\nb@x".into()),
            Json::String(String::new()),
            Json::Array(vec![Json::String("a@x".into()), Json::Null]),
            Json::Array(vec![Json::String("a@x".into()), Json::Object(vec![])]),
        ] {
            for which in [Bound::Min, Bound::Below] {
                assert!(matches!(told(which, &padded), Verdict::Unknown(_)), "{which:?} {padded:?}");
            }
        }
        assert!(matches!(told(Bound::Above, &texts(&[])), Verdict::Unknown(_)));
        assert_eq!(
            told(Bound::Above, &texts(&["a@x,b@x;c@x"])),
            Verdict::Met,
            "an upper bound of a deny rule"
        );
    }

    #[test]
    fn more_text_than_can_be_compared_in_no_time_cannot_be_judged() {
        let long = "a".repeat(LISTED_BYTES_MAX / 2);
        let of = |texts: &Json| {
            listed(Measure::Text, &["b"], false).judge(Some(&mail(texts.clone())), Judging::Each)
        };
        assert_eq!(of(&texts(&[&long, &long])), Verdict::Met);
        assert!(matches!(of(&texts(&[&long, &long, "a"])), Verdict::Unknown(_)));
    }

    #[test]
    fn an_allow_rule_wants_each_entry_to_fit_and_a_restricting_rule_one() {
        let asked = |fits: bool, judging, names: &[&str]| {
            listed(Measure::Text, &["a", "b"], fits).judge(Some(&mail(texts(names))), judging) == Verdict::Met
        };
        for (names, [each_in, any_in, each_out, any_out]) in [
            (&["a"][..], [true, true, false, false]),
            (&["a", "b"], [true, true, false, false]),
            (&["a", "c"], [false, true, false, true]),
            (&["c", "d"], [false, false, true, true]),
        ] {
            assert_eq!(asked(true, Judging::Each, names), each_in, "{names:?}");
            assert_eq!(asked(true, Judging::Any, names), any_in, "{names:?}");
            assert_eq!(asked(false, Judging::Each, names), each_out, "{names:?}");
            assert_eq!(asked(false, Judging::Any, names), any_out, "{names:?}");
        }
        // What cannot be judged is not outweighed by its neighbours.
        for (fits, judging) in [(true, Judging::Any), (false, Judging::Any), (false, Judging::Each)] {
            for names in [&["a", "c", "A"][..], &["A", "c", "a"]] {
                let verdict = listed(Measure::Text, &["a"], fits).judge(Some(&mail(texts(names))), judging);
                assert!(matches!(verdict, Verdict::Unknown(_)), "{fits} {judging:?} {names:?}");
            }
        }
    }

    #[test]
    fn one_address_or_path_that_is_not_allowed_is_enough() {
        let domains = listed(Measure::Domains, &["good.com"], true);
        let paths = listed(Measure::Path, &["/srv/data"], true);
        for (test, names, met) in [
            (&domains, &["a@good.com", "b@good.com"][..], true),
            (&domains, &["a@good.com, b@good.com"], true),
            (&domains, &["a@good.com", "b@evil.com"], false),
            (&domains, &["a@good.com, b@evil.com"], false),
            (&domains, &["a@good.com", "b"], false),
            (&paths, &["/srv/data/a", "/srv/data/b"], true),
            (&paths, &["/srv/data/a", "/etc/passwd"], false),
            (&paths, &["/srv/data/a", "/srv/data/../b"], false),
        ] {
            let verdict = test.judge(Some(&mail(texts(names))), Judging::Each);
            assert_eq!(verdict == Verdict::Met, met, "{names:?}: {verdict:?}");
        }
    }
}
