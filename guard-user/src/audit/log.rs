//! The handle on the trail that the other stages hold, and the permit that it gives.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::{Semaphore, oneshot};

use super::ages::{self, Moment};
use super::archive::{Archive, Files};
use super::arguments::{DIGEST_KEY_FILE, Digester};
use super::checkpoint::Checkpointer;
use super::copies::Start;
use super::disk::{Disk, OsDisk, sync_dir};
use super::epoch::Epoch;
use super::error::{AuditError, OpenError};
use super::export::Lag;
use super::heartbeat::{Heartbeat, Occasion};
use super::inspected::Inspected;
use super::keys::Keys;
use super::note::{SigningKey, VerifierKey};
use super::prune;
use super::queue::{Append, Compose, Done};
use super::record::{self, CallRecord, Event, Genesis, Local, Outcome, Refusal};
use super::recover::{self, Recovered};
use super::reserve::{self, Known, Reserve};
use super::retention::Retention;
use super::rotate::{self, Current};
use super::slots::{Slot, Slots, UnderWay};
use super::walk::{NO_PREV, Walk, segment_name};
use super::writer::{Desk, PREFIX_BYTES_MAX, Position, State, Writer, lines};
use super::{CHECKPOINT_FILE, FORMAT, KEYS_FILE, LINE_BYTES_MAX, RESERVE_FILE, disk, key, text};
use crate::config::Durability;
use crate::service::Beat;
use crate::types::DecisionId;
use crate::velocity::Lease;

/// What a trail needs to know to begin or to go on.
#[derive(Debug, Clone)]
pub struct Options {
    pub dir: PathBuf,
    /// This host's name; part of a new trail's origin.
    pub host: String,
    pub durability: Durability,
    /// How long a call waits for its record (`limits.audit_wait_milliseconds`).
    pub wait: Duration,
    /// Calls between their record and their outcome (`limits.calls_in_flight_max`).
    pub calls_in_flight_max: usize,
    /// Of these, calls of one agent (`limits.calls_in_flight_per_agent_max`).
    pub calls_in_flight_per_agent_max: usize,
    pub retention: Retention,
}

/// The audit trail. Cheap to clone.
#[derive(Clone)]
pub struct AuditLog {
    shared: Arc<Shared>,
}

struct Shared {
    desk: Arc<Desk>,
    /// Calls and refusals have slots of their own: a flood of refusals must not use up those of calls.
    calls: Slots,
    refusals: Arc<Semaphore>,
    wait: Duration,
    verifier: VerifierKey,
    digester: Arc<Digester>,
    health: Arc<Health>,
    files: Arc<Files>,
}

/// How the writer is, for those who do not wait for it.
pub(super) struct Health {
    pub(super) records: AtomicU64,
    /// What the checkpoint's file covers.
    pub(super) signed: AtomicU64,
    keys: Mutex<Arc<Keys>>,
    pub(super) failed: Mutex<Option<Arc<str>>>,
    /// Why what was written is not signed.
    pub(super) unsigned: Mutex<Option<Arc<str>>>,
    /// Losses of records that operators accepted, by the records that were there when it was opened.
    pub(super) losses: AtomicU64,
    pub(super) room: Known,
    /// When the last record before this guard was written.
    pub(super) last_before: OnceLock<jiff::Timestamp>,
    pub(super) ages: Mutex<Option<Moment>>,
    /// In seconds.
    pub(super) ahead: AtomicU64,
    lags: Mutex<Vec<Lag>>,
}

/// The right to forward one call. Only a record on disk makes one.
///
/// It cannot be copied, and dropping it writes the outcome "abandoned":
///
/// ```compile_fail
/// fn forward_twice(permit: mcp_guard::audit::Permit) {
///     let other = permit.clone();
/// }
/// ```
///
/// ```compile_fail
/// let id = mcp_guard::types::DecisionId([0; 16]);
/// let permit = mcp_guard::audit::Permit { id, seq: 0, open: None, leases: Vec::new() };
/// ```
#[must_use = "a permit that is dropped records its call as abandoned"]
pub struct Permit {
    id: DecisionId,
    seq: u64,
    /// `None` once the outcome is on its way.
    open: Option<Ticket>,
    /// For the case that it is dropped.
    why: Why,
    /// The call is under way as long as this is there.
    leases: Vec<Lease>,
    /// What was found in its answers.
    found: Inspected,
}

/// Why the guard gives a call up. Told here by whoever decides it, while somebody else holds the call's permit. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Why(Arc<OnceLock<&'static str>>);

