//! Looks every second whether the kernel still has what the guard put there, and puts back what is gone.
//!
//! It looks at what others with enough power could change behind the guard's back: links and pins, the order of programs,
//! the guard's listeners in their slots, the rules of ports, the guard's own cgroup and its capabilities. A difference is
//! told once when it comes and once when it goes; as long as it is there, the guard does not say "protected".

mod look;
mod mend;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::guard::Inner;
use super::maps::lock;
use crate::privilege::Privileges;
use crate::service::Beat;
use look::{Found, look};
use mend::mend;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Differences that wait to be recorded; more are in the log only.
const WAITING_MAX: usize = 256;

/// A difference that came or went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drift {
    /// What it is about, such as `link steer-1`.
    pub what: String,
    /// What was seen.
    pub words: String,
    pub change: Change,
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    Found,
    /// Found, and put back by the guard.
    Mended,
    /// Gone by itself.
    Gone,
}

/// The differences that are there now.
#[derive(Debug, Default)]
pub(crate) struct Vigil {
    now: Mutex<BTreeMap<String, String>>,
    /// How often one was found.
    pub found: std::sync::atomic::AtomicU64,
    /// Moves with each look.
    pub beat: Beat,
    told: Mutex<Option<mpsc::Receiver<Drift>>>,
}

impl Vigil {
    /// In words, for `status`.
    pub(super) fn differences(&self) -> Vec<String> {
        lock(&self.now).iter().map(|(what, words)| format!("{what}: {words}")).collect()
    }

    /// The differences to come, for whoever records them. The first caller gets them.
    pub(super) fn told(&self) -> Option<mpsc::Receiver<Drift>> {
        lock(&self.told).take()
    }
}

/// Starts to look. Ends with the guard's last handle.
pub(super) fn spawn(inner: &Arc<Inner>) -> std::io::Result<()> {
    let (tell, told) = mpsc::channel(WAITING_MAX);
    *lock(&inner.vigil.told) = Some(told);
    let settled = Privileges::now()?;
    let weak: Weak<Inner> = Arc::downgrade(inner);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        tick.reset();
        loop {
            tick.tick().await;
            let Some(inner) = weak.upgrade() else { return };
            let (settled, tell) = (settled.clone(), tell.clone());
            let looked = tokio::task::spawn_blocking(move || turn(&inner, &settled, &tell)).await;
            if let Err(error) = looked {
                if !error.is_panic() {
                    return;
                }
                // Without a beat, the watchdog sees it if it goes on; without a watchdog, `status` does.
                tracing::error!(
                    "the self-watch broke off, which is a fault of the guard: {error}; looking again"
                );
                if let Some(inner) = weak.upgrade() {
                    lock(&inner.vigil.now).insert("the self-watch".into(), "it broke off".into());
                }
            }
        }
    });
    Ok(())
}

/// One look, and what follows from it.
fn turn(inner: &Inner, settled: &Privileges, tell: &mpsc::Sender<Drift>) {
    // What is half done is no difference, and what is let go of must not be put back.
    let _alone = lock(&inner.changing);
    let found = look(inner, settled);
    let before = lock(&inner.vigil.now).clone();
    let mut now = BTreeMap::new();
    for Found { what, words, remedy } in found {
        let is_new = !before.contains_key(&what);
        if is_new {
            inner.vigil.found.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            tracing::error!("the kernel is not as the guard left it: {what}: {words}");
        }
        let mended = match remedy.filter(|_| inner.config.kernel.reattach) {
            Some(remedy) => mend(inner, &remedy).inspect_err(|error| {
                tracing::error!("{what} cannot be put back: {error:#}");
            }),
            None => Err(anyhow::anyhow!("nothing is done about it")),
        };
        let change = if mended.is_ok() { Change::Mended } else { Change::Found };
        if is_new {
            if mended.is_ok() {
                tracing::warn!("{what} is put back");
            }
            let _full = tell.try_send(Drift { what: what.clone(), words: words.clone(), change });
        }
        // What was put back is a difference until the next look has seen it in its place.
        now.insert(what, words);
    }
    for (what, words) in before.iter().filter(|(what, _)| !now.contains_key(*what)) {
        tracing::info!("as the guard left it again: {what}");
        let drift = Drift { what: what.clone(), words: words.clone(), change: Change::Gone };
        let _full = tell.try_send(drift);
    }
    *lock(&inner.vigil.now) = now;
    inner.vigil.beat.beat();
}
