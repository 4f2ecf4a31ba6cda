//! Proofs of namespaces that came while the guard runs.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::guard::{Inner, PROOFS_AT_ONCE_MAX};
use super::maps::lock;
use super::prove;
use super::realm::Realm;

/// When a namespace is tried again whose claims did not hold.
const AGAIN: Duration = Duration::from_secs(10);

pub(super) struct Proofs {
    gate: Arc<Semaphore>,
    /// When the claims of a namespace, by its cookie, last did not hold.
    failed: Arc<Mutex<BTreeMap<u64, Instant>>>,
}

impl Proofs {
    pub(super) fn new() -> Self {
        Self { gate: Arc::new(Semaphore::new(PROOFS_AT_ONCE_MAX)), failed: Arc::default() }
    }

    /// Tries the claims of these namespaces, and once more those that did not hold a while ago. A proof waits for its turn:
    /// a thousand at once would only see each other's load.
    pub(super) fn start(&self, inner: &Arc<Inner>, raised: Vec<Arc<Realm>>) {
        for realm in raised.into_iter().chain(self.due(inner, Instant::now())) {
            let (inner, gate, failed) = (Arc::clone(inner), Arc::clone(&self.gate), Arc::clone(&self.failed));
            tokio::spawn(async move {
                let Ok(_turn) = gate.acquire_owned().await else { return };
                let claims = prove::prove(&inner, &realm).await;
                if claims.iter().any(|claim| !claim.holds) {
                    lock(&failed).insert(realm.netns.cookie, Instant::now());
                }
            });
        }
    }

    fn due(&self, inner: &Inner, now: Instant) -> Vec<Arc<Realm>> {
        let mut failed = lock(&self.failed);
        let is_due = |at: Instant| now.duration_since(at) >= AGAIN;
        let due: Vec<u64> = failed.iter().filter(|(_, at)| is_due(**at)).map(|(netns, _)| *netns).collect();
        failed.retain(|_, at| !is_due(*at));
        due.into_iter().filter_map(|netns| inner.realm(netns)).collect()
    }
}
