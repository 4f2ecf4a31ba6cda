//! What the running guard does beside serving: it tells the service manager how it is, and shows that it lives.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::AbortHandle;
use tokio::time::MissedTickBehavior;

use super::{App, changes, errands, files, listeners, proof, risk, velocity};
use crate::accept::Acceptor;
use crate::audit::{Event, Index, Occasion};
use crate::config::Reload;
use crate::kernel::Drift;
use crate::service::{Pulse, Word};

/// Looks between two signs of life, so that a part that is slow once delays a sign and does not cost it.
const LOOKS: u32 = 8;

/// Between two looks at what the index of the trail lacks, and how much of it one look reads.
const INDEX_EVERY: Duration = Duration::from_secs(60);
const INDEX_BYTES_MAX: u64 = 512 * 1024 * 1024;

/// The tasks; they end with this value.
pub(super) struct Upkeep(Vec<AbortHandle>);

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.iter().for_each(AbortHandle::abort);
    }
}

/// Starts the tasks of a guard that serves.
pub(super) fn spawn(app: &Arc<App>, acceptor: &Acceptor) -> Upkeep {
    let mut tasks = vec![tokio::spawn(proof::repeat(Arc::clone(app))).abort_handle()];
    tasks.push(tokio::spawn(beat(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(errands::run(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(errands::end_sessions_in_time(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(listeners::record(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(velocity::keep(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(risk::keep(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(record_drifts(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(index(Arc::clone(app))).abort_handle());
    tasks.push(tokio::spawn(files::keep(Arc::clone(app))).abort_handle());
    tasks.extend(app.keep_keys());
    if app.config.reload == Reload::OnChange {
        tasks.push(tokio::spawn(changes::watch(Arc::clone(app))).abort_handle());
    }
    if let Some(interval) = app.manager.watchdog_interval() {
        let pulse = pulse(app, acceptor);
        tasks.push(tokio::spawn(show_life(Arc::clone(app), pulse, interval)).abort_handle());
    }
    Upkeep(tasks)
}

/// Writes a heartbeat from time to time.
async fn beat(app: Arc<App>) {
    let mut tick = tokio::time::interval(Duration::from_secs(app.config.audit.heartbeat_seconds));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick.reset();
    loop {
        tick.tick().await;
        app.heartbeat(Occasion::Interval).await;
    }
}

/// Keeps the index of the trail, so that queries find their way at once.
async fn index(app: Arc<App>) {
    let mut tick = tokio::time::interval(INDEX_EVERY);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        if app.pipeline.audit.failure().is_some() {
            // What is left of a full disk is for the trail.
            continue;
        }
        let dir = app.config.audit_dir();
        let kept = tokio::task::spawn_blocking(move || Index::keep_up(&dir, INDEX_BYTES_MAX)).await;
        if let Ok(Err(error)) = kept {
            tracing::debug!(%error, "the index of the trail is not kept; queries read more");
        }
    }
}

/// Records what the self-watch finds, and tells the service manager.
async fn record_drifts(app: Arc<App>) {
    let Some(mut drifts) = app.kernel.drifts() else { return };
    while let Some(Drift { what, words, change }) = drifts.recv().await {
        let event = Event::Drift { what: &what, text: &words, change };
        if let Err(error) = app.pipeline.audit.note(&event).await {
            tracing::error!(%error, "a difference in the kernel is not in the trail: {what}: {words}");
        }
        app.manager.tell(&[Word::Status(&app.in_a_line())]);
    }
}

fn pulse(app: &App, acceptor: &Acceptor) -> Pulse {
    let mut pulse = Pulse::default();
    pulse.watch("the acceptor", acceptor.beat().clone());
    pulse.watch("the self-watch", app.kernel.beat());
    pulse.watch("the look for servers", app.kernel.keeping());
    pulse.watch("the look at holds", app.kernel.lifting());
    pulse.watch("the audit writer", app.pipeline.audit.beat());
    pulse
}

/// A sign of life each time that every part has moved. Whoever stands still for the manager's whole patience has the
/// guard started anew; until then the ports refuse.
async fn show_life(app: Arc<App>, mut pulse: Pulse, interval: Duration) {
    let mut tick = tokio::time::interval(interval / LOOKS);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    let mut is_told = false;
    loop {
        app.pipeline.audit.poke();
        tick.tick().await;
        if last.elapsed() < interval {
            continue;
        }
        let standing = pulse.standing();
        if standing.is_empty() {
            app.manager.tell(&[Word::Watchdog]);
            (last, is_told) = (Instant::now(), false);
        } else if !is_told && last.elapsed() > interval * 3 / 2 {
            tracing::error!(
                ?standing,
                "no sign of life for the service manager, which will start the guard anew"
            );
            is_told = true;
        }
    }
}
