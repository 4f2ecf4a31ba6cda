//! The trail as its users see it, on a real directory, with a disk that fails when it is told to.

mod calls;
mod copies;
mod epochs;
mod export;
mod export_behind;
mod faults;
mod growth;
mod lag;
mod leftovers;
mod pruning;
mod recovery;
mod rotation;
mod story;
mod survey;

use std::path::Path;
use std::time::Duration;

use super::copies::Start;
use super::disk::Disk;
use super::{AuditLog, OpenError, Options, Outcome, OutcomeResult, Report, Retention, Verdict, verify};
use crate::config::Durability;

/// In memory where there is such a place: these tests sync thousands of times, and none is about the disk.
fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

pub(super) fn options(dir: &Path) -> Options {
    Options {
        dir: dir.join("audit"),
        host: "box 1".into(),
        durability: Durability::Durable,
        wait: Duration::from_secs(20),
        calls_in_flight_max: 64,
        calls_in_flight_per_agent_max: 64,
        retention: Retention { compress: false, reserve_bytes: 0, ..Retention::default() },
    }
}

fn open(dir: &Path) -> Result<AuditLog, OpenError> {
    AuditLog::open(options(dir))
}

fn open_on(options: Options, disk: impl Disk + 'static) -> AuditLog {
    AuditLog::open_on(options, Box::new(disk), &Start::default()).unwrap()
}

fn check(dir: &Path) -> Report {
    verify(&dir.join("audit"), None, None)
}

fn sound(dir: &Path) -> Report {
    let report = check(dir);
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.fault);
    super::schema::tests::follows(&records(dir));
    report
}

fn ok() -> Outcome {
    Outcome {
        status: Some(200),
        result: OutcomeResult::Ok,
        error_code: None,
        reason: None,
        response_bytes: 10,
        events: 0,
        duration: Duration::from_micros(1500),
    }
}

/// Every record of the trail, in order.
fn records(dir: &Path) -> Vec<serde_json::Value> {
    let mut all = Vec::new();
    for (_, path) in super::walk::segments(&dir.join("audit")).unwrap() {
        let mut lines = super::walk::Lines::open(&path).unwrap();
        while let Some(super::walk::Found::Line(line)) = lines.next().unwrap() {
            all.push(serde_json::from_slice(line).unwrap());
        }
    }
    all
}

fn kinds(dir: &Path) -> Vec<String> {
    records(dir).iter().map(|record| record["kind"].as_str().unwrap().to_owned()).collect()
}
