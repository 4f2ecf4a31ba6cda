//! A real full disk under the audit trail.

use std::fs;
use std::time::Duration;

use guard_tests::audit::call;
use guard_tests::small_disk::{fill, small_disk};
use mcp_guard::audit::{AuditError, AuditLog, Options, Outcome, Retention, Verdict, verify};
use mcp_guard::config::Durability;
use mcp_guard::types::DecisionId;

#[tokio::test]
async fn audit_enospc_tmpfs() {
    let dir = tempfile::tempdir().expect("a directory");
    if let Err(error) = small_disk(dir.path(), "256k") {
        assert!(std::env::var_os("GUARD_REQUIRE_PRIVILEGED").is_none(), "cannot mount a tmpfs: {error}");
        println!("skipped: cannot mount a tmpfs ({error}); this test needs root");
        return;
    }
    let audit = dir.path().join("audit");
    let open = || {
        AuditLog::open(Options {
            dir: audit.clone(),
            host: "test".into(),
            durability: Durability::Durable,
            wait: Duration::from_secs(30),
            calls_in_flight_max: 64,
            calls_in_flight_per_agent_max: 64,
            retention: Retention { compress: false, reserve_bytes: 0, ..Retention::default() },
        })
    };
    let log = open().expect("a new trail");
    let (mut through, mut refused) = (Vec::new(), Vec::new());
    let mut number = 0_u128;
    for round in 0..3 {
        let ballast = dir.path().join("ballast");
        fill(&ballast);
        let under_way = loop {
            number += 1;
            let id = DecisionId(number.to_be_bytes());
            match log.intend(&call(id)).await {
                Ok(permit) => {
                    through.push(permit.id().to_string());
                    permit.conclude(&Outcome::abandoned());
                }
                Err(AuditError::Failed(cause)) => {
                    refused.push(id.to_string());
                    break cause;
                }
                Err(error) => panic!("{error}"),
            }
            assert!(number < 10_000, "the disk never filled in round {round}");
        };
        assert!(under_way.contains("No space left"), "{under_way}");
        fs::remove_file(&ballast).expect("room");
        loop {
            number += 1;
            let id = DecisionId(number.to_be_bytes());
            match log.intend(&call(id)).await {
                Ok(permit) => {
                    through.push(permit.id().to_string());
                    permit.conclude(&Outcome::abandoned());
                    break;
                }
                Err(AuditError::Failed(_)) => refused.push(id.to_string()),
                Err(error) => panic!("{error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    log.close().await;
    let report = verify(&audit, None, None);
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.fault);
    assert_eq!(report.counts.calls, u64::try_from(through.len()).expect("small"));
    assert_eq!(report.counts.outcomes, report.counts.calls);
    assert!(report.counts.gaps >= 3 && report.segments >= 4, "{report:?}");

    let mut trail = String::new();
    for entry in fs::read_dir(&audit).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.extension().is_some_and(|extension| extension == "jsonl") {
            trail.push_str(&fs::read_to_string(path).expect("a segment"));
        }
    }
    assert!(through.iter().all(|id| trail.contains(id)));
    assert!(!refused.iter().any(|id| trail.contains(id)));
    // And it can be continued.
    open().expect("the trail is continued").close().await;
    assert_eq!(verify(&audit, None, None).verdict, Verdict::Sound);
    println!("{} calls let through, {} refused", through.len(), refused.len());
}