impl Why {
    /// The refusal's word. The first one counts.
    pub fn tell(&self, reason: &'static str) {
        let _known = self.0.set(reason);
    }
}

/// A call that holds a slot. The slot is free again when the outcome is written.
pub(super) struct Ticket {
    id: DecisionId,
    slot: Slot,
    shared: Arc<Shared>,
}

// === impl AuditLog ===

impl AuditLog {
    /// Begins or continues the trail in `options.dir`. Reads all of it first; blocks meanwhile.
    pub fn open(options: Options) -> Result<Self, OpenError> {
        Self::open_on(options, Box::new(OsDisk), &Start::default())
    }

    /// The same, if the trail is what `start` knows of it.
    pub fn open_known(options: Options, start: &Start) -> Result<Self, OpenError> {
        Self::open_on(options, Box::new(OsDisk), start)
    }

    pub(super) fn open_on(options: Options, disk: Box<dyn Disk>, start: &Start) -> Result<Self, OpenError> {
        let Options { dir, host, durability, wait, .. } = options;
        let (calls_max, per_agent_max) = (options.calls_in_flight_max, options.calls_in_flight_per_agent_max);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(OpenError::io(&dir))?;
        let lock = recover::lock(&dir)?;
        reserve::ease(&dir).map_err(OpenError::io(&dir.join(RESERVE_FILE)))?;
        let keys_path = dir.join(KEYS_FILE);
        let beside = |root| {
            Keys::beside(&dir, root).map_err(|error| match error.kind() {
                std::io::ErrorKind::InvalidData => {
                    OpenError::Tampered { file: keys_path.clone(), line: 0, reason: error.to_string() }
                }
                _ => OpenError::Io { path: keys_path.clone(), source: error },
            })
        };
        let keys = key::root(&dir)?.map(beside).transpose()?;
        let mut known = start.known(&dir, keys.as_ref()).map_err(OpenError::Rollback)?;
        // Before anything is made: what a start refuses stays as it was.
        let digester = Arc::new(Digester::open(&dir).map_err(OpenError::io(&dir.join(DIGEST_KEY_FILE)))?);
        let keys = match keys {
            Some(keys) => keys,
            None => beside(begin(&dir, &host)?.verifier().clone())?,
        };
        let mut recovered = recover::recover(&dir, &keys, &mut known)?;
        if recovered.is_none() {
            genesis(&dir, disk.as_ref(), &key::current(&dir, &keys)?, &host, durability)?;
            recovered = recover::recover(&dir, &keys, &mut known)?;
        }
        let gone = || OpenError::io(&dir)(std::io::ErrorKind::NotFound.into());
        let recovered = recovered.ok_or_else(gone)?;
        let keys = recovered.walk.keys.clone();
        let verifier = keys.root().clone();
        let key = Arc::new(key::current(&dir, &keys)?);
        let files = Arc::new(Files::new(dir.clone()));
        let health = Arc::new(Health::new(keys));
        let writer = resume((&files, durability, options.retention), disk, key, recovered, lock, &health)?;
        let shared_desk = Arc::new(Desk::new(writer));
        let theirs = Arc::clone(&shared_desk);
        thread::Builder::new()
            .name("audit-writer".into())
            .spawn(move || theirs.run())
            .map_err(OpenError::io(&dir))?;
        let calls = Slots::new(calls_max, per_agent_max);
        let refusals = Arc::new(Semaphore::new(calls_max.min(Semaphore::MAX_PERMITS)));
        let shared = Shared { desk: shared_desk, calls, refusals, wait, verifier, digester, health, files };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The first key of this trail, which vouches for all; its name is the trail's origin.
    pub fn verifier_key(&self) -> &VerifierKey {
        &self.shared.verifier
    }

    /// All keys of this trail.
    pub fn keys(&self) -> Arc<Keys> {
        self.shared.health.keys()
    }

    /// Records that the signed checkpoint covers.
    pub fn signed(&self) -> u64 {
        self.shared.health.signed.load(Ordering::Relaxed)
    }

    /// Makes the digests of arguments.
    pub fn digester(&self) -> &Digester {
        &self.shared.digester
    }

    /// Records written so far.
    pub fn records(&self) -> u64 {
        self.shared.health.records.load(Ordering::Relaxed)
    }

    /// Moves with each turn of the writer, which takes one soon after [`AuditLog::poke`] unless it is stuck.
    pub fn beat(&self) -> Beat {
        self.shared.desk.beat.clone()
    }

    /// Makes the writer take a turn.
    pub fn poke(&self) {
        self.shared.desk.queue.wake();
    }

    /// Who has how many calls between their record and their outcome.
    pub fn under_way(&self) -> BTreeMap<String, UnderWay> {
        self.shared.calls.under_way()
    }

    /// Why calls are refused now, if the trail cannot be written.
    pub fn failure(&self) -> Option<Arc<str>> {
        self.shared.health.failed.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes the record of an allowed call and waits until it is on disk, at most `Options::wait`.
    ///
    /// On an error the call must not be forwarded. Its record may still reach the trail; an outcome "abandoned"
    /// follows it then. The same holds if the returned future is dropped.
    pub async fn intend(&self, call: &CallRecord<'_>) -> Result<Permit, AuditError> {
        let shared = &*self.shared;
        // What the guard does on behalf of an agent must not fail because of the agent.
        let agent = call.agent.filter(|_| !matches!(call.local, Local::Guard));
        let slot = shared.calls.take(agent)?;
        let body = bounded(record::allowed(call))?;
        let ticket = Ticket { id: call.id, slot, shared: Arc::clone(&self.shared) };
        let (reply, answer) = oneshot::channel();
        let guest = call.guest.clone();
        shared.send(Append { guest, ..Append::new(body, Done::Call(ticket, reply)) })?;
        shared.in_time(async { answer.await.unwrap_or(Err(AuditError::Stopped)) }).await
    }

    /// Writes the record of a refused request and waits until it is on disk, at most `Options::wait`. Nothing
    /// follows it. Returns its number.
    pub async fn refuse(
        &self,
        call: &CallRecord<'_>,
        refusal: Refusal,
        http_status: u16,
    ) -> Result<u64, AuditError> {
        let shared = &*self.shared;
        let body = bounded(record::refused(call, refusal, http_status))?;
        shared
            .in_time(async {
                let slot = Arc::clone(&shared.refusals).acquire_owned().await;
                let slot = slot.map_err(|_closed| AuditError::Stopped)?;
                let (reply, answer) = oneshot::channel();
                let guest = call.guest.clone();
                shared.send(Append { guest, ..Append::new(body, Done::Note(Some(slot), reply)) })?;
                answer.await.unwrap_or(Err(AuditError::Stopped))
            })
            .await
    }

    /// Writes what happens to the guard itself, and waits until it is on disk. Returns the record's number.
    pub async fn note(&self, event: &Event<'_>) -> Result<u64, AuditError> {
        self.write(text::encode(event), event.is_vital()).await
    }

    /// Writes a heartbeat, whose counts `count` takes at the moment of its writing: each record before it is in the
    /// counts of [`Attendance`](crate::attendance::Attendance), none after it is. Returns the record's number.
    pub async fn heartbeat(
        &self,
        occasion: Occasion,
        count: impl FnOnce() -> Heartbeat + Send + 'static,
    ) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        let compose: Compose = Box::new(move || bounded(text::encode(&count())).ok());
        // Without those of a start and an end, a full disk would leave a time that nobody witnessed.
        let is_vital = occasion != Occasion::Interval;
        let note = Append::new(Vec::new(), Done::Note(None, reply));
        let append = Append { compose: Some(compose), is_vital, ..note };
        self.shared.send(append)?;
        self.shared.in_time(async { answer.await.unwrap_or(Err(AuditError::TooLong)) }).await
    }

    /// Writes a record whose body was encoded, and waits until it is on disk. Returns its number.
    pub(super) async fn write_own(
        &self,
        body: Result<Vec<u8>, serde_json::Error>,
    ) -> Result<u64, AuditError> {
        self.write(body, true).await
    }

    async fn write(
        &self,
        body: Result<Vec<u8>, serde_json::Error>,
        is_vital: bool,
    ) -> Result<u64, AuditError> {
        let (reply, answer) = oneshot::channel();
        self.shared.send(Append { is_vital, ..Append::new(bounded(body)?, Done::Note(None, reply)) })?;
        self.shared.in_time(async { answer.await.unwrap_or(Err(AuditError::Stopped)) }).await
    }

    pub(super) fn files(&self) -> &Arc<Files> {
        &self.shared.files
    }

    pub(super) fn health(&self) -> &Health {
        &self.shared.health
    }

    /// Writes the stop record and the last checkpoint, and frees the directory. Outcomes of calls still under
    /// way are lost; the next start names those calls.
    pub async fn close(self) {
        let (done, closed) = oneshot::channel();
        self.shared.desk.queue.close(Some(done));
        let _writer_gone = closed.await;
    }
}

impl Health {
    fn new(keys: Keys) -> Self {
        Self {
            records: AtomicU64::default(),
            signed: AtomicU64::default(),
            keys: Mutex::new(Arc::new(keys)),
            failed: Mutex::default(),
            unsigned: Mutex::default(),
            losses: AtomicU64::default(),
            room: Known::default(),
            last_before: OnceLock::new(),
            ages: Mutex::default(),
            ahead: AtomicU64::default(),
            lags: Mutex::default(),
        }
    }

