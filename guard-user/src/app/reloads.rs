//! What is in force since when, and what became of the last attempt to change it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{App, lock};
use crate::config::{Problem, Problems, Reload};

/// Of all reloads, what an operator has to know.
#[derive(Debug)]
pub(super) struct Reloads {
    /// When the rules in force were read.
    loaded_at: Timestamp,
    failed: Option<Failed>,
    /// Why changes of the files are not noticed.
    not_watched: Option<String>,
}

/// An attempt after which everything stayed as it was.
#[derive(Debug, Serialize)]
struct Failed {
    at: String,
    problems: Vec<Problem>,
}

/// Problems that are kept of one attempt; the log has all.
const PROBLEMS_KEPT_MAX: usize = 20;

impl Reloads {
    /// The rules were just read.
    pub(super) fn begin() -> Self {
        Self { loaded_at: Timestamp::now(), failed: None, not_watched: None }
    }
}

impl App {
    pub(super) fn remember_reload(&self, result: Result<&String, &Problems>) {
        let mut reloads = lock(&self.reloads);
        match result {
            Ok(_) => (reloads.loaded_at, reloads.failed) = (Timestamp::now(), None),
            Err(problems) => {
                let problems = problems.iter().take(PROBLEMS_KEPT_MAX).cloned().collect();
                reloads.failed = Some(Failed { at: time(Timestamp::now()), problems });
            }
        }
    }

    pub(super) fn not_watched(&self, why: Option<String>) {
        lock(&self.reloads).not_watched = why;
    }

    pub(super) fn is_unwatched(&self) -> bool {
        lock(&self.reloads).not_watched.is_some()
    }

    pub(super) fn has_failed_reload(&self) -> bool {
        lock(&self.reloads).failed.is_some()
    }

    /// For `mcp-guard status`.
    pub(super) fn reloads(&self) -> Value {
        let reloads = lock(&self.reloads);
        json!({
            "on_change": self.config.reload == Reload::OnChange,
            "loaded_at": time(reloads.loaded_at),
            "failed": reloads.failed,
            "not_watched": reloads.not_watched,
        })
    }
}

fn time(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
