//! How risky a call is, before the policy judges it, and what is remembered of it for those after it.

use jiff::Timestamp;

use super::{Pipeline, question};
use crate::case::Case;
use crate::identity::Caller;
use crate::policy::Question;
use crate::refusal::Refusal;
use crate::risk::Score;
use crate::rpc::Target;
use crate::types::ServerName;

impl Pipeline {
    /// The score of a call; `None`: the policy does not speak of risk, or no intent names what is asked.
    pub(super) fn score(&self, case: &Case<'_>, question: &Question<'_>) -> Option<Score> {
        let policy = &case.rules.policy;
        if !policy.speaks_of_risk() {
            return None;
        }
        let what = policy.counted_as(question)?;
        let mut known = self.history.known(milliseconds(), question.agent, question.server, &what);
        if let Target::Tool(tool) = question.target {
            known.changed = self.changed(question.server, tool);
        }
        policy.risk(question, Some(known))
    }

    /// Seconds since the tool's definition was approved, or pinned by rule in place of another.
    pub fn changed(&self, server: &ServerName, tool: &str) -> Option<u64> {
        let since = self.tools.changed(server, tool)?;
        // What lies in the future was changed just now.
        Some(u64::try_from(Timestamp::now().as_second().saturating_sub(since)).unwrap_or_default())
    }

    /// Takes in a call that goes on. Comes before its record, so that a snapshot lacks nothing that the trail has before it.
    pub(super) fn remember(&self, case: &Case<'_>, caller: &Caller) {
        let question = question(case, caller);
        if let Some(what) = case.rules.policy.counted_as(&question).filter(|_| case.is_new) {
            self.history.allowed(milliseconds(), question.agent, question.server, &what);
        }
    }

    /// The same of one that is refused with a record.
    pub(super) fn remember_refused(&self, caller: Option<&Caller>, refusal: &Refusal) {
        let is_denied = !matches!(refusal, Refusal::NeedsApproval(_));
        if let Some(caller) = caller.filter(|_| is_denied) {
            self.history.refused(milliseconds(), caller.agent());
        }
    }
}

/// Of two scores the higher one.
pub(super) fn higher(one: Option<Score>, other: Option<Score>) -> Option<Score> {
    let score = |risk: &Option<Score>| risk.as_ref().map(|risk| risk.score);
    if score(&other) > score(&one) { other } else { one }
}

fn milliseconds() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}
