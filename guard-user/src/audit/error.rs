//! What can go wrong, for the caller of a call and for the operator who starts the guard.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::copies::Disagreement;
use super::{CHECKPOINT_FILE, KEY_FILE, KEYS_FILE, NoteError, VERIFIER_KEY_FILE};

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
    #[error("{path}: {source}{next}", next = next(path, source))]
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
    #[error("{path}: {source}{RESTORE}")]
    Key { path: PathBuf, source: NoteError },
    #[error("{0} may be read by others; `chmod 600` it, and treat its trail's signatures as doubtful")]
    KeyMode(PathBuf),
}

const RESTORE: &str = ". A trail needs its `key`, `verifier-key`, `keys` and `checkpoint`: restore them, or move the directory \
                       away and begin a new trail with `mcp-guard run --accept-loss \"REASON\"`";

/// What is left to do, where the error tells it.
fn next(path: &Path, error: &io::Error) -> &'static str {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    match error.kind() {
        io::ErrorKind::NotFound
            if [KEY_FILE, VERIFIER_KEY_FILE, KEYS_FILE, CHECKPOINT_FILE].contains(&name) =>
        {
            RESTORE
        }
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            ". Make room on its disk and start again (docs/operations.md, \"A full disk\")"
        }
        io::ErrorKind::ReadOnlyFilesystem => {
            ". Its file system is read-only, or the unit's sandbox makes it so: `dmesg` tells of a disk that failed, and a \
             directory elsewhere needs `ReadWritePaths=` in the unit"
        }
        io::ErrorKind::PermissionDenied => {
            ". The guard's user or its sandbox may not do that: `mcp-guard doctor` tells what is missing"
        }
        _ => "",
    }
}

impl OpenError {
    pub(super) fn io(path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_of_the_system_says_what_to_do_about_it() {
        for (name, errno, said) in [
            ("checkpoint", nix::libc::ENOENT, "restore them, or move"),
            ("key", nix::libc::ENOENT, "--accept-loss"),
            ("key", nix::libc::ENOSPC, "Make room"),
            ("key", nix::libc::EDQUOT, "Make room"),
            ("key", nix::libc::EROFS, "ReadWritePaths="),
            ("key", nix::libc::EACCES, "doctor"),
        ] {
            let path = Path::new("/trail").join(name);
            let text = OpenError::io(&path)(io::Error::from_raw_os_error(errno)).to_string();
            assert!(text.starts_with(&format!("/trail/{name}: ")) && text.contains(said), "{text}");
        }
        let other =
            OpenError::io(Path::new("/trail/00.jsonl"))(io::Error::from_raw_os_error(nix::libc::ENOENT));
        assert!(!other.to_string().contains("restore"), "{other}");
    }
}
