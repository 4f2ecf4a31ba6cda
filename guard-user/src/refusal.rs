//! Every way in which a request can be refused, from its first byte to the server's answer.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use crate::audit;
use crate::http::{FramingError, Unreadable};
use crate::identity::{TokenFault, Unidentified};
use crate::policy::{Deny, ExceededAction, Hold, RuleName};
use crate::rpc::{Fault, FrameError};
use crate::session::NotYours;
use crate::tools;
use crate::upstream;
use crate::velocity::Exceeded;

/// What the revision of 2026-07-28 calls it; clients then ask for the list of tools again.
const HEADER_MISMATCH: i32 = -32020;

/// Why the guard did not pass a request on, or has no answer for it. Made by the stages, turned into bytes by
/// [`respond`](crate::respond) alone. [`Refusal::reason`] is its name in the audit trail and in the answer.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    #[error("the server's answer cannot be passed on: {0}")]
    Answer(&'static str),
    /// A client's answer to what a server has asked; without a session, a server may take it for another agent's.
    #[error(
        "without a session nobody can tell whose request it answers; from 2026-07-28 on, the answer goes with the call made again"
    )]
    Answered,
    #[error("its audit record could not be written, and nothing goes on unrecorded")]
    Audit(audit::AuditError),
    /// The kill switch. `forwarded`: it was set while the call was under way.
    #[error("the operator has blocked this agent")]
    Blocked { forwarded: bool },
    #[error("{0}")]
    Body(#[from] Unreadable),
    /// Ids of requests are of a session; without one, a server may take this for another agent's.
    #[error(
        "without a session nobody can tell whose request it names; from 2026-07-28 on, a call is cancelled by closing its answer"
    )]
    Cancelled,
    #[error("{}", .0.reason())]
    Denied(Deny),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Framing(#[from] FramingError),
    #[error("{0}")]
    Identity(#[from] Unidentified),
    /// The server's answer holds what this rule keeps back.
    #[error("the answer holds what the rule {0} keeps back")]
    Inspected(RuleName),
    /// A header that repeats an argument is missing, or says something else.
    #[error(
        "the header {0} does not say what the arguments say; ask for tools/list again and repeat in headers what the tool's \
         inputSchema names"
    )]
    HeaderMismatch(String),
    #[error("an MCP endpoint takes POST, GET and DELETE")]
    Method,
    #[error("{}", .0.reason)]
    NeedsApproval(Approval),
    #[error("there is no MCP endpoint at this path; this server's is {0}")]
    Path(String),
    #[error("this port takes HTTPS only")]
    Plaintext,
    /// There is room for no more of its agent's, or for no more at all.
    #[error("{0}")]
    TooManyCalls(audit::AuditError),
    #[error("{}", .0.reason)]
    TooOften(Exceeded),
    /// It names a session, a task or the like that was not given to this agent.
    #[error("{0}")]
    NotYours(#[from] NotYours),
    /// The token is good, and was not given for what its server wants.
    #[error("the token lacks the scope {0}; ask its issuer for one with that")]
    Scope(String),
    /// Its session ended while the request was under way.
    #[error("its session has ended")]
    SessionOver,
    /// The policy lets it pass, but the tool is not what was pinned.
    #[error("{0}")]
    Tool(tools::Held),
    #[error("{0}")]
    Upstream(#[from] upstream::Error),
    /// What the answer carries could not be written down.
    #[error(
        "what this agent is about to read could not be written down, and after a crash nobody would know"
    )]
    Unmarked(std::io::Error),
    /// A new policy no longer lets the agent in. The call was under way.
    #[error("this agent is no longer let in: what it showed has expired, or a new policy says so")]
    Withdrawn,
}

/// The word for [`Refusal::Answer`].
pub fn bad_answer() -> &'static str {
    Refusal::Answer("").reason()
}

