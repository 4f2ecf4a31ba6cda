//! What is in force since when, and what became of the last attempt to change it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use super::{App, lock, tell_notes};
use crate::audit::{AuditError, Cause, Event, TookEffect};
use crate::config::{Problem, Problems, Reload};
use crate::rules::Rules;
use crate::service::Word;
use crate::tls::Fresh;

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
    /// Reads policy, credentials and certificates again. On an error nothing changes.
    pub(super) async fn reload(&self, cause: Cause) -> Result<String, Problems> {
        self.reload_if(cause, || true).await
    }

    /// The same, unless what was read is not the same any more.
    pub(super) async fn reload_if(
        &self,
        cause: Cause,
        is_still: impl FnOnce() -> bool,
    ) -> Result<String, Problems> {
        let _alone = self.reloading.lock().await;
        self.manager.tell(&[Word::Reloading]);
        let result = self.replace(cause, is_still).await.inspect_err(|problems| {
            tracing::error!("nothing was reloaded, the last good policy stays in force:\n{problems}");
        });
        self.remember_reload(result.as_ref());
        // Whatever came of it, the guard serves.
        self.manager.tell(&[Word::Ready, Word::Status(&self.in_a_line())]);
        let digest = result?;
        tracing::info!(policy = digest, "reloaded");
        Ok(digest)
    }

    /// What can fail comes first: the files, then the record that says so. What follows cannot.
    async fn replace(&self, cause: Cause, is_still: impl FnOnce() -> bool) -> Result<String, Problems> {
        let rules = Rules::load(&self.config);
        if !is_still() {
            let dir = &self.config.policy_dir;
            return Err(Problem::of_file(
                dir,
                "it changed while it was read; it is read again when it is quiet",
            )
            .into());
        }
        let clients = rules.as_ref().ok().and_then(|rules| rules.clients.verifier());
        let certificate = self.tls.prepare(clients);
        let mut problems = rules.as_ref().err().cloned().unwrap_or_default();
        if let Err(error) = &certificate {
            problems.push(self.tls.problem(error));
        }
        let (Ok(mut rules), Ok(certificate)) = (rules, certificate) else { return Err(problems) };
        let digest = rules.digest.clone();
        self.record(&rules, &certificate, cause).await.map_err(|error| {
            Problem::of_file(&self.config.policy_dir, format!("the audit trail cannot tell of it: {error}"))
        })?;
        tell_notes(&rules);
        rules.issuers.keep_asked(&self.pipeline.rules.load().issuers);
        // What is open is looked at by the new rules at once; later handshakes by the same authorities.
        self.pipeline.rules.replace(rules);
        self.tls.install(certificate);
        Ok(digest)
    }

    /// Says in the trail what takes effect next; without that, nothing does.
    async fn record(&self, rules: &Rules, certificate: &Fresh, cause: Cause) -> Result<(), AuditError> {
        let result = self.tell(rules, certificate.digest(), cause).await;
        if let Err(AuditError::TimedOut(_)) = &result {
            // It will be written once the disk goes on; so that it is not the last word, what is in force stands behind it.
            let _also_late = self.tell(&self.pipeline.rules.load(), &self.tls.digest(), Cause::Stays).await;
        }
        result
    }

    async fn tell(&self, rules: &Rules, certificate: &str, cause: Cause) -> Result<(), AuditError> {
        let (in_shadow, digests) = (rules.policy.in_shadow(), rules.digests(certificate));
        let took_effect =
            TookEffect { digest: &rules.digest, text: in_shadow.as_deref(), cause, digests: &digests };
        self.pipeline.audit.note(&Event::Policy(took_effect)).await.map(drop)
    }

    /// A fresh certificate of the local CA, or the operator's from its file; whether it is in use.
    pub(super) async fn renew_certificate(&self) -> bool {
        let _alone = self.reloading.lock().await;
        let rules = self.pipeline.rules.load();
        let renewed = async {
            let certificate = self.tls.prepare(rules.clients.verifier())?;
            self.record(&rules, &certificate, Cause::Renewal).await?;
            self.tls.install(certificate);
            anyhow::Ok(())
        };
        let renewed = renewed.await;
        if let Err(error) = &renewed {
            tracing::error!(
                error = format!("{error:#}"),
                "the old certificate stays in use; next attempt in an hour"
            );
        }
        renewed.is_ok()
    }

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
