//! What a reload labels higher than its agent's mark tells: nothing more of it goes on.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::refuse;
use super::view::{Answer, Passed, View};
use crate::audit::OutcomeResult;
use crate::refusal::Refusal;
use crate::rpc::reply::{Reply, ReplyKind};
use crate::rules::Rules;

impl View {
    /// Whether nothing of its answer may go on.
    pub(super) fn is_withdrawn(&self) -> bool {
        !self.is_marked(&self.rules.load())
    }

    /// Whether the agent's mark tells of what such answers carry, also by rules that came into force since it was raised.
    pub(super) fn is_marked(&self, rules: &Arc<Rules>) -> bool {
        let has_read =
            |about| rules.policy.has_read(&self.claim.read(), &self.agent, &self.server.name, about);
        Arc::ptr_eq(rules, &self.judged_by) || self.about.target().is_none_or(has_read)
    }

    /// Whether the agent's mark tells of whatever its server may answer.
    pub(super) fn has_read_all(&self) -> bool {
        let rules = self.rules.load();
        rules.policy.has_read_all(&self.claim.read(), &self.agent, &self.server.name)
    }

    /// In place of a message that may not go on for this.
    pub(super) fn withheld(&self, reply: &Reply) -> Passed {
        tracing::info!(decision = %self.asked.decision, "a message was kept back: a reload has labelled it higher");
        let is_answer = matches!(reply.kind, ReplyKind::Error { .. } | ReplyKind::Result(_));
        let is_anothers = match (&self.waits_for, &reply.id) {
            (Some(waiting), Some(id)) => waiting != id,
            (waiting, _) => waiting.is_none(),
        };
        if is_answer && is_anothers {
            return Passed { data: None, answer: None };
        }
        let reason = Some(Refusal::Withdrawn.reason());
        let answer = is_answer.then_some(Answer { result: OutcomeResult::CutOff, error_code: None, reason });
        Passed { data: self.in_place_of(reply, &Refusal::Withdrawn), answer }
    }

    /// What goes to whoever waits for a message that may not go on.
    pub(super) fn in_place_of(&self, reply: &Reply, refusal: &Refusal) -> Option<Bytes> {
        match (&reply.kind, &reply.id) {
            (ReplyKind::Request { method }, Some(id)) => {
                self.claim.refuse(id, method);
                None
            }
            (ReplyKind::Error { .. } | ReplyKind::Result(_), id) => {
                let error = || {
                    let error = json!({ "code": refusal.code(), "message": refusal.to_string() });
                    json!({ "jsonrpc": "2.0", "id": id, "error": error })
                };
                let message = refuse::message(&self.asked, refusal).unwrap_or_else(error);
                Some(Bytes::from(message.to_string()))
            }
            (ReplyKind::Request { .. } | ReplyKind::Notification(_), _) => None,
        }
    }
}