    /// How far exports were behind, as of the last look.
    pub(super) fn lags(&self) -> std::sync::MutexGuard<'_, Vec<Lag>> {
        self.lags.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Another key signs from now on.
    pub(super) fn hand_over(&self, keys: &Keys) {
        *self.keys.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys.clone());
    }
}

impl Shared {
    fn send(&self, append: Append) -> Result<(), AuditError> {
        self.desk.queue.push(append)?;
        self.desk.pushed();
        Ok(())
    }

    /// What `work` gives, within the time that a call may wait for its record.
    async fn in_time<T>(&self, work: impl Future<Output = Result<T, AuditError>>) -> Result<T, AuditError> {
        let result = tokio::time::timeout(self.wait, work).await;
        result.unwrap_or(Err(AuditError::TimedOut(self.wait)))
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.desk.queue.close(None);
    }
}

// === impl Permit ===

impl Permit {
    pub(super) fn new(ticket: Ticket, seq: u64) -> Self {
        Self {
            id: ticket.id,
            seq,
            open: Some(ticket),
            why: Why::default(),
            leases: Vec::new(),
            found: Inspected::default(),
        }
    }

    /// The call is answered by a stream of events.
    pub fn streams(&mut self) {
        if let Some(Ticket { slot, .. }) = &mut self.open {
            slot.streams();
        }
    }

