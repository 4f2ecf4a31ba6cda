//! Parts of matchers as their authors wrote them, for tables.

use super::condition::bind;
use super::offered::Facts;
use crate::policy::fact::Source;
use crate::policy::file::{Clause, Matcher};

/// `above_amount: 100`
pub(in crate::policy) fn clause_in_words(clause: &Clause, matcher: &Matcher) -> String {
    let facts: Facts<'_> = matcher.facts.iter().map(|(name, source)| (&**name, source)).collect();
    bind(clause, &facts, None).to_string()
}

/// `number of order.amount`
pub(in crate::policy) fn source_in_words(source: &Source) -> String {
    format!("{} of {}", source.measure.as_str(), source.path.join("."))
}
