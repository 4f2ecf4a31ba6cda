//! A disk that refuses, stalls or tears.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};

use super::*;
use crate::audit::clock::Moment;
use crate::audit::disk::{OsDisk, Segment};
use crate::audit::record::tests::call;
use crate::audit::{AuditError, Refusal};

#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fault of its own")]
pub(super) struct Mood {
    pub(super) full: bool,
    /// Bytes of the next failing write that still get through.
    torn_bytes: usize,
    pub(super) create_fails: bool,
    pub(super) sync_fails: bool,
    stuck: bool,
    /// What the host's clock was set ahead by, in milliseconds.
    ahead: i64,
    /// Writes that met a stuck disk.
    held: usize,
}

#[derive(Clone, Default)]
pub(super) struct Faulty {
    mood: Arc<(Mutex<Mood>, Condvar)>,
}

impl Faulty {
    pub(super) fn set(&self, change: impl FnOnce(&mut Mood)) {
        change(&mut self.mood.0.lock().unwrap());
        self.mood.1.notify_all();
    }
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn Segment>> {
        if self.mood.0.lock().unwrap().create_fails {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(Arc::new(FaultySegment { real: OsDisk.create(path)?, disk: self.clone() }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Segment>> {
        Ok(Arc::new(FaultySegment { real: OsDisk.open(path)?, disk: self.clone() }))
    }

    fn now(&self) -> Moment {
        let (now, ahead) = (Moment::now(), self.mood.0.lock().unwrap().ahead);
        Moment { time: now.time + jiff::SignedDuration::from_millis(ahead), ..now }
    }
}

struct FaultySegment {
    real: Arc<dyn Segment>,
    disk: Faulty,
}

impl Segment for FaultySegment {
    fn append(&self, bytes: &[u8]) -> io::Result<()> {
        let mut mood = self.disk.mood.0.lock().unwrap();
        mood.held += usize::from(mood.stuck);
        let mood = self.disk.mood.1.wait_while(mood, |mood| mood.stuck).unwrap();
        if mood.full {
            self.real.append(&bytes[..mood.torn_bytes.min(bytes.len())])?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.real.append(bytes)
    }

    fn sync(&self) -> io::Result<()> {
        if self.disk.mood.0.lock().unwrap().sync_fails {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.real.sync()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.real.truncate(bytes)
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    crate::audit::walk::segments(&dir.join("audit")).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// Calls until one is let through again.
async fn until_written(log: &AuditLog, number: u8) -> u64 {
    loop {
        match log.intend(&call(number)).await {
            Ok(permit) => {
                let refused = permit.seq();
                permit.conclude(&ok());
                return refused;
            }
            Err(AuditError::Failed(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_calls_loses_no_outcome_and_recovers_with_a_gap() {
    let durable = [0, 1, 300].map(|torn_bytes| (Durability::Durable, torn_bytes));
    for (durability, torn_bytes) in durable.into_iter().chain([(Durability::Os, 0), (Durability::Os, 300)]) {
        let dir = tempdir();
        let disk = Faulty::default();
        let log = open_on(Options { durability, ..options(dir.path()) }, disk.clone());
        let under_way = log.intend(&call(1)).await.unwrap();
        disk.set(|mood| (mood.full, mood.torn_bytes) = (true, torn_bytes));
        assert!(matches!(log.intend(&call(2)).await, Err(AuditError::Failed(_))));
        assert!(log.failure().is_some_and(|cause| cause.contains("no storage space")));
        under_way.conclude(&ok());
        assert!(matches!(log.refuse(&call(3), Refusal::Deny, 200).await, Err(AuditError::Failed(_))));
        disk.set(|mood| mood.full = false);
        until_written(&log, 4).await;
        assert_eq!(log.failure(), None);
        assert!(log.records() >= 5);
        log.close().await;

        assert_eq!(
            kinds(dir.path()),
            ["genesis", "call", "checkpoint", "gap", "outcome", "call", "outcome", "stop"]
        );
        let gap = &records(dir.path())[3];
        let durable_seq = (durability == Durability::Durable).then_some(1);
        assert_eq!((&gap["reason"], gap["durable_seq"].as_u64()), (&"write_failed".into(), durable_seq));
        assert!(gap["refused"].as_u64().unwrap() >= 2, "{gap}");
        assert_eq!(segments(dir.path()).len(), 2);
        sound(dir.path());
    }
}

#[tokio::test]
async fn an_outcome_owed_when_the_guard_stops_is_written_if_the_disk_allows() {
    for still_full in [false, true] {
        let dir = tempdir();
        let disk = Faulty::default();
        let log = open_on(options(dir.path()), disk.clone());
        let under_way = log.intend(&call(1)).await.unwrap();
        disk.set(|mood| mood.full = true);
        assert!(log.intend(&call(2)).await.is_err());
        under_way.conclude(&ok());
        disk.set(|mood| mood.full = still_full);
        log.close().await;
        open(dir.path()).unwrap().close().await;
        let expected: &[_] = if still_full {
            &["genesis", "call", "gap", "stop"]
        } else {
            &["genesis", "call", "checkpoint", "gap", "outcome", "stop", "stop"]
        };
        assert_eq!(kinds(dir.path()), expected);
        sound(dir.path());
    }
}

#[tokio::test]
async fn an_outcome_whose_sync_fails_later_is_written_again() {
    let dir = tempdir();
    let disk = Faulty::default();
    let log = open_on(options(dir.path()), disk.clone());
    let permit = log.intend(&call(1)).await.unwrap();
    disk.set(|mood| mood.sync_fails = true);
    permit.conclude(&ok());
    assert!(matches!(log.intend(&call(2)).await, Err(AuditError::Failed(_))));
    disk.set(|mood| mood.sync_fails = false);
    until_written(&log, 3).await;
    log.close().await;
    assert_eq!(
        kinds(dir.path()),
        ["genesis", "call", "checkpoint", "gap", "outcome", "call", "outcome", "stop"]
    );
    sound(dir.path());
}

#[tokio::test]
async fn a_failed_sync_retires_the_segment_though_the_next_sync_would_succeed() {
    let dir = tempdir();
    let disk = Faulty::default();
    let log = open_on(options(dir.path()), disk.clone());
    disk.set(|mood| mood.sync_fails = true);
    assert!(matches!(log.intend(&call(1)).await, Err(AuditError::Failed(_))));
    disk.set(|mood| mood.sync_fails = false);
    until_written(&log, 2).await;
    log.close().await;
    // Call 1 was never answered for: it is in no segment.
    assert_eq!(kinds(dir.path()), ["genesis", "checkpoint", "gap", "call", "outcome", "stop"]);
    assert_eq!(segments(dir.path()).len(), 2);
    sound(dir.path());
}

#[tokio::test]
async fn a_stuck_disk_gives_no_permit_and_an_answer_within_the_deadline() {
    let dir = tempdir();
    let disk = Faulty::default();
    let wait = Duration::from_millis(100);
    let log = open_on(Options { wait, ..options(dir.path()) }, disk.clone());
    disk.set(|mood| mood.stuck = true);
    assert_eq!(log.intend(&call(1)).await.err(), Some(AuditError::TimedOut(wait)));
    assert_eq!(log.refuse(&call(2), Refusal::Deny, 200).await, Err(AuditError::TimedOut(wait)));
    // A caller that is dropped while it waits.
    let third = call(3);
    tokio::select! {
        biased;
        _ = log.intend(&third) => panic!("a permit from a stuck disk"),
        () = tokio::time::sleep(Duration::from_millis(10)) => {}
    }
    disk.set(|mood| mood.stuck = false);
    // `close` stands behind the records above, but the "abandoned" of the last batch may come after it.
    while sound_kinds(dir.path()).iter().filter(|kind| *kind == "outcome").count() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    log.close().await;
    for outcome in records(dir.path()).iter().filter(|record| record["kind"] == "outcome") {
        assert_eq!(outcome["result"], "abandoned");
    }
    let report = sound(dir.path());
    assert_eq!((report.counts.calls, report.counts.outcomes, report.counts.refusals), (2, 2, 1));
}

/// Without syncs a call writes its own record. One thread may be stuck with the disk; no other call waits for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_stuck_in_a_write_holds_one_call_and_refuses_the_others_in_time() {
    let dir = tempdir();
    let disk = Faulty::default();
    let wait = Duration::from_millis(100);
    let log = open_on(Options { wait, durability: Durability::Os, ..options(dir.path()) }, disk.clone());
    disk.set(|mood| mood.stuck = true);
    let theirs = log.clone();
    let held = tokio::spawn(async move { theirs.refuse(&call(1), Refusal::Deny, 200).await });
    while disk.mood.0.lock().unwrap().held == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(log.intend(&call(2)).await.err(), Some(AuditError::TimedOut(wait)));
    disk.set(|mood| mood.stuck = false);
    held.await.unwrap().unwrap();
    log.close().await;
    assert_eq!(kinds(dir.path()), ["genesis", "call", "call", "outcome", "stop"]);
}

/// Kinds of the whole lines so far.
fn sound_kinds(dir: &Path) -> Vec<String> {
    let path = &segments(dir)[0];
    let text = std::fs::read_to_string(path).unwrap();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].as_str().unwrap().to_owned()
        })
        .collect()
}

#[tokio::test]
async fn a_step_of_the_hosts_clock_is_told_before_what_comes_after_it() {
    let (dir, disk) = (tempdir(), Faulty::default());
    let log = open_on(options(dir.path()), disk.clone());
    log.refuse(&call(1), Refusal::Deny, 403).await.unwrap();
    disk.set(|mood| mood.ahead = 3_600_000);
    log.refuse(&call(2), Refusal::Deny, 403).await.unwrap();
    // Told once, and not while nothing can be told.
    disk.set(|mood| (mood.ahead, mood.full) = (-5_000, true));
    assert!(log.refuse(&call(3), Refusal::Deny, 403).await.is_err());
    disk.set(|mood| mood.full = false);
    while log.failure().is_some() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    log.refuse(&call(4), Refusal::Deny, 403).await.unwrap();
    log.close().await;
    let told: Vec<_> = records(dir.path())
        .iter()
        .filter(|record| record["kind"] == "call" || record["kind"] == "clock")
        .map(|record| record["by_milliseconds"].as_i64().map_or(0, |by| (by + 50).div_euclid(100) * 100))
        .collect();
    assert_eq!(told, [0, 3_600_000, 0, -3_605_000, 0]);
    sound(dir.path());
}