    /// If it is dropped, its closing record says why.
    pub fn heeding(self, why: &Why) -> Self {
        let mut permit = self;
        permit.why = why.clone();
        permit
    }

    /// Holds `leases` until the call has ended, whatever becomes of it.
    pub fn keep(mut self, leases: Vec<Lease>) -> Self {
        self.leases = leases;
        self
    }

    /// Its closing record tells what is found in its answers.
    pub fn telling(mut self, found: &Inspected) -> Self {
        self.found = found.clone();
        if let Some(Ticket { shared, .. }) = &self.open {
            self.found.digests_with(&shared.digester);
        }
        self
    }

    /// The call's decision id.
    pub fn id(&self) -> DecisionId {
        self.id
    }

    /// The number of the call's record.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// Records how the call ended. Does not wait, and always finds room.
    pub fn conclude(mut self, outcome: &Outcome) {
        self.close(outcome);
    }

    fn close(&mut self, outcome: &Outcome) {
        let Some(Ticket { slot, shared, .. }) = self.open.take() else { return };
        match record::closing((self.id, self.seq), outcome, self.found.told().as_ref(), self.found.digest()) {
            Ok(body) => {
                // A later call finds a free slot, or has this one written along with its own record.
                let is_last = shared.calls.is_last(&slot);
                shared.desk.queue.push_outcome(Append::new(body, Done::Outcome { slot: Some(slot) }));
                if is_last {
                    shared.desk.queue.wake();
                }
            }
            Err(error) => tracing::error!(id = %self.id, %error, "an outcome could not be encoded"),
        }
    }
}

impl std::fmt::Debug for Permit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permit").field("id", &self.id).field("seq", &self.seq).finish_non_exhaustive()
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let reason = self.why.0.get().copied();
        self.close(&Outcome { reason, ..Outcome::abandoned() });
    }
}

fn bounded(body: Result<Vec<u8>, serde_json::Error>) -> Result<Vec<u8>, AuditError> {
    match body {
        Ok(body) if body.len() + PREFIX_BYTES_MAX <= LINE_BYTES_MAX => Ok(body),
        _ => Err(AuditError::TooLong),
    }
}

/// The key of a new trail. Segments without a key are somebody's trail already.
fn begin(dir: &Path, host: &str) -> Result<SigningKey, OpenError> {
    let segments = super::walk::segments(dir).map_err(OpenError::io(dir))?;
    if let Some((_, file)) = segments.into_iter().next() {
        let reason = format!("there are records but no `{}` in the directory", super::VERIFIER_KEY_FILE);
        return Err(OpenError::Tampered { file, line: 0, reason });
    }
    let mut chain = [0; 8];
    aws_lc_rs::rand::fill(&mut chain).map_err(|_unspecified| {
        OpenError::io(dir)(std::io::Error::other("the system gives no random bytes"))
    })?;
    let host: String = host
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_') { c } else { '-' })
        .take(64)
        .collect();
    let host = if host.is_empty() { "localhost" } else { &host };
    key::make(dir, &format!("{host}/mcp-guard/{}", hex::encode(chain)))
}

