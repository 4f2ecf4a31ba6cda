//! What an agent says to a server again and again, such as `initialize`: flow rules that let it pass once let the same pass later, since
//! the server knows it already.

use super::Pipeline;
use crate::case::Case;
use crate::session::Claim;

/// Notes whether its agent has said this to the server before. Only where a policy has flow rules does that count.
pub(super) fn compare(case: &mut Case<'_>, claim: &Claim) {
    let words = case.rules.policy.has_flow_rules().then(|| case.words()).flatten();
    case.said = words.map(|words| claim.said(words));
}

impl Pipeline {
    /// Remembers it. To be called when it was let through and its record is on disk.
    pub(super) async fn learn(&self, case: &Case<'_>) {
        if let Some(said) = case.said.as_ref().filter(|said| !said.is_known) {
            self.sessions.contexts.learn(said).await;
        }
    }
}
