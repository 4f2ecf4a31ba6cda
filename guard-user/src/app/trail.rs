//! The audit trail's oldest files go, by rule or by an operator's word.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::App;
use crate::audit::{Pruning, Retention};

/// Between two looks at what is too old, or too much.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Removes what `audit.keep_days` and `audit.keep_bytes` do not keep.
pub(super) async fn prune_by_policy(app: Arc<App>) {
    let retention = Retention::from(&app.config.audit);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut told = String::new();
    loop {
        tick.tick().await;
        let Some(pruning) = Pruning::by_policy(&retention, Timestamp::now()) else { return };
        let said = match app.pipeline.audit.prune(pruning).await {
            Ok(Some(removal)) if removal.files > 0 => {
                tracing::info!(
                    to = removal.to,
                    files = removal.files,
                    bytes = removal.bytes,
                    "the audit trail was pruned"
                );
                String::new()
            }
            Ok(Some(removal)) => format!("{} records stay: they are not exported yet", removal.held),
            Ok(None) => String::new(),
            Err(error) => error.to_string(),
        };
        if !said.is_empty() && said != told {
            tracing::warn!(
                "the audit trail is not pruned as audit.keep_days and audit.keep_bytes say: {said}"
            );
        }
        told = said;
    }
}

impl App {
    /// For an operator; what `mcp-guard audit prune --json` prints.
    pub(super) async fn prune(
        &self,
        before: Option<Timestamp>,
        (uid, force): (u32, Option<String>),
    ) -> Value {
        let retention = Retention::from(&self.config.audit);
        let Some(pruning) = Pruning::by_operator(&retention, before, (uid, force)) else {
            return json!({ "error": Pruning::NOTHING_SAID });
        };
        match self.pipeline.audit.prune(pruning).await {
            Ok(pruned) => json!({ "pruned": pruned }),
            Err(error) => json!({ "error": error.to_string() }),
        }
    }
}
