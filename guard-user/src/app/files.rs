//! The files of the audit trail are looked after: their room, what of them is old, and what waits to be exported.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::App;
use crate::audit::{Lag, Pruning, Removal, Retention, Room};

/// The host's clock may be ahead of what has passed by less than this without a word.
const CLOCK_AHEAD: Duration = Duration::from_secs(3600);
/// Between two looks at what is too old or too much, and at the room.
const LOOK_EVERY: Duration = Duration::from_secs(60);

/// Looks after the files of the trail: their room, and what of them may go.
pub(super) async fn keep(app: Arc<App>) {
    let mut tick = tokio::time::interval(LOOK_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut room, mut pruned) = (Told::default(), Told::default());
    loop {
        tick.tick().await;
        room.tell(app.look_at_room().await);
        pruned.tell(app.prune_by_policy().await);
        app.look_at_exports().await;
    }
}

/// Tells of the same thing once.
#[derive(Default)]
struct Told(String);

impl Told {
    fn tell(&mut self, said: String) {
        if !said.is_empty() && said != self.0 {
            tracing::warn!("{said}");
        }
        self.0 = said;
    }
}

impl App {
    /// What of the trail `status` tells.
    pub(super) fn trail(&self) -> Value {
        let audit = &self.pipeline.audit;
        let Room { free, reserve } = audit.room();
        let now = Timestamp::now();
        let one = |lag: &Lag| json!({"cursor": lag.cursor, "records": lag.records, "oldest_seconds": lag.seconds(now), "problem": lag.problem});
        let exports: Vec<Value> = audit.exports().iter().map(one).collect();
        json!({
            "records": audit.records(),
            "failed": audit.failure().as_deref(),
            "unsigned_records": audit.records().saturating_sub(audit.signed()),
            "unsigned": audit.unsigned().as_deref(),
            "losses_accepted": audit.losses(),
            "free_bytes": free,
            "is_low": self.is_low(free),
            "is_clock_ahead": audit.clock_ahead() >= CLOCK_AHEAD,
            "reserve_bytes": reserve,
            "exports": exports,
            "clock_ahead_seconds": audit.clock_ahead().as_secs(),
        })
    }

    fn is_low(&self, free: Option<u64>) -> bool {
        free.is_some_and(|free| free < self.config.audit.free_low_bytes)
    }

    /// What is to be told of the disk; nothing if that is nothing.
    async fn look_at_room(&self) -> String {
        let audit = self.pipeline.audit.clone();
        let looked = tokio::task::spawn_blocking(move || audit.look_at_room()).await;
        match looked {
            Ok(Ok(free)) if self.is_low(Some(free)) => {
                let (dir, low) = (self.config.audit_dir(), self.config.audit.free_low_bytes);
                let dir = dir.display();
                format!(
                    "the disk of the audit trail ({dir}) has less than {low} bytes free (audit.free_low_bytes); once it is full, calls are refused. \
                     `mcp-guard audit prune --before TIME` makes room, audit.keep_days and audit.keep_bytes do so by rule"
                )
            }
            Ok(Err(error)) => format!("how much room the audit trail has cannot be told: {error}"),
            _ => String::new(),
        }
    }

    /// How far exports are behind.
    async fn look_at_exports(&self) {
        let (audit, cursors) = (self.pipeline.audit.clone(), self.config.audit.export_cursors.clone());
        if !cursors.is_empty() {
            let _a_panic_was_printed =
                tokio::task::spawn_blocking(move || audit.look_at_exports(&cursors)).await;
        }
    }

    /// Tells once if the host's clock is not to be trusted with that.
    async fn time_of_ages(&self) -> Timestamp {
        let (audit, before) = (self.pipeline.audit.clone(), self.pipeline.audit.clock_ahead());
        let asked = tokio::task::spawn_blocking(move || audit.time_of_ages()).await;
        let ahead = self.pipeline.audit.clock_ahead();
        if ahead >= CLOCK_AHEAD && before < CLOCK_AHEAD {
            tracing::warn!(
                hours = ahead.as_secs() / 3600,
                "the host's clock is ahead of what has passed since the last records; audit.keep_days goes by a time that comes after it at twice the \
                 speed. If the clock is right, `mcp-guard audit prune` goes by it at once"
            );
        }
        // Without it, nothing is old.
        asked.unwrap_or(Timestamp::MIN)
    }

    /// Removes what `audit.keep_days` and `audit.keep_bytes` do not keep. Says what keeps it from that.
    async fn prune_by_policy(&self) -> String {
        let retention = Retention::from(&self.config.audit);
        let now = match retention.keep {
            Some(_) => self.time_of_ages().await,
            None => Timestamp::now(),
        };
        let Some(pruning) = Pruning::by_policy(&retention, now) else { return String::new() };
        let why = match self.pipeline.audit.prune(pruning).await {
            Ok(Some(Removal { to, files, bytes, .. })) if files > 0 => {
                tracing::info!(to, files, bytes, "the audit trail was pruned");
                return String::new();
            }
            Ok(Some(removal)) => format!("{} records stay: they are not exported yet", removal.held),
            Ok(None) => return String::new(),
            Err(error) => error.to_string(),
        };
        format!("the audit trail is not pruned as audit.keep_days and audit.keep_bytes say: {why}")
    }
}