/// What a call waits for that only a person can let pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Approval {
    pub rule: RuleName,
    pub reason: Arc<str>,
    /// Such as `role:support-lead`; empty: anyone who may approve.
    pub reviewers: Arc<[String]>,
    /// How full the window is, and how full it may be, of a velocity rule.
    pub window: Option<(u64, u64)>,
}

/// What the one who asked can do about a refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Advice {
    /// The same request will be refused again.
    Final,
    /// The same call may pass then.
    After(Duration),
    /// Someone must approve.
    Approval,
    /// The people who run the guard or the server must mend something.
    Mend,
}

impl Refusal {
    pub fn held(hold: &Hold) -> Self {
        Self::NeedsApproval(Approval {
            rule: hold.rule().clone(),
            reason: hold.reason().into(),
            reviewers: hold.reviewers().into(),
            window: None,
        })
    }

    pub fn exceeded(exceeded: Exceeded) -> Self {
        match exceeded.action {
            // What a rule in shadow exceeds is no refusal.
            ExceededAction::Deny | ExceededAction::Shadow => Self::TooOften(exceeded),
            ExceededAction::Escalate => Self::NeedsApproval(Approval {
                rule: exceeded.rule,
                reason: exceeded.reason,
                reviewers: Arc::default(),
                window: Some((exceeded.count, exceeded.max)),
            }),
        }
    }

