//! The velocity windows over a restart: a snapshot now and then, and what the trail says after it.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use tokio::time::MissedTickBehavior;

use super::App;
use crate::admin::Counted;
use crate::audit::{self, AuditLog, Since};
use crate::config::Config;
use crate::policy::WINDOW_SECONDS_MAX;
use crate::velocity::{Clock, Damaged, Restored, Room, Velocity};

/// Between two snapshots, while calls are counted.
const SNAPSHOT_EVERY: Duration = Duration::from_secs(60);
/// Records before a snapshot's beginning that are read again: written then, but perhaps lost with the host. They are counted
/// once all the same.
const RECORDS_BEFORE: u64 = 4096;

const UNCOUNTED: &str =
    "cannot count the calls in the audit trail again, and who starts from nothing lets too many pass";

/// Counts what was counted before this start, from a snapshot and the trail, or from the trail alone.
pub(super) fn open(config: &Config, audit: &AuditLog) -> anyhow::Result<(Velocity, Clock)> {
    let (dir, trail) = (&config.state_dir, config.audit_dir());
    let limits = &config.limits;
    let room = Room {
        all: limits.velocity_keys_max,
        each: limits.velocity_keys_per_agent_max,
        kept: limits.velocity_keys_per_agent_kept,
    };
    let empty = || Velocity::new(room);
    let mut velocity = empty();
    let origin = audit.verifier_key().name().to_owned();
    let (anchor, since) = match velocity.restore(dir) {
        Ok(saved) => {
            let next = if saved.trail == origin { saved.next_record } else { 0 };
            (Some(saved.anchor), Since::Record(next.saturating_sub(RECORDS_BEFORE)))
        }
        Err(why) => {
            velocity = empty();
            tell(&why, dir, audit.records());
            (None, Since::Ago(Duration::from_secs(WINDOW_SECONDS_MAX)))
        }
    };
    // What is older than its window now is passed over. If the trail tells of later moments, the clock goes on from these.
    let mut latest = Clock::start(anchor.as_ref(), 0).now();
    let mut calls = 0_u64;
    let looked_at = audit::counted(&trail, since, |agent, record| {
        latest = latest.max(record.at);
        calls += u64::from(velocity.recount(latest, agent, record));
    })
    .context(UNCOUNTED)?;
    let clock = Clock::start(anchor.as_ref(), latest);
    velocity.recounted();
    let keys = velocity.keys();
    tracing::info!(
        keys,
        calls,
        records = looked_at,
        "velocity windows go on; these calls were counted from the trail"
    );
    if let Err(error) = save_to(dir, &velocity, &clock, audit) {
        tracing::warn!(%error, "the velocity windows cannot be written to {}", dir.display());
    }
    Ok((velocity, clock))
}

fn tell(why: &Damaged, dir: &Path, records: u64) {
    // The start of a trail has nothing to tell of.
    const FIRST_RECORDS: u64 = 2;
    if matches!(why, Damaged::Missing) && records <= FIRST_RECORDS {
        return;
    }
    let path = dir.join(crate::velocity::SNAPSHOT_FILE);
    tracing::warn!(
        "{}: {why}; the velocity windows are counted again from the audit trail of the last 31 days",
        path.display()
    );
}

fn save_to(dir: &Path, velocity: &Velocity, clock: &Clock, audit: &AuditLog) -> io::Result<()> {
    // The last of two that run at once must be the later one.
    static ALONE: Mutex<()> = Mutex::new(());
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // Taken first: what is written later may be in the snapshot or not.
    let next_record = audit.records();
    let trail = audit.verifier_key().name().to_owned();
    velocity.save(dir, &Restored { anchor: clock.anchor(), trail, next_record })
}

/// Writes a snapshot from time to time, and gives back the memory of what counts nothing any more.
pub(super) async fn keep(app: Arc<App>) {
    let mut tick = tokio::time::interval(SNAPSHOT_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    let mut saved = 0;
    loop {
        tick.tick().await;
        // Also without calls that were counted: each may have been refused for want of room.
        app.tidy_velocity().await;
        let number = app.pipeline.velocity.number();
        if number != saved {
            app.save_velocity().await;
            saved = number;
        }
    }
}

impl App {
    /// What `mcp-guard top --json` prints; with `about`, what `explain` asks for.
    pub(super) async fn fullest(&self, rows: usize, about: Option<Counted>) -> Value {
        let (velocity, now) = (self.pipeline.velocity.clone(), self.pipeline.clock.now());
        let rules = self.pipeline.rules.load();
        let look = tokio::task::spawn_blocking(move || {
            let mut of = rules.policy.velocity().to_vec();
            let mut parts = Vec::new();
            if let Some(about) = about {
                of.retain(|rule| about.rules.iter().any(|name| name == rule.name.as_str()));
                parts = about.parts;
            }
            let rows = velocity.fullest(now, &of, rows, &parts);
            json!({ "keys": velocity.keys(), "policy": rules.digest, "rows": rows })
        });
        look.await.unwrap_or_else(|error| json!({ "error": format!("cannot look at the windows: {error}") }))
    }

    /// Gives back what no rule counts any more.
    async fn tidy_velocity(&self) {
        let (velocity, now) = (self.pipeline.velocity.clone(), self.pipeline.clock.now());
        let rules = self.pipeline.rules.load();
        let tidy = tokio::task::spawn_blocking(move || velocity.tidy(now, rules.policy.velocity()));
        if let Err(error) = tidy.await {
            tracing::error!(%error, "the velocity windows could not be tidied up");
        }
    }

    /// Writes a snapshot.
    pub(super) async fn save_velocity(&self) {
        let (velocity, clock) = (self.pipeline.velocity.clone(), self.pipeline.clock.clone());
        let (audit, dir) = (self.pipeline.audit.clone(), self.config.state_dir.clone());
        let write = tokio::task::spawn_blocking(move || save_to(&dir, &velocity, &clock, &audit));
        if let Ok(Err(error)) = write.await {
            let path = self.config.state_dir.join(crate::velocity::SNAPSHOT_FILE);
            tracing::error!(%error, "{} cannot be written; the next start reads more of the trail", path.display());
        }
    }
}