/// Writes the first record and its checkpoint.
fn genesis(
    dir: &Path,
    disk: &dyn Disk,
    key: &SigningKey,
    host: &str,
    durability: Durability,
) -> Result<(), OpenError> {
    let origin = key.verifier().name();
    let chain = origin.rsplit('/').next().unwrap_or_default();
    let body = text::encode(&Genesis { format: FORMAT, chain, host, origin, durability });
    let path = dir.join(segment_name(0));
    let body = body.map_err(|error| OpenError::io(&path)(error.into()))?;
    let start = Position { tree: super::merkle::Tree::default(), prev: NO_PREV, bytes: 0 };
    let (line, position) = lines(&start, std::iter::once(body.as_slice()), jiff::Timestamp::now());
    let segment = disk.create(&path).map_err(OpenError::io(&path))?;
    segment.append(&line).and_then(|()| segment.sync()).map_err(OpenError::io(&path))?;
    sync_dir(dir).map_err(OpenError::io(dir))?;
    sign(dir, key, &position)
}

fn sign(dir: &Path, key: &SigningKey, position: &Position) -> Result<(), OpenError> {
    let note = key.checkpoint(position.tree.size(), position.tree.root());
    disk::replace(dir, CHECKPOINT_FILE, note.as_bytes())
        .map_err(OpenError::io(&dir.join(CHECKPOINT_FILE)))?;
    sync_dir(dir).map_err(OpenError::io(dir))
}

/// The writer at the end of what was recovered, after a record of what that end lacks.
fn resume(
    (files, durability, retention): (&Arc<Files>, Durability, Retention),
    disk: Box<dyn Disk>,
    key: Arc<SigningKey>,
    recovered: Recovered,
    lock: fs::File,
    health: &Arc<Health>,
) -> Result<Writer, OpenError> {
    let dir = files.dir.as_path();
    let gaps = recovered.gaps();
    let Recovered { walk, path, first, bytes, losses, .. } = recovered;
    let Walk { tree, prev, pruned, keys, counts, .. } = walk;
    let losses = counts.losses.saturating_add(u64::try_from(losses.len()).unwrap_or(u64::MAX));
    health.losses.store(losses, Ordering::Relaxed);
    let reserve = Reserve::open(dir, retention.reserve_bytes, health)
        .map_err(OpenError::io(&dir.join(RESERVE_FILE)))?;
    if let Some(time) = ages::last_time(&path, bytes).map_err(OpenError::io(&path))? {
        let _first_to_know = health.last_before.set(time);
    }
    let clock = disk.now();
    let segment = disk.open(&path).map_err(OpenError::io(&path))?;
    let mut position = Position { tree, prev, bytes };
    for body in gaps {
        let body = body.map_err(|error| OpenError::io(&path)(error.into()))?;
        let (line, after) = lines(&position, std::iter::once(body.as_slice()), jiff::Timestamp::now());
        segment.append(&line).map_err(OpenError::io(&path))?;
        position = after;
    }
    segment.sync().map_err(OpenError::io(&path))?;
    sign(dir, &key, &position)?;
    let size = position.tree.size();
    health.records.store(size, Ordering::Relaxed);
    health.signed.store(size, Ordering::Relaxed);
    if let Some(pruned) = &pruned {
        // What a guard that was killed has not come to.
        prune::remove(dir, pruned.to, &files.alone, &files.stops).map_err(OpenError::io(dir))?;
    }
    let now = Instant::now();
    let age = rotate::age(&path).map_err(OpenError::io(&path))?;
    let current = Current::new(first, age, (retention.segment_bytes, retention.segment_age));
    let began = rotate::first_began(dir).map_err(OpenError::io(dir))?;
    let epoch = Epoch::new(keys, began, retention.key_epoch);
    let archive = Archive::spawn(Arc::clone(files), retention, first).map_err(OpenError::io(dir))?;
    Ok(Writer {
        checkpointer: Checkpointer::spawn(dir.to_owned(), Arc::clone(health)).map_err(OpenError::io(dir))?,
        dir: dir.to_owned(),
        disk,
        durability,
        key,
        durable: position.clone(),
        unsynced: Vec::new(),
        position,
        path,
        state: State::Good(segment),
        open_count: 0,
        health: Arc::clone(health),
        published: (size, now),
        embedded: (size, now),
        current,
        epoch,
        archive,
        reserve,
        clock,
        _lock: lock,
    })
}
