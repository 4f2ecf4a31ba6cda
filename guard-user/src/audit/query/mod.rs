//! Finds records in a trail of any length. Verifies nothing.
//!
//! ```text
//! terms    what a record is looked up by      (pure)
//! block    what some records have in common   (pure)
//! index    the blocks of a trail, kept beside it; can always be made anew
//! search   the records that fit, newest or oldest first
//! follow   those that come, with the outcomes of what was shown
//! ```

mod block;
mod follow;
mod index;
mod search;
mod terms;

use jiff::Timestamp;

pub use follow::Follower;
pub(super) use index::forget;
pub use index::{Index, IndexError};
pub use search::{Found, Order, Outcomes, search};

use crate::policy::IntentPattern;
use terms::{Fields, Term};

/// Which records are wanted: those that fit all that is said.
#[derive(Debug, Clone, Default)]
pub struct Query {
    pub agent: Option<String>,
    /// For whom it worked.
    pub user: Option<String>,
    pub server: Option<String>,
    /// What a call or a record of the kind `tool` is about.
    pub tool: Option<String>,
    pub intent: Option<IntentPattern>,
    /// `allow`, `deny`, `hold` or `tell`.
    pub decision: Option<String>,
    /// The record's word for why.
    pub reason: Option<String>,
    /// The beginning of the session's name.
    pub session: Option<String>,
    /// The call's id, of its record and of its outcome's.
    pub id: Option<String>,
    pub kind: Option<String>,
    /// Lowest risk of a call.
    pub min_risk: Option<u8>,
    /// Not earlier than this, by the host's clock.
    pub from: Option<Timestamp>,
    /// Earlier than this.
    pub to: Option<Timestamp>,
    /// Anywhere in the line, whatever its case. In the line's own spelling: all but printable ASCII is `\u` and four digits.
    pub text: Option<String>,
    /// Digests of which some argument of the call has one; none: any call.
    pub arguments: Vec<String>,
    /// The digest of what a call was answered with.
    pub result: Option<String>,
}

impl Query {
    /// Whether a record may be what is wanted. `line` is its text.
    fn takes(&self, record: &Fields<'_>, line: &[u8]) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        let begins = |wanted: &Option<String>, found: Option<&str>| {
            wanted.as_deref().is_none_or(|wanted| found.is_some_and(|found| found.starts_with(wanted)))
        };
        is(&self.agent, record.agent.as_deref())
            && is(&self.user, record.user.as_deref())
            && is(&self.server, record.server.as_deref())
            && is(&self.tool, record.tool())
            && is(&self.decision, record.decision.as_deref())
            && is(&self.reason, record.reason.as_deref())
            && is(&self.id, record.id.as_deref())
            && is(&self.kind, Some(&record.kind))
            && begins(&self.session, record.session.as_deref())
            && self
                .intent
                .as_ref()
                .is_none_or(|wanted| record.intent.as_deref().is_some_and(|intent| wanted.matches(intent)))
            && self.min_risk.is_none_or(|least| record.score().is_some_and(|score| score >= least))
            && self.is_in_time(record.moment())
            && (self.arguments.is_empty()
                || self.arguments.iter().any(|wanted| has_member(line, "digest", wanted)))
            && self.result.as_deref().is_none_or(|wanted| has_member(line, "result_digest", wanted))
            && self.text.as_deref().is_none_or(|text| has(line, text.as_bytes()))
    }

    /// A record without a time is nowhere and everywhere.
    fn is_in_time(&self, moment: Option<Timestamp>) -> bool {
        let Some(moment) = moment else { return true };
        self.from.is_none_or(|from| moment >= from) && self.to.is_none_or(|to| moment < to)
    }

    /// What each record that is wanted has.
    fn terms(&self) -> Vec<Term> {
        let mut terms = Vec::new();
        let fields = [
            ("agent", &self.agent),
            ("user", &self.user),
            ("server", &self.server),
            ("tool", &self.tool),
            ("decision", &self.decision),
            ("reason", &self.reason),
            ("id", &self.id),
            ("kind", &self.kind),
        ];
        terms.extend(fields.iter().filter_map(|(name, value)| Some(Term::of(name, value.as_deref()?))));
        if let Some(session) =
            self.session.as_deref().filter(|session| session.len() == terms::SESSION_DIGITS)
        {
            terms.push(Term::of("session", session));
        }
        terms.extend(self.intent.as_ref().and_then(|intent| Term::of_pattern(intent.as_str())));
        terms
    }
}

/// Whether it has this member anywhere. No name in a record can look like that: its quotes are escaped.
fn has_member(line: &[u8], name: &str, value: &str) -> bool {
    memchr::memmem::find(line, format!("\"{name}\":\"{value}\"").as_bytes()).is_some()
}

/// Whether `line` has `text`, whatever its case.
fn has(line: &[u8], text: &[u8]) -> bool {
    let Some(first) = text.first() else { return true };
    let starts = memchr::memchr2_iter(first.to_ascii_lowercase(), first.to_ascii_uppercase(), line);
    starts.filter_map(|at| line.get(at..at + text.len())).any(|found| found.eq_ignore_ascii_case(text))
}

#[cfg(test)]
mod tests;
