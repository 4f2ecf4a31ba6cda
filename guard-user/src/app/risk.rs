//! What agents did before, over a restart: a snapshot now and then, and what the trail says after it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::App;
use crate::admin::Earlier;
use crate::audit::{self, AuditLog, Since};
use crate::config::Config;
use crate::risk::{HISTORY_FILE, History, KNOWN_DAYS, Restored};
use crate::types::{AgentName, ServerName};

/// Between two snapshots, while something changes.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);

/// Reads what was before this start, from a snapshot and the trail, or from the trail alone.
pub(super) async fn open(config: &Arc<Config>, audit: &AuditLog) -> anyhow::Result<History> {
    let (config, audit) = (Arc::clone(config), audit.clone());
    tokio::task::spawn_blocking(move || read(&config, &audit)).await?
}

fn read(config: &Config, audit: &AuditLog) -> anyhow::Result<History> {
    let dir = &config.state_dir;
    let mut history = History::new();
    let all = Since::Ago(Duration::from_secs((KNOWN_DAYS + 1) * 24 * 60 * 60));
    let since = match history.restore(dir) {
        Ok(Some(saved)) if saved.trail == audit.verifier_key().name() => Since::Record(saved.next_record),
        Ok(Some(_)) => Since::Record(0),
        Ok(None) => all,
        Err(error) => {
            history = History::new();
            let path = dir.join(HISTORY_FILE);
            tracing::warn!(%error, "{} is of no use; what agents did is read from the audit trail", path.display());
            all
        }
    };
    let records = audit::past(&config.audit_dir(), since, |past| match &past.went_on_as {
        Some(what) => history.allowed(past.at, &past.agent, &past.server, what),
        None => history.refused(past.at, &past.agent),
    })
    .context(
        "cannot read in the audit trail what agents did, and without it every call is scored as another",
    )?;
    tracing::info!(records, "what agents did before goes on; so many records were read");
    if let Err(error) = save_to(dir, &history, audit) {
        tracing::warn!(%error, "what agents did cannot be written to {}", dir.display());
    }
    Ok(history)
}

fn save_to(dir: &Path, history: &History, audit: &AuditLog) -> io::Result<()> {
    // The last of two that run at once must be the later one.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Taken first: a call is taken in before its record is written, so that each record before this one is in the snapshot. One
    // after it may be, too, and is counted twice then.
    let next_record = audit.records();
    history.save(dir, &Restored { trail: audit.verifier_key().name().to_owned(), next_record })
}

/// Writes a snapshot from time to time, and gives back the memory of what is over.
pub(super) async fn keep(app: Arc<App>) {
    let mut tick = tokio::time::interval(SNAPSHOT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut saved = app.pipeline.history.version();
    loop {
        tick.tick().await;
        let version = app.pipeline.history.version();
        if version != saved {
            app.save_history().await;
            saved = version;
        }
    }
}

impl App {
    /// Writes a snapshot.
    pub(super) async fn save_history(&self) {
        let (history, audit) = (self.pipeline.history.clone(), self.pipeline.audit.clone());
        let dir = self.config.state_dir.clone();
        let write = tokio::task::spawn_blocking(move || {
            history.tidy(now());
            save_to(&dir, &history, &audit)
        });
        if let Ok(Err(error)) = write.await {
            let path = self.config.state_dir.join(HISTORY_FILE);
            tracing::error!(%error, "{} cannot be written; the next start reads more of the trail", path.display());
        }
    }

    /// What `explain` asks for.
    pub(super) fn known(&self, about: &Earlier) -> Value {
        let (Ok(agent), Ok(server)) = (AgentName::parse(&about.agent), ServerName::parse(&about.server))
        else {
            return json!({ "error": "a name is none" });
        };
        let mut known = self.pipeline.history.known(now(), &agent, &server, &about.what);
        known.changed = about.tool.as_ref().and_then(|tool| self.pipeline.changed(&server, tool));
        json!({ "known": known })
    }
}

fn now() -> u64 {
    u64::try_from(Timestamp::now().as_millisecond()).unwrap_or_default()
}
