//! What an agent says to a server again and again, such as `initialize`: flow rules that let it pass once let the same pass later, since
//! the server knows it already.

use super::Pipeline;
use crate::audit::{AuditError, Permit};
use crate::case::Case;
use crate::session::Claim;

/// Notes whether its agent has said this to the server before. Only where a policy has flow rules does that count.
pub(super) fn compare(case: &mut Case<'_>, claim: &Claim) {
    let words = case.rules.policy.has_flow_rules().then(|| case.words()).flatten();
    case.said = words.map(|words| claim.said(words));
}

impl Pipeline {
    /// Lets it through once its record is on disk. Only then it is remembered, and counted for rules in shadow.
    pub(super) async fn intend(&self, case: &Case<'_>) -> Result<Permit, AuditError> {
        let permit =
            case.record(None, self.audit.digester(), async |record| self.audit.intend(record).await).await?;
        case.count_shadows();
        self.learn(case).await;
        Ok(permit)
    }

    async fn learn(&self, case: &Case<'_>) {
        if let Some(said) = case.said.as_ref().filter(|said| !said.is_known) {
            self.sessions.contexts.learn(said).await;
        }
    }
}
