//! The thread that signs the latest checkpoint and puts it into its file, away from the path of calls.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};

use super::CHECKPOINT_FILE;
use super::disk::{self, Segment};
use super::log::{AuditLog, Health};
use super::merkle::Hash;
use super::note::SigningKey;

/// What to sign: `size` records with this root.
pub(super) struct Head {
    pub(super) size: u64,
    pub(super) root: Hash,
    /// The one whose turn it is.
    pub(super) key: Arc<SigningKey>,
    /// To be synced first: a checkpoint must not reach the disk before its records do.
    pub(super) unsynced: Option<Arc<dyn Segment>>,
}

/// Takes heads, keeps the newest, writes it as soon as the one before is on disk.
pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    next: Option<Head>,
    stop: bool,
    sync_error: Option<io::Error>,
    unwritten: Option<io::Error>,
    /// What kept it from the last file, if anything did.
    told: Option<io::ErrorKind>,
}

impl Checkpointer {
    pub(super) fn spawn(dir: PathBuf, health: Arc<Health>) -> io::Result<Self> {
        let shared = Arc::new(Shared { state: Mutex::default(), changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("audit-checkpoint".into()).spawn(move || {
            while let Some(head) = theirs.wait() {
                theirs.write(&dir, &health, &head);
            }
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn publish(&self, head: Head) {
        self.shared.lock().next = Some(head);
        self.shared.changed.notify_one();
    }

    /// The error of a sync that this thread did for the writer.
    pub(super) fn sync_error(&self) -> Option<io::Error> {
        self.shared.lock().sync_error.take()
    }

    /// Why the last checkpoint is not in its file.
    pub(super) fn unwritten(&self) -> Option<io::Error> {
        self.shared.lock().unwritten.take()
    }
}

/// Waits until the newest head is written.
impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nobody else to tell.
            drop(thread.join());
        }
    }
}

impl Health {
    /// Why what was written is not signed.
    pub(super) fn unsigned(&self) -> MutexGuard<'_, Option<Arc<str>>> {
        self.unsigned.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuditLog {
    /// Why what was written cannot be signed now; calls go on meanwhile.
    pub fn unsigned(&self) -> Option<Arc<str>> {
        self.health().unsigned().clone()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next head to write; `None` when there is none and none will come.
    fn wait(&self) -> Option<Head> {
        let mut state = self.lock();
        loop {
            if let Some(head) = state.next.take() {
                return Some(head);
            }
            if state.stop {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, dir: &std::path::Path, health: &Health, head: &Head) {
        if let Some(Err(error)) = head.unsynced.as_ref().map(|segment| segment.sync()) {
            self.lock().sync_error = Some(error);
            return;
        }
        let note = head.key.checkpoint(head.size, head.root);
        let written = disk::replace(dir, CHECKPOINT_FILE, note.as_bytes());
        let mut state = self.lock();
        let kind = written.as_ref().err().map(io::Error::kind);
        // The records are safe and the next checkpoint covers them; it is tried again each second, and told once.
        if let Err(error) = written {
            if state.told != kind {
                tracing::warn!(%error, size = head.size, "the audit checkpoint could not be written");
            }
            *health.unsigned() = Some(format!("{CHECKPOINT_FILE}: {error}").into());
            state.unwritten = Some(error);
        }
        state.told = kind;
        if kind.is_none() {
            health.signed.store(head.size, Ordering::Relaxed);
            *health.unsigned() = None;
        }
    }
}
