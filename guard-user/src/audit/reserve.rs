//! Room that is set aside beside the trail, so that a full disk keeps nobody from saying so, and from removing what may go.
//!
//! It is given up piece by piece: others write to the disk, too. From the first piece on until it is whole again, only what ends something or makes
//! room is recorded, and calls are refused.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};

use super::log::{AuditLog, Health};
use super::queue::{Append, Done};
use super::record::{Event, Gap, Stop};
use super::writer::{State, Writer, refuse};
use super::{RESERVE_FILE, text};

/// Pieces that it is given up in, none smaller than a few records.
const PIECES: u64 = 8;
const PIECE_BYTES_MIN: u64 = 64 * 1024;
/// Between two attempts to make it whole, at first and at most: a limit that the disk does not tell of in advance may be met again at once.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MOST: Duration = Duration::from_secs(60);

/// What is known of the room for a trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes on its disk, as of the last look; none: nobody has looked, or the disk does not tell.
    pub free: Option<u64>,
    /// Of the reserve, in bytes.
    pub reserve: u64,
}

/// The same, for those who do not wait for a disk.
#[derive(Default)]
pub(super) struct Known {
    /// And one; 0: nobody knows.
    free: AtomicU64,
    left: AtomicU64,
}

pub(super) struct Reserve {
    path: PathBuf,
    /// 0: none.
    bytes: u64,
    left: u64,
    health: Arc<Health>,
    spent: Option<Spent>,
    wait: Duration,
    whole_since: Instant,
}

/// It is not whole.
struct Spent {
    cause: Arc<str>,
    /// Requests refused since then, beyond those of the writer's own failures.
    refused: u64,
    retry: Instant,
}

impl Reserve {
    /// What an earlier guard left of it. With less than a piece of the disk free, a piece is given up, so that the start itself can be recorded.
    pub(super) fn open(dir: &Path, bytes: u64, health: &Arc<Health>) -> io::Result<Self> {
        let path = dir.join(RESERVE_FILE);
        let left = match fs::symlink_metadata(&path) {
            Ok(file) if file.is_file() && file.nlink() == 1 && bytes > 0 => {
                file.len().min(file.blocks().saturating_mul(512))
            }
            Ok(_) => fs::remove_file(&path).map(|()| 0)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error),
        };
        let wait = RETRY_FIRST;
        let whole_since = Instant::now();
        let mut reserve =
            Self { path, bytes, left, health: Arc::clone(health), spent: None, wait, whole_since };
        if left > bytes {
            reserve.cut(bytes)?;
        }
        reserve.tell();
        if reserve.left < bytes || (bytes > 0 && free(dir)? < reserve.piece()) {
            if free(dir)? < reserve.piece() {
                reserve.give();
            }
            reserve.begin_on(format!("{} is not whole", reserve.path.display()).into());
            reserve.refill_now();
        }
        let cause = reserve.cause();
        if let Some(cause) = &cause {
            tracing::error!("calls are refused: {cause}; `mcp-guard audit prune --before TIME` makes room");
        }
        *health.failed.lock().unwrap_or_else(PoisonError::into_inner) = cause;
        Ok(reserve)
    }

    fn piece(&self) -> u64 {
        (self.bytes / PIECES).max(PIECE_BYTES_MIN)
    }

    /// Whether room was given up.
    fn give(&mut self) -> bool {
        let rest = self.left.saturating_sub(self.piece());
        self.left > 0 && self.cut(rest).is_ok()
    }

    fn begin_on(&mut self, cause: Arc<str>) {
        if self.bytes > 0 && self.spent.is_none() {
            let lasted = self.whole_since.elapsed() >= RETRY_MOST;
            let wait = if lasted { RETRY_FIRST } else { self.wait };
            self.wait = (wait * 2).min(RETRY_MOST);
            self.spent = Some(Spent { cause, refused: 0, retry: Instant::now() + wait });
        }
    }

    fn cut(&mut self, bytes: u64) -> io::Result<()> {
        let file = open(&self.path)?;
        file.set_len(bytes)?;
        // Some file systems free nothing before.
        file.sync_all()?;
        self.left = bytes;
        self.tell();
        Ok(())
    }

    /// Makes it whole, if as much again stays free: else the next calls would use it up at once.
    fn refill(&mut self) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("."));
        let (twice, free) = (self.bytes.saturating_mul(2), free(dir)?);
        if free.saturating_add(self.left) < twice {
            return Err(io::Error::new(io::ErrorKind::StorageFull, format!("{free} bytes are free")));
        }
        let file = open(&self.path)?;
        // Limits that the look before does not see, such as quotas, count as well.
        let made =
            allocate(&file, twice).and_then(|()| file.set_len(self.bytes)).and_then(|()| file.sync_all());
        if made.is_err() {
            file.set_len(self.left)?;
            return made;
        }
        (self.left, self.whole_since) = (self.bytes, Instant::now());
        self.tell();
        Ok(())
    }

    /// `None`: it is not whole yet. Else how many requests were refused meanwhile.
    fn refill_now(&mut self) -> Option<(u64, Arc<str>)> {
        match self.refill() {
            Ok(()) => {
                let spent = self.spent.take()?;
                Some((spent.refused, spent.cause))
            }
            Err(error) => {
                tracing::debug!(%error, "the reserve of the audit trail is not whole yet");
                if let Some(spent) = &mut self.spent {
                    spent.retry = Instant::now() + RETRY_FIRST;
                }
                None
            }
        }
    }

    fn tell(&self) {
        self.health.room.left.store(self.left, Ordering::Relaxed);
    }

    pub(super) fn is_spent(&self) -> bool {
        self.spent.is_some()
    }

    /// Why calls are refused although records can be written.
    pub(super) fn cause(&self) -> Option<Arc<str>> {
        let spent = self.spent.as_ref()?;
        let twice = self.bytes.saturating_mul(2);
        Some(
            format!(
                "{}; calls go again once {twice} bytes are free (twice audit.reserve_bytes)",
                spent.cause
            )
            .into(),
        )
    }

    /// When it should be tried again.
    pub(super) fn due(&self) -> Option<Instant> {
        self.spent.as_ref().map(|spent| spent.retry)
    }

    /// What may be written now. All else is refused.
    pub(super) fn admit(&mut self, batch: Vec<Append>) -> Vec<Append> {
        let Some(cause) = self.cause() else { return batch };
        let ends = |append: &Append| append.is_vital || matches!(append.done, Done::Outcome { .. });
        let (admitted, rest): (Vec<_>, Vec<_>) = batch.into_iter().partition(ends);
        if let Some(spent) = &mut self.spent {
            refuse(rest, &cause, &mut spent.refused, &mut Vec::new());
        }
        admitted
    }
}

