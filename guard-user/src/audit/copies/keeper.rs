//! A thread that gives one place the latest checkpoint from time to time.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::{Note, Sink, Standing};
use crate::types::Uptime;

/// Most time until the next attempt after one that failed.
const RETRY_EVERY: Duration = Duration::from_secs(10);
/// At most one part in so many of the time is spent on copies to one place.
const SHARE: u32 = 5;
/// However long an attempt took: it may have hung.
const PAUSE_MAX: Duration = Duration::from_secs(600);
/// Longest file that is taken for a checkpoint.
pub(super) const NOTE_BYTES_MAX: usize = 16 * 1024;

/// Dropping it ends the thread after what it does now.
#[derive(Debug)]
pub(super) struct Keeper(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    standing: Standing,
    is_stopping: bool,
    has_ended: bool,
}

impl Keeper {
    /// The first copy is made at once.
    pub(super) fn spawn(
        kind: &'static str,
        place: String,
        mut sink: Box<dyn Sink>,
        source: PathBuf,
        every: Duration,
    ) -> io::Result<Self> {
        let since = Uptime::now();
        let standing =
            Standing { kind, place, size: None, at: None, attempt: None, since, failures: 0, error: None };
        let state = Mutex::new(State { standing, is_stopping: false, has_ended: false });
        let shared = Arc::new(Shared { state, changed: Condvar::new() });
        let theirs = Arc::clone(&shared);
        thread::Builder::new().name("audit-copy".into()).spawn(move || {
            let mut due = Duration::ZERO;
            loop {
                let is_last = theirs.wait(due);
                let started = Instant::now();
                let is_well = theirs.copy(&source, sink.as_mut());
                if is_last {
                    break;
                }
                due = if is_well { every } else { every.min(RETRY_EVERY) };
                // What takes long, such as reading much of the trail for a proof, is not done all the time.
                due = due.max(started.elapsed().saturating_mul(SHARE).min(PAUSE_MAX));
            }
            theirs.lock().has_ended = true;
            theirs.changed.notify_all();
        })?;
        Ok(Self(shared))
    }

    pub(super) fn standing(&self) -> Standing {
        self.0.lock().standing.clone()
    }

    /// Has it make the last copy.
    pub(super) fn stop(&self) {
        self.0.lock().is_stopping = true;
        self.0.changed.notify_all();
    }

    pub(super) fn has_ended_by(&self, end: Instant) -> bool {
        let left = end.saturating_duration_since(Instant::now());
        let waited = self.0.changed.wait_timeout_while(self.0.lock(), left, |state| !state.has_ended);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the next copy is the last one.
    fn wait(&self, due: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), due, |state| !state.is_stopping);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_stopping
    }

    /// Gives the sink what is newer than what it has; false: it is not there.
    fn copy(&self, source: &Path, sink: &mut dyn Sink) -> bool {
        let before = {
            let standing = &mut self.lock().standing;
            standing.attempt = Some(Uptime::now());
            standing.size
        };
        let put = read(source).and_then(|note| {
            // One that is older is not the guard's: it replaces its checkpoint by newer ones alone.
            if before.is_some_and(|before| note.size <= before) {
                return Ok(None);
            }
            sink.put(&note).map(|()| Some(note.size))
        });
        let mut state = self.lock();
        let Standing { kind, place, size, at, attempt, failures, error, .. } = &mut state.standing;
        *attempt = None;
        match put {
            Ok(put) => {
                if error.take().is_some() {
                    tracing::info!(kind, place, "copies of the audit checkpoint arrive again");
                }
                if put.is_some() {
                    (*size, *at) = (put, Some(Uptime::now()));
                }
                true
            }
            Err(why) => {
                *failures += 1;
                if error.is_none() {
                    tracing::error!(kind, place, "no copy of the audit checkpoint arrives: {why}");
                }
                *error = Some(why);
                false
            }
        }
    }
}

fn read(source: &Path) -> Result<Note, String> {
    let unreadable = |error: &dyn std::fmt::Display| format!("{}: {error}", source.display());
    let length = fs::metadata(source).map_err(|error| unreadable(&error))?.len();
    if length > u64::try_from(NOTE_BYTES_MAX).unwrap_or(u64::MAX) {
        return Err(unreadable(&"it is too long for a checkpoint"));
    }
    let text = fs::read_to_string(source).map_err(|error| unreadable(&error))?;
    Note::parse(text).ok_or_else(|| unreadable(&"it is no checkpoint"))
}
