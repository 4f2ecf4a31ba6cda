//! Facts: what a condition may know about a call's arguments.

use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::Number;

use super::condition::{List, Verdict};
use crate::rpc::Json;

/// How a fact is found in a call's arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Source {
    pub measure: Measure,
    /// Names of members, outermost first.
    pub path: Arc<[Box<str>]>,
    /// What the server takes where the argument is not there; `None`: nobody has said.
    pub absent: Option<Arc<Json>>,
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
    /// `true` or `false`.
    Flag,
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
    /// Whether a flag is just this.
    Is(bool),
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
    pub(super) const ALL: [Self; 6] =
        [Self::Count, Self::Number, Self::Text, Self::Domains, Self::Path, Self::Flag];

    /// The key in a policy file.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Number => "number",
            Self::Text => "text",
            Self::Domains => "domains",
            Self::Path => "path",
            Self::Flag => "flag",
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
            Self::Flag => "true or false",
        }
    }
}

impl Source {
    /// The argument, or what stands for it; else why there is none.
    fn find<'a>(&'a self, arguments: Option<&'a Json>) -> Result<&'a Json, &'static str> {
        let mut value = arguments;
        let mut is_left_out = true;
        for name in &*self.path {
            if value.is_some_and(|value| value.has_lookalike(name)) {
                return Err("there twice, in two spellings");
            }
            // What stands in the way of a path is not left out: a server may find something in it.
            is_left_out &= value.is_none_or(|value| value.as_object().is_some());
            value = value.and_then(|value| value.get(name));
        }
        value.or(self.absent.as_deref().filter(|_| is_left_out)).ok_or("missing")
    }
}

impl FactTest {
    pub(super) fn judge(&self, arguments: Option<&Json>, judging: Judging) -> Verdict {
        let fact = &self.fact;
        let Some(source) = &self.source else { return self.not_known() };
        let value = match source.find(arguments) {
            Ok(value) => value,
            Err(why) => {
                return Verdict::Unknown(format!("{fact} is {why} (argument {})", source.path.join(".")));
            }
        };
        let judged = match &self.test {
            Test::Bound(bound, _) if source.measure == Measure::Count && !is_counted_alike(value, *bound) => {
                return Verdict::Unknown(format!(
                    "how many {fact} there are cannot be told: servers may count fewer or more (argument {})",
                    source.path.join(".")
                ));
            }
            Test::Bound(bound, limit) => self.compare(number(source.measure, value), *bound, limit),
            Test::Is(wanted) => flag(value).map(|is| {
                if is == *wanted { Verdict::Met } else { Verdict::NotMet(format!("{fact} is {is}")) }
            }),
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
        Some(match (bound.holds(order), bound) {
            (true, _) => Verdict::Met,
            (false, Bound::Max) => {
                Verdict::NotMet(format!("{fact} is {measured}, at most {limit} are allowed"))
            }
            (false, _) => Verdict::NotMet(format!("{fact} is {measured}, and not {} {limit}", bound.asks())),
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

impl Bound {
    /// Whether what stands to the limit like this is within it.
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Max => order.is_le(),
            Self::Min => order.is_ge(),
            Self::Above => order.is_gt(),
            Self::Below => order.is_lt(),
        }
    }

    pub(super) fn asks(self) -> &'static str {
        match self {
            Self::Max => "at most",
            Self::Min => "at least",
            Self::Above => "more than",
            Self::Below => "less than",
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

fn flag(value: &Json) -> Option<bool> {
    if let Json::Bool(is) = value { Some(*is) } else { None }
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
mod tests;