impl AuditLog {
    /// What is known of the room.
    pub fn room(&self) -> Room {
        let known = &self.health().room;
        Room {
            free: known.free.load(Ordering::Relaxed).checked_sub(1),
            reserve: known.left.load(Ordering::Relaxed),
        }
    }

    /// Asks the disk, which may take its time.
    pub fn look_at_room(&self) -> io::Result<u64> {
        let seen = free(&self.files().dir);
        let known = seen.as_ref().map_or(0, |free| free.saturating_add(1));
        self.health().room.free.store(known, Ordering::Relaxed);
        seen
    }
}

impl Writer {
    /// The disk is full: gives a piece of the reserve for what must be recorded now. False if there is none, or it is not that.
    pub(super) fn make_do(&mut self, error: &io::Error) -> bool {
        if !is_full(error) || lacks_names(&self.dir) {
            return false;
        }
        let given = self.reserve.give();
        if given && !self.reserve.is_spent() {
            tracing::error!(
                "the disk of the audit trail is full; calls are refused, what ends or makes room is recorded on the reserve"
            );
        }
        self.reserve.begin_on(format!("{}: {error}", self.path.display()).into());
        given
    }

    /// Lets calls go again, once the reserve is whole.
    pub(super) fn refill_if_due(&mut self) {
        let is_due = self.reserve.due().is_some_and(|due| due <= Instant::now());
        if !is_due || !matches!(self.state, State::Good(_)) {
            return;
        }
        if let Some((refused, cause)) = self.reserve.refill_now() {
            self.set_failed(None);
            tracing::warn!(refused, "there is room for the audit trail again; calls go on");
            self.tell_shortage(refused, &cause);
            // Not told: the next gap has them.
            if let State::Failed { refused: untold, .. } = &mut self.state {
                *untold = untold.saturating_add(refused);
            }
        }
    }

    /// What was refused while there was no room.
    pub(super) fn tell_shortage(&mut self, refused: u64, cause: &str) {
        self.write_own(text::encode(&Gap {
            reason: "disk_full",
            cause: Some(cause),
            durable_seq: self.position.tree.size().checked_sub(1),
            refused,
            open_count: self.open_count,
            open: Vec::new(),
            torn_bytes: 0,
            torn_sha256: None,
        }));
    }