    /// In `snake_case`; a word of the audit format, so none is ever renamed.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Answer(_) => "bad_answer",
            Self::Audit(_) => "audit_unavailable",
            Self::Blocked { .. } => "blocked",
            Self::Answered => "response_without_session",
            Self::Body(error) => error.reason(),
            Self::Cancelled => "cancelled_without_session",
            Self::Denied(deny) => deny.code().as_str(),
            Self::Frame(error) => error.fault.reason(),
            Self::Framing(fault) => fault.reason(),
            Self::Identity(error) => error.as_str(),
            Self::HeaderMismatch(_) => "header_mismatch",
            Self::Inspected(_) => "result_refused",
            Self::Method => "http_method",
            Self::Unmarked(_) => "mark_unavailable",
            Self::NeedsApproval(_) => "needs_approval",
            Self::NotYours(NotYours::BadSession(_)) => "bad_session_id",
            Self::NotYours(NotYours::Session(_)) => "unknown_session",
            Self::NotYours(NotYours::Event) => "unknown_event",
            Self::NotYours(NotYours::Task(_)) => "unknown_task",
            Self::NotYours(NotYours::State) => "unknown_state",
            Self::Scope(_) => "insufficient_scope",
            Self::SessionOver => "session_over",
            Self::Path(_) => "unknown_path",
            Self::Plaintext => "plaintext",
            Self::TooManyCalls(_) => "too_many_calls",
            Self::TooOften(_) => "velocity_exceeded",
            Self::Tool(held) => held.reason(),
            Self::Upstream(error) => error.reason(),
            Self::Withdrawn => "access_withdrawn",
        }
    }

    /// What is known beside the reason, for the record alone: the one who asked must not learn it.
    pub fn cause(&self) -> Option<&'static str> {
        match self {
            Self::NotYours(NotYours::Session(cause)) => Some(cause.as_str()),
            _ => None,
        }
    }

    /// For JSON-RPC errors. The guard's own codes are positive: JSON-RPC and MCP reserve −32768 to −32000.
    pub fn code(&self) -> i32 {
        match self {
            Self::Frame(error) => error.fault.code(),
            Self::Body(_)
            | Self::Framing(_)
            | Self::Method
            | Self::NotYours(NotYours::BadSession(_))
            | Self::Path(_)
            | Self::Plaintext => -32600,
            // What servers say of a task that they do not have.
            Self::NotYours(NotYours::Task(_) | NotYours::State) => -32602,
            Self::NotYours(NotYours::Session(_) | NotYours::Event) | Self::SessionOver => 40_400,
            Self::HeaderMismatch(_) => HEADER_MISMATCH,
            Self::Identity(_) | Self::Withdrawn => 40_100,
            Self::Answered | Self::Cancelled | Self::Denied(_) | Self::Scope(_) => 40_300,
            Self::NeedsApproval(_) => 40_301,
            Self::Blocked { .. } => 40_302,
            Self::Tool(_) => 40_303,
            Self::Inspected(_) => 40_304,
            Self::TooManyCalls(_) | Self::TooOften(_) => 42_900,
            Self::Answer(_) => 50_200,
            Self::Upstream(_) => 50_201,
            Self::Audit(_) | Self::Unmarked(_) => 50_300,
        }
    }

    /// The HTTP status where a refusal cannot be told within JSON-RPC.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Frame(error) => error.fault.status(),
            Self::Framing(fault) => fault.status(),
            Self::Body(error) => error.status(),
            Self::Method => StatusCode::METHOD_NOT_ALLOWED,
            // At this a client opens a new session.
            Self::Path(_) | Self::NotYours(NotYours::Session(_)) | Self::SessionOver => StatusCode::NOT_FOUND,
            Self::HeaderMismatch(_) | Self::NotYours(_) => StatusCode::BAD_REQUEST,
            Self::Plaintext => StatusCode::UPGRADE_REQUIRED,
            Self::Answered
            | Self::Blocked { .. }
            | Self::Cancelled
            | Self::Denied(_)
            | Self::Identity(_)
            | Self::Inspected(_)
            | Self::NeedsApproval(_)
            | Self::Scope(_)
            | Self::Tool(_)
            | Self::Withdrawn => StatusCode::FORBIDDEN,
            Self::TooManyCalls(_) | Self::TooOften(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Answer(_) | Self::Upstream(_) => StatusCode::BAD_GATEWAY,
            Self::Audit(_) | Self::Unmarked(_) => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The request was none that could be answered within JSON-RPC.
    pub fn is_about_http(&self) -> bool {
        matches!(
            self,
            Self::Body(_)
                | Self::Frame(_)
                | Self::Framing(_)
                | Self::HeaderMismatch(_)
                | Self::Method
                | Self::Path(_)
                | Self::NotYours(NotYours::BadSession(_) | NotYours::Session(_) | NotYours::Event)
                | Self::Plaintext
                | Self::Scope(_)
        )
    }

    /// The call was forwarded before this happened, so its records are written already.
    pub fn is_after_permit(&self) -> bool {
        matches!(
            self,
            Self::Answer(_)
                | Self::Blocked { forwarded: true }
                | Self::Inspected(_)
                | Self::SessionOver
                | Self::Upstream(_)
                | Self::Withdrawn
        )
    }

    pub fn advice(&self) -> Advice {
        match self {
            Self::TooOften(exceeded) => {
                Advice::After(Duration::from_millis(exceeded.retry_after_milliseconds))
            }
            Self::NeedsApproval(_) | Self::Tool(_) => Advice::Approval,
            Self::Body(Unreadable::Busy) | Self::TooManyCalls(_) => Advice::After(Duration::from_secs(1)),
            Self::Answer(_)
            | Self::Audit(_)
            | Self::Identity(Unidentified::Token(TokenFault::KeysUnavailable))
            | Self::Unmarked(_)
            | Self::Upstream(_) => Advice::Mend,
            _ => Advice::Final,
        }
    }

    /// The rule that decided, by its name in the policy.
    pub fn rule(&self) -> Option<&RuleName> {
        match self {
            Self::Denied(deny) => deny.rule(),
            Self::NeedsApproval(approval) => Some(&approval.rule),
            Self::TooOften(exceeded) => Some(&exceeded.rule),
            Self::Inspected(rule) => Some(rule),
            _ => None,
        }
    }
}

impl From<audit::AuditError> for Refusal {
    fn from(error: audit::AuditError) -> Self {
        match error {
            audit::AuditError::Busy(_) | audit::AuditError::AgentBusy(_) => Self::TooManyCalls(error),
            error => Self::Audit(error),
        }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self::Frame(fault.into())
    }
}

#[cfg(test)]
mod tests;
