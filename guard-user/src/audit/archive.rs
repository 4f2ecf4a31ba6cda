//! The thread that packs full segments, away from the path of calls.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::disk::{beside, sync_dir};
use super::packed;
use super::retention::Retention;
use super::walk::segments;

/// Before what failed is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(60);
/// Files that are larger, and twice as large as `audit.segment_bytes`, stay as they are: one of a former build may be the trail of a year, and what is packed needs room and time meanwhile.
const PACKED_FILE_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// Bytes that must be free beside what a file may take when it is packed.
const ROOM_LEFT: u64 = 64 * 1024 * 1024;
/// The least of the processor's time.
const NICE: i32 = 19;

/// What packing leaves alone.
#[derive(Clone, Copy)]
struct Bounds {
    /// Of a plain file.
    file_bytes_max: u64,
    /// That must be free beside the file's own.
    room_left: u64,
}

impl Bounds {
    fn new(segment_bytes: u64) -> Self {
        let file_bytes_max = segment_bytes.saturating_mul(2).max(PACKED_FILE_BYTES_MAX);
        Self { file_bytes_max, room_left: ROOM_LEFT }
    }
}

/// Takes the number of the segment that is written to; those before it are full.
pub(super) struct Archive {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    changed: Condvar,
    files: Arc<Files>,
}

/// The files of a trail, for those that pack or remove full ones.
pub(super) struct Files {
    pub(super) dir: PathBuf,
    /// Held by whoever packs or removes one.
    pub(super) alone: Mutex<()>,
    /// The trail is closed: nothing more is done to it.
    pub(super) stops: AtomicBool,
    /// Held by whoever decides what goes.
    pub(super) pruning: tokio::sync::Mutex<()>,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        let pruning = tokio::sync::Mutex::default();
        Self { dir, alone: Mutex::default(), stops: AtomicBool::default(), pruning }
    }

    fn stops(&self) -> bool {
        self.stops.load(Ordering::Relaxed)
    }
}

struct State {
    full_up_to: u64,
    is_new: bool,
}

impl Archive {
    pub(super) fn spawn(files: Arc<Files>, retention: Retention, full_up_to: u64) -> io::Result<Self> {
        let state = Mutex::new(State { full_up_to, is_new: true });
        let shared = Arc::new(Shared { state, changed: Condvar::new(), files });
        let theirs = Arc::clone(&shared);
        let thread = thread::Builder::new().name("audit-archive".into()).spawn(move || {
            if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
                tracing::debug!(%error, "full audit segments are packed with the priority of all else");
            }
            theirs.run(&retention);
        })?;
        Ok(Self { shared, thread: Some(thread) })
    }

    /// A new segment begins with this record.
    pub(super) fn full_up_to(&self, first: u64) {
        let mut state = self.shared.lock();
        (state.full_up_to, state.is_new) = (first, true);
        self.shared.changed.notify_one();
    }
}

/// Ends within the time of one member.
impl Drop for Archive {
    fn drop(&mut self) {
        self.shared.files.stops.store(true, Ordering::Relaxed);
        // The thread looks at it under this lock before it waits.
        drop(self.shared.lock());
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic there has been printed; there is nobody else to tell.
            drop(thread.join());
        }
        // Whoever removes a file now has seen the word before the next one.
        drop(self.shared.files.alone.lock());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `None`: the trail is closed.
    fn wait(&self) -> Option<u64> {
        let idle = |state: &mut State| !state.is_new && !self.files.stops();
        let waited = self.changed.wait_timeout_while(self.lock(), RETRY_EVERY, idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_new = false;
        (!self.files.stops()).then_some(state.full_up_to)
    }

    fn run(&self, retention: &Retention) {
        while let Some(full_up_to) = self.wait() {
            if retention.compress
                && let Err(error) = self.pack(full_up_to, Bounds::new(retention.segment_bytes))
            {
                tracing::warn!(%error, "a full audit segment is not packed; it stays as it is");
            }
        }
    }

    fn pack(&self, full_up_to: u64, bounds: Bounds) -> io::Result<()> {
        let Files { dir, alone, .. } = &*self.files;
        let mut failed = Ok(());
        for (first, path) in segments(dir)? {
            let _one_at_a_time = alone.lock().unwrap_or_else(PoisonError::into_inner);
            if self.files.stops() {
                break;
            }
            // It may have been removed meanwhile.
            if first < full_up_to && !packed::is_packed(&path) && path.exists() {
                // One that cannot be packed keeps no other from it.
                let packed = pack(dir, &path, bounds, || self.files.stops());
                failed =
                    failed.and(packed.map_err(|error| {
                        io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                    }));
            }
        }
        failed
    }
}

/// Puts the packed segment in the plain one's place. Whenever this ends before its end, one of the two is whole, and the next attempt goes
/// on from there.
fn pack(dir: &Path, plain: &Path, bounds: Bounds, stops: impl Fn() -> bool) -> io::Result<()> {
    let length = plain.metadata()?.len();
    if length > bounds.file_bytes_max {
        return Ok(());
    }
    let free = super::reserve::free(dir)?;
    if free < length.saturating_add(bounds.room_left) {
        let what = format!("{free} bytes are free, and it has {length}");
        return Err(io::Error::new(io::ErrorKind::StorageFull, what));
    }
    let packed = packed::name(plain);
    let next = beside(&packed, ".next");
    let made = make(plain, &next, stops);
    if !matches!(made, Ok(true)) {
        // On a full disk, its room is needed. Why it was not made is the news.
        let removed = fs::remove_file(&next);
        return made.and(removed);
    }
    fs::rename(&next, &packed)?;
    // The name is there to stay before the other goes.
    sync_dir(dir)?;
    fs::remove_file(plain)?;
    sync_dir(dir)
}

/// Whether `next` holds all of `plain`, on disk.
fn make(plain: &Path, next: &Path, stops: impl Fn() -> bool) -> io::Result<bool> {
    let mut from = File::open(plain)?;
    let mut to = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .custom_flags(nix::libc::O_NOFOLLOW)
        .open(next)?;
    if packed::pack(&mut from, &mut to, &stops)?.is_none() {
        return Ok(false);
    }
    // What looks for the records of the last days goes by it.
    to.set_modified(from.metadata()?.modified()?)?;
    to.sync_all()?;
    let same = packed::is_same(File::open(plain)?, File::open(next)?, &stops)?;
    if same == Some(true) || same.is_none() {
        Ok(same.is_some())
    } else {
        Err(io::Error::other(format!("{}: it does not unpack to what was packed", next.display())))
    }
}

#[cfg(test)]
mod tests;
