//! A real full disk under a trail with a reserve: what ends and what makes room is still recorded.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use guard_tests::audit::call;
use guard_tests::small_disk::{fill, small_disk};
use mcp_guard::audit::{
    AuditError, AuditLog, BootMoment, Cause, Event, Heartbeat, Occasion, Options, Outcome, Pruning,
    Retention, TookEffect, Verdict, verify,
};
use mcp_guard::config::Durability;
use mcp_guard::rules::Digests;
use mcp_guard::types::DecisionId;
use serde_json::Value;

const RESERVE: u64 = 512 * 1024;

struct Disk {
    dir: tempfile::TempDir,
    number: u128,
}

impl Disk {
    /// `None`: this host cannot have one.
    fn new() -> Option<Self> {
        let dir = tempfile::tempdir().expect("a directory");
        if let Err(error) = small_disk(dir.path(), "4m") {
            assert!(std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(), "cannot mount a tmpfs: {error}");
            println!("skipped: cannot mount a tmpfs ({error}); this test needs root");
            return None;
        }
        Some(Self { dir, number: 0 })
    }

    fn audit(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn ballast(&self) -> PathBuf {
        self.dir.path().join("ballast")
    }

    fn retention() -> Retention {
        Retention {
            compress: false,
            segment_bytes: 64 * 1024,
            keep_bytes: Some(128 * 1024),
            reserve_bytes: RESERVE,
            ..Retention::default()
        }
    }

    fn open(&self, durability: Durability) -> AuditLog {
        AuditLog::open(Options {
            dir: self.audit(),
            host: "test".into(),
            durability,
            wait: Duration::from_secs(30),
            calls_in_flight_max: 64,
            calls_in_flight_per_agent_max: 64,
            retention: Self::retention(),
        })
        .expect("a trail")
    }

    /// One call.
    async fn call(&mut self, log: &AuditLog) -> Result<(), AuditError> {
        self.number += 1;
        let permit = log.intend(&call(DecisionId(self.number.to_be_bytes()))).await?;
        permit.conclude(&Outcome::abandoned());
        Ok(())
    }

    /// Calls until one is refused, on a disk that others fill.
    async fn until_full(&mut self, log: &AuditLog) -> AuditError {
        fill(&self.ballast());
        loop {
            match self.call(log).await {
                Ok(()) => assert!(self.number < 20_000, "the disk never filled"),
                Err(error) => return error,
            }
        }
    }

    /// Calls until one goes again; how many did not.
    async fn until_through(&mut self, log: &AuditLog) -> u64 {
        for refused in 0..600 {
            match self.call(log).await {
                Ok(()) => return refused,
                Err(AuditError::Failed(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
                Err(error) => panic!("{error}"),
            }
        }
        panic!("no call goes again: {:?}", log.failure());
    }

    fn records(&self) -> Vec<Value> {
        let mut segments: Vec<PathBuf> = fs::read_dir(self.audit())
            .expect("a directory")
            .map(|entry| entry.expect("an entry").path())
            .collect();
        segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
        segments.sort();
        let text = segments.iter().map(|path| fs::read_to_string(path).expect("a segment"));
        text.collect::<String>().lines().map(|line| serde_json::from_str(line).expect("a record")).collect()
    }

    fn of_kind(&self, kind: &str) -> Vec<Value> {
        self.records().into_iter().filter(|record| record["kind"] == kind).collect()
    }
}

fn reserve(audit: &Path) -> u64 {
    fs::metadata(audit.join("reserve")).expect("the reserve").len()
}

fn by_rule() -> Pruning {
    Pruning { bytes: Disk::retention().keep_bytes, ..Pruning::default() }
}

fn start() -> Event<'static> {
    Event::Start {
        version: "1",
        pid: 1,
        durability: Durability::Durable,
        digest_key: "0123456789abcdef",
        config: "",
        schema: 1,
        moment: BootMoment::now(),
    }
}

#[tokio::test]
async fn on_a_full_disk_calls_are_refused_and_go_again_once_the_rule_has_removed_what_is_old() {
    full_and_pruned(Durability::Durable).await;
}

#[tokio::test]
async fn so_they_do_where_records_are_not_synced() {
    full_and_pruned(Durability::Os).await;
}

async fn full_and_pruned(durability: Durability) {
    let Some(mut disk) = Disk::new() else { return };
    let log = disk.open(durability);
    assert_eq!(reserve(&disk.audit()), RESERVE);
    while log.records() < 2_000 {
        disk.call(&log).await.expect("room");
    }
    let under_way = log.intend(&call(DecisionId([7; 16]))).await.expect("room");
    let refused = disk.until_full(&log).await;
    assert!(matches!(&refused, AuditError::Failed(cause) if cause.contains("No space left")), "{refused}");
    // Whatever others take of what is given up, there is more of it.
    for _round in 0..3 {
        tokio::time::sleep(Duration::from_millis(300)).await;
        fill(&disk.ballast());
        assert!(matches!(disk.call(&log).await, Err(AuditError::Failed(_))));
    }
    assert!(log.failure().is_some_and(|cause| cause.contains("audit.reserve_bytes")), "{:?}", log.failure());
    under_way.conclude(&Outcome::abandoned());
    assert!(reserve(&disk.audit()) < RESERVE);
    let digests = Digests::default();
    let took_effect = TookEffect { digest: "ab", text: None, cause: Cause::Signal, digests: &digests };
    log.note(&Event::Policy(took_effect)).await.expect("an operator's word is recorded");

    let removal = log.prune(by_rule()).await.expect("there is room for its record").expect("something goes");
    assert!(removal.files > 3, "{removal:?}");
    let refused = disk.until_through(&log).await;
    assert_eq!((reserve(&disk.audit()), log.failure()), (RESERVE, None));
    log.close().await;

    let report = verify(&disk.audit(), None, None);
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.fault);
    let gaps = disk.of_kind("gap");
    let told: Vec<_> = gaps.iter().map(|gap| gap["reason"].as_str().expect("a reason")).collect();
    assert_eq!(told.last(), Some(&"disk_full"), "{told:?}");
    assert!(told.contains(&"write_failed"), "{told:?}");
    let counted: u64 = gaps.iter().filter_map(|gap| gap["refused"].as_u64()).sum();
    assert_eq!(counted, 1 + 3 + refused, "{gaps:?}");
    assert_eq!(disk.of_kind("outcome").len() as u64, report.counts.outcomes);
    assert_eq!(report.open_calls, 0);
    assert_eq!(disk.of_kind("pruned")[0]["cause"], "policy");
}

#[tokio::test]
async fn a_guard_stops_and_starts_on_a_full_disk_and_prunes_by_rule_then() {
    let Some(mut disk) = Disk::new() else { return };
    let log = disk.open(Durability::Durable);
    while log.records() < 2_000 {
        disk.call(&log).await.expect("room");
    }
    disk.until_full(&log).await;
    fill(&disk.ballast());
    log.close().await;
    assert_eq!(disk.records().last().expect("a record")["kind"], "stop");
    assert_eq!(disk.of_kind("gap").last().expect("a gap")["reason"], "disk_full");
    let report = verify(&disk.audit(), None, None);
    assert_eq!((report.verdict, report.unsigned_records), (Verdict::Sound, 0), "{:?}", report.fault);

    for _life in 0..2 {
        fill(&disk.ballast());
        let log = disk.open(Durability::Durable);
        log.note(&start()).await.expect("the start is recorded");
        assert!(
            matches!(disk.call(&log).await, Err(AuditError::Failed(_))),
            "nothing is kept for what comes next"
        );
        log.close().await;
    }
    fill(&disk.ballast());
    let log = disk.open(Durability::Durable);
    log.note(&start()).await.expect("the start is recorded");
    log.prune(by_rule()).await.expect("there is room for its record").expect("something goes");
    disk.until_through(&log).await;
    log.close().await;
    assert_eq!(verify(&disk.audit(), None, None).verdict, Verdict::Sound);
    assert_eq!(reserve(&disk.audit()), RESERVE);
}

#[tokio::test]
async fn a_guard_starts_on_a_full_disk_where_a_crash_left_a_write_half_done() {
    let Some(mut disk) = Disk::new() else { return };
    let log = disk.open(Durability::Durable);
    while log.records() < 200 {
        disk.call(&log).await.expect("room");
    }
    log.close().await;
    let mut segments: Vec<_> =
        fs::read_dir(disk.audit()).expect("a directory").map(|entry| entry.expect("one").path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "jsonl"));
    segments.sort();
    let last = segments.last().expect("a segment");
    File::options().append(true).open(last).and_then(|mut file| file.write_all(b"{\"seq\":")).expect("room");
    fill(&disk.ballast());

    let log = disk.open(Durability::Durable);
    log.note(&start()).await.expect("the start is recorded");
    let beat = |occasion| {
        move || Heartbeat { occasion, moment: BootMoment::now(), servers: Vec::new(), host: BTreeMap::new() }
    };
    log.heartbeat(Occasion::Start, beat(Occasion::Start)).await.expect("its heartbeat is");
    assert!(log.heartbeat(Occasion::Interval, beat(Occasion::Interval)).await.is_err());
    log.heartbeat(Occasion::Stop, beat(Occasion::Stop)).await.expect("the last one is");
    log.close().await;
    let report = verify(&disk.audit(), None, None);
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.fault);
    assert_eq!(disk.of_kind("heartbeat").len(), 2);
}