    /// The last record, if need be on what is left of the reserve.
    pub(super) fn stop(&mut self) {
        for _attempt in 0..=PIECES {
            self.recover_if_due();
            if let Some((refused, cause)) =
                self.reserve.spent.as_ref().map(|it| (it.refused, Arc::clone(&it.cause)))
            {
                self.tell_shortage(refused, &cause);
                if let (State::Good(_), Some(spent)) = (&self.state, &mut self.reserve.spent) {
                    spent.refused = 0;
                }
            }
            self.write_own(text::encode(&Stop { open_count: self.open_count }));
            if let State::Good(_) = &self.state {
                break;
            }
        }
        self.make_more_room();
    }

    /// Another piece, where others have taken the last one: for the files beside the records.
    pub(super) fn make_more_room(&mut self) {
        if self.reserve.is_spent() && free(&self.dir).is_ok_and(|free| free < PIECE_BYTES_MIN / 2) {
            self.reserve.give();
        }
    }

    /// A checkpoint that found no room shows that the disk is full as well.
    pub(super) fn heed_checkpointer(&mut self) {
        let Some(error) = self.checkpointer.unwritten() else { return };
        let wait = if self.make_do(&error) { Duration::ZERO } else { RETRY_FIRST };
        if self.reserve.is_spent() {
            self.set_failed(self.reserve.cause().as_ref());
        }
        self.published = (0, Instant::now() + wait);
    }
}

impl Event<'_> {
    /// A guard cannot start, or an operator cannot act, without this record: it is written on the reserve of a full disk, too.
    pub(super) fn is_vital(&self) -> bool {
        match self {
            Self::Start { .. }
            | Self::Policy { .. }
            | Self::Blocked(_)
            | Self::Unblocked(_)
            | Self::SessionsEnded(_) => true,
            Self::ContextsCleared { uid, .. } => uid.is_some(),
            Self::Tool(change) => change.uid.is_some(),
            Self::Drift { .. }
            | Self::Listener { .. }
            | Self::IssuerKeys { .. }
            | Self::OtherPort { .. }
            | Self::SessionEnded { .. }
            | Self::Denied { .. } => false,
        }
    }
}

/// No room, or no more for this user.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Before a trail is opened on a full disk: what a crash left half done may have to be put right first, and that takes room.
pub(super) fn ease(dir: &Path) -> io::Result<()> {
    let path = dir.join(RESERVE_FILE);
    let left = match fs::symlink_metadata(&path) {
        // A name of another file, such as a segment's, is not cut.
        Ok(file) if file.is_file() && file.nlink() == 1 => file.len(),
        _ => return Ok(()),
    };
    let piece = (left / PIECES).max(PIECE_BYTES_MIN);
    if free(dir)? < piece {
        let file = open(&path)?;
        file.set_len(left.saturating_sub(piece))?;
        file.sync_all()?;
    }
    Ok(())
}

/// Whether it is names of files that there is no more room for: giving up bytes would not help.
fn lacks_names(dir: &Path) -> bool {
    nix::sys::statvfs::statvfs(dir).is_ok_and(|room| room.files() > 0 && room.files_available() == 0)
}

/// Bytes that are free on the disk of `dir`, for the guard's user.
pub(super) fn free(dir: &Path) -> io::Result<u64> {
    let room = nix::sys::statvfs::statvfs(dir)?;
    Ok(room.blocks_available().saturating_mul(room.fragment_size()))
}

fn open(path: &Path) -> io::Result<File> {
    let flags = nix::libc::O_NOFOLLOW;
    OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
}

/// Takes the room that `bytes` need.
fn allocate(file: &File, bytes: u64) -> io::Result<()> {
    let length = bytes.try_into().map_err(io::Error::other)?;
    match fallocate(file, FallocateFlags::empty(), 0, length) {
        Err(Errno::EOPNOTSUPP) => fill(file, bytes),
        done => Ok(done?),
    }
}

/// The same where the file system cannot: with what no file system makes small.
fn fill(mut file: &File, bytes: u64) -> io::Result<()> {
    let mut piece = vec![0; 64 * 1024];
    aws_lc_rs::rand::fill(&mut piece)
        .map_err(|_unspecified| io::Error::other("the system gives no random bytes"))?;
    let mut left = usize::try_from(bytes).map_err(io::Error::other)?;
    while left > 0 {
        let part = piece.get(..left.min(piece.len())).unwrap_or_default();
        file.write_all(part)?;
        left -= part.len();
    }
    Ok(())
}
