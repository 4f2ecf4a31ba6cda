//! A running trail loses its beginning: the record first, then its signature, then the files.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::disk::sync_dir;
use super::error::OpenError;
use super::log::AuditLog;
use super::prune::{PruneError, Pruning, Removal, SIGNED_WITHIN, remove};
use super::recover::lock;

/// Between two looks for the signature.
const LOOK_EVERY: Duration = Duration::from_millis(50);

impl AuditLog {
    /// Removes what `pruning` says may go. `None`: there is nothing. A guard that ends meanwhile leaves the rest to the next one.
    pub async fn prune(&self, pruning: Pruning) -> Result<Option<Removal>, PruneError> {
        let files = Arc::clone(self.files());
        let _alone = files.pruning.lock().await;
        let keys = self.keys();
        let theirs = Arc::clone(&files);
        let planned = blocking(move || Ok((pruning.plan(&theirs.dir, &keys)?, pruning))).await;
        let (plan, pruning) = planned?;
        let Some(mut removal) = plan.clone().filter(|plan| plan.files > 0) else { return Ok(plan) };
        let seq = self.write_own(pruning.record(&removal)).await?;
        let by = Instant::now() + SIGNED_WITHIN;
        while !(self.signed() > seq && sync_dir(&files.dir).is_ok()) {
            if Instant::now() >= by {
                return Err(PruneError::NotSigned);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
        let (theirs, to) = (Arc::clone(&files), removal.to);
        blocking(move || {
            let removed = remove(&theirs.dir, to, &theirs.alone, &theirs.stops);
            removed.map_err(|error| PruneError::Io { path: theirs.dir.clone(), error })
        })
        .await?;
        removal.seq = Some(seq);
        Ok(Some(removal))
    }

    /// Frees the directory, without a record: no guard has begun. This must be the last handle.
    pub async fn leave(self) {
        let (dir, by) = (self.files().dir.clone(), Instant::now() + SIGNED_WITHIN);
        drop(self);
        while matches!(lock(&dir), Err(OpenError::Locked(_))) && Instant::now() < by {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, PruneError> + Send + 'static,
) -> Result<T, PruneError> {
    let ended = tokio::task::spawn_blocking(work).await;
    ended.unwrap_or_else(|_panicked| Err(PruneError::NotDone))
}
