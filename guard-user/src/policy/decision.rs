//! What the policy says about one request. Only `decide` makes these.

use std::sync::Arc;

use super::rule::{Meter, RuleName};
use crate::types::{IntentName, LabelName};

/// The policy's answer.
#[must_use]
#[derive(Debug, Clone, PartialEq)]
pub enum Decision {
    /// It may go on, within the velocity rules.
    Allow(Allow),
    /// A person must agree first. Counts against the velocity rules like an allowed call.
    Hold(Hold),
    Deny(Deny),
}

impl Decision {
    /// The rules in shadow that would have refused it, sorted.
    pub fn would_deny(&self) -> &[RuleName] {
        match self {
            Self::Allow(allow) => &allow.would_deny,
            Self::Hold(hold) => &hold.would_deny,
            Self::Deny(_) => &[],
        }
    }

    /// The same of a message of the protocol's own: what answers it carries nothing, and no person can approve what is no call.
    pub(super) fn of_protocol(self) -> Self {
        match self {
            Self::Allow(allow) => Self::Allow(Allow { label: None, ..allow }),
            other => other.without_a_person("a message of the protocol's own cannot wait for that"),
        }
    }

    /// The same of what a server asks of its client: the server waits for the answer.
    pub(super) fn of_server(self) -> Self {
        self.without_a_person("what a server asks of its client cannot wait for that")
    }

    /// What needs an approval is refused.
    fn without_a_person(self, why: &str) -> Self {
        match self {
            Self::Hold(Hold { rule, intent, intents, reason, .. }) => Self::Deny(Deny {
                code: DenyCode::DeniedByRule,
                rule: Some(rule),
                intent: Some(intent),
                intents,
                reason: format!("{reason}; {why}"),
                is_hidden: false,
            }),
            other @ (Self::Allow(_) | Self::Deny(_)) => other,
        }
    }
}

/// Why a call may go on.
#[derive(Debug, Clone, PartialEq)]
pub struct Allow {
    pub(super) rule: RuleName,
    pub(super) intents: Arc<[IntentName]>,
    pub(super) velocity: Arc<[Meter]>,
    pub(super) would_deny: Vec<RuleName>,
    pub(super) label: Option<LabelName>,
}

/// Who must agree to a call, and why.
#[derive(Debug, Clone, PartialEq)]
pub struct Hold {
    pub(super) rule: RuleName,
    pub(super) intent: IntentName,
    pub(super) intents: Arc<[IntentName]>,
    pub(super) reason: Arc<str>,
    pub(super) reviewers: Arc<[String]>,
    pub(super) velocity: Arc<[Meter]>,
    pub(super) would_deny: Vec<RuleName>,
    pub(super) label: Option<LabelName>,
}

/// Why a call may not go on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deny {
    pub(super) code: DenyCode,
    pub(super) rule: Option<RuleName>,
    pub(super) intent: Option<IntentName>,
    pub(super) intents: Arc<[IntentName]>,
    pub(super) reason: String,
    pub(super) is_hidden: bool,
}

/// The kinds of denial; words of the audit format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DenyCode {
    /// A deny rule names one of the call's intents.
    DeniedByRule,
    /// The agent has read what must not go where this call sends.
    Flow,
    /// A rule would allow it, but a condition is not met or cannot be judged.
    ConditionFailed,
    /// No rule allows one of the call's intents.
    DefaultDeny,
    /// The agent may, and the caller's profile leaves it out.
    ProfileDenies,
    /// No intent is mapped to what is asked.
    NoIntent,
    /// The agent has no grant on this server.
    ServerNotGranted,
    /// The policy does not know the agent (its credential outlived its entry).
    UnknownAgent,
}

impl DenyCode {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::DeniedByRule => "denied_by_rule",
            Self::Flow => "flow",
            Self::ConditionFailed => "condition_failed",
            Self::DefaultDeny => "default_deny",
            Self::ProfileDenies => "profile_denies",
            Self::NoIntent => "no_intent",
            Self::ServerNotGranted => "server_not_granted",
            Self::UnknownAgent => "unknown_agent",
        }
    }
}

impl Allow {
    /// The rule of the first intent; `protocol` for the protocol's own methods.
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }

    /// All that the call means; empty for the protocol's own methods.
    pub fn intents(&self) -> &[IntentName] {
        &self.intents
    }

    pub fn velocity(&self) -> &[Meter] {
        &self.velocity
    }

    /// The rules in shadow that would have refused it, sorted.
    pub fn would_deny(&self) -> &[RuleName] {
        &self.would_deny
    }

    /// What its answer carries; `None`: the policy does not label it.
    pub fn label(&self) -> Option<&LabelName> {
        self.label.as_ref()
    }
}

impl Hold {
    pub fn rule(&self) -> &RuleName {
        &self.rule
    }

    /// The intent that needs the approval.
    pub fn intent(&self) -> &IntentName {
        &self.intent
    }

    pub fn intents(&self) -> &[IntentName] {
        &self.intents
    }

    /// A sentence for the agent.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Such as `role:support-lead`; empty: anyone who may approve.
    pub fn reviewers(&self) -> &[String] {
        &self.reviewers
    }

    pub fn velocity(&self) -> &[Meter] {
        &self.velocity
    }

    /// The rules in shadow that would have refused it, sorted.
    pub fn would_deny(&self) -> &[RuleName] {
        &self.would_deny
    }

    /// What its answer carries; `None`: the policy does not label it.
    pub fn label(&self) -> Option<&LabelName> {
        self.label.as_ref()
    }
}

impl Deny {
    pub fn code(&self) -> DenyCode {
        self.code
    }

    /// The rule that denies, or whose condition is not met.
    pub fn rule(&self) -> Option<&RuleName> {
        self.rule.as_ref()
    }

    /// The intent that is not allowed, where one is known.
    pub fn intent(&self) -> Option<&IntentName> {
        self.intent.as_ref()
    }

    /// All that the call means, as far as the policy knows.
    pub fn intents(&self) -> &[IntentName] {
        &self.intents
    }

    /// A sentence for the agent.
    pub fn reason(&self) -> &str {
        &self.reason
    }

    /// Whether the agent must not learn from the answer that the target exists: no rule at all connects the
    /// agent with it. A target that a rule names for this agent is refused with the rule's reason instead.
    pub fn is_hidden(&self) -> bool {
        self.is_hidden
    }
}
