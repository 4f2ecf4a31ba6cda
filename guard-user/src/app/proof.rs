//! Every claim is tried again from time to time, so that "protected" is never an old story.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::App;
use crate::audit::Event;
use crate::kernel::{Change, Claim};
use crate::service::Word;

/// Before the next proof when a claim did not hold; twice as long each time, up to `kernel.prove_seconds`.
const AGAIN: Duration = Duration::from_secs(5);
/// The longest such pause where no other is configured.
const AGAIN_MAX: Duration = Duration::from_secs(300);

/// Proves, and tells the service manager and the trail what came of it. A service is ready when its protection is proven,
/// and not before; but nobody in a container, and no server, keeps the manager from hearing so.
pub(super) async fn repeat(app: Arc<App>) {
    let usual = Duration::from_secs(app.config.kernel.prove_seconds);
    let mut failing = BTreeMap::new();
    let mut is_ready = false;
    let mut pause = AGAIN;
    loop {
        let status = app.kernel.status();
        record(&app, &mut failing, &status.claims).await;
        if !is_ready && (status.protected || app.kernel.serves()) {
            is_ready = true;
            app.manager.tell(&[Word::Ready]);
        }
        app.manager.tell(&[Word::Status(&app.in_a_line())]);
        if status.protected {
            pause = AGAIN;
            if usual.is_zero() {
                return;
            }
            tokio::time::sleep(usual).await;
        } else {
            let kernel = app.kernel.clone();
            let installed = tokio::task::spawn_blocking(move || kernel.install_again()).await;
            if let Ok(Err(error)) = installed {
                tracing::error!("the guard's listeners cannot be handed to the kernel again: {error:#}");
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(if usual.is_zero() { AGAIN_MAX } else { usual.max(AGAIN) });
        }
        app.prove().await;
    }
}

/// Each claim that ceases to hold, or holds again, is a record.
async fn record(app: &App, failing: &mut BTreeMap<String, String>, claims: &[Claim]) {
    let now: BTreeMap<String, String> = claims
        .iter()
        .filter(|claim| !claim.holds)
        .map(|claim| (claim.name.clone(), claim.detail.clone()))
        .collect();
    let found = now.iter().filter(|(name, _)| !failing.contains_key(*name)).map(|one| (one, Change::Found));
    let gone = failing.iter().filter(|(name, _)| !now.contains_key(*name)).map(|one| (one, Change::Gone));
    for ((name, detail), change) in found.chain(gone) {
        let what = format!("claim: {name}");
        if let Err(error) = app.pipeline.audit.note(&Event::Drift { what: &what, text: detail, change }).await
        {
            tracing::error!(%error, "a claim that changed is not in the trail: {name}");
        }
    }
    *failing = now;
}
