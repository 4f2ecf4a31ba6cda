//! What can go wrong, for the caller of a call and for the operator who starts the guard.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::NoteError;
use super::copies::Disagreement;

/// Why a call has no durable record. It must not be forwarded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    #[error("{0} calls and streams are under way already (limits.calls_in_flight_max)")]
    Busy(usize),
    #[error(
        "{0} calls and streams of this agent are under way already (limits.calls_in_flight_per_agent_max)"
    )]
    AgentBusy(usize),
    #[error("the audit record was not on disk within {} ms (limits.audit_wait_milliseconds); the disk is slow or stuck", .0.as_millis())]
    TimedOut(Duration),
    #[error("the audit trail cannot be written: {0}; calls are refused until it can")]
    Failed(Arc<str>),
    #[error("the record cannot be encoded within {} bytes", super::LINE_BYTES_MAX)]
    TooLong,
    #[error("the audit trail is closed: the guard is stopping")]
    Stopped,
}

impl AuditError {
    /// Its code in logs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy(_) => "busy",
            Self::AgentBusy(_) => "agent_busy",
            Self::TimedOut(_) => "audit_timed_out",
            Self::Failed(_) => "audit_failed",
            Self::TooLong => "audit_too_long",
            Self::Stopped => "stopping",
        }
    }
}

/// Why the trail in a directory cannot be continued. The guard does not start.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error("{0} is in use by another guard; `mcp-guard status` shows the running one")]
    Locked(PathBuf),
    #[error("{0}. {next}", next = .0.next())]
    Rollback(Disagreement),
    #[error(
        "{file}, line {line}: {reason}. Keep the directory as evidence; `mcp-guard-verify` tells more; a new \
         trail begins once the directory is moved away and the guard is started with `--accept-loss \"REASON\"`"
    )]
    Tampered { file: PathBuf, line: u64, reason: String },
    #[error(
        "{path}: {source}. A trail needs its `key`, `verifier-key`, `keys` and `checkpoint`: restore them, or move the \
         directory away and begin a new trail with `mcp-guard run --accept-loss \"REASON\"`"
    )]
    Key { path: PathBuf, source: NoteError },
    #[error("{0} may be read by others; `chmod 600` it, and treat its trail's signatures as doubtful")]
    KeyMode(PathBuf),
}

impl OpenError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}
