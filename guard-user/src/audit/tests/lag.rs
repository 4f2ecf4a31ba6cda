//! How far exports are behind, as the guard tells it.

use std::fs;
use std::time::Instant;

use jiff::Timestamp;

use super::rotation::{calls, files, key, small, until_packed};
use super::*;
use crate::audit::{Export, Format, Lag, Retention};

/// After so many records, at least.
fn cursor(dir: &Path, records: u64) -> u64 {
    let mut export = Export::open(&dir.join("audit"), &key(dir), None, (Format::Json, false)).unwrap();
    let started = Instant::now();
    let mut reached = 0;
    while reached < records {
        assert!(started.elapsed() < Duration::from_secs(20));
        let Some(batch) = export.batch_of(7).unwrap() else { continue };
        reached += batch.lines.len() as u64;
        batch.cursor.write(&dir.join("cursor")).unwrap();
    }
    reached
}

async fn until_signed(log: &AuditLog) {
    let started = Instant::now();
    while log.signed() < log.records() {
        assert!(started.elapsed() < Duration::from_secs(20));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn the_guard_tells_how_many_records_wait_for_an_export_and_since_when_in_packed_files_too() {
    for (compress, segment_bytes) in [(true, 20_000), (false, 64 * 1024 * 1024)] {
        let dir = tempdir();
        let options = small(dir.path(), compress);
        let retention = Retention { segment_bytes, ..options.retention.clone() };
        let log = AuditLog::open(Options { retention, ..options }).unwrap();
        // More than what is read line by line.
        calls(&log, 200).await;
        calls(&log, 200).await;
        if compress {
            until_packed(dir.path());
        }
        until_signed(&log).await;
        assert_eq!(files(dir.path()).len() > 3, compress);
        let cursors = [dir.path().join("cursor"), dir.path().join("other")];
        log.look_at_exports(&cursors);
        let problem = |lag: &Lag| lag.problem.as_deref().is_some_and(|it| it.contains("no such cursor"));
        assert!(log.exports().iter().all(|lag| problem(lag) && lag.records.is_none()), "{:?}", log.exports());

        for at in [1, 90, 333, log.signed()] {
            let reached = cursor(dir.path(), at);
            log.look_at_exports(&cursors[..1]);
            let told = log.exports().remove(0);
            assert_eq!((told.records, &told.problem), (Some(log.signed() - reached), &None));
            let found = search_time(dir.path(), reached);
            assert_eq!(told.oldest, found, "behind {reached}");
            let later = Timestamp::now() + jiff::SignedDuration::from_secs(90);
            let seconds = told.seconds(later).unwrap();
            assert_eq!(seconds >= 90, found.is_some(), "{seconds}");
        }
        fs::write(&cursors[1], "{}").unwrap();
        log.look_at_exports(&cursors);
        assert!(log.exports()[1].problem.as_deref().is_some_and(|it| it.contains("not a cursor")));
        log.close().await;
    }
}

/// Read from the beginning on.
fn search_time(dir: &Path, seq: u64) -> Option<Timestamp> {
    let mut export = Export::open(&dir.join("audit"), &key(dir), None, (Format::Json, false)).unwrap();
    while let Some(batch) = export.batch().unwrap() {
        for line in batch.lines {
            let record: serde_json::Value = serde_json::from_str(&line).unwrap();
            if record["seq"] == seq {
                return record["time"].as_str().unwrap().parse().ok();
            }
        }
    }
    None
}
