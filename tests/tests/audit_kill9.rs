//! A guard that is killed while it writes.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use mcp_guard::audit::{AuditLog, Options, Retention, Verdict, verify};
use mcp_guard::config::Durability;

const KILLS: u64 = 20;

/// Acknowledged calls, by id.
type Acknowledged = HashMap<String, u64>;

/// Starts a writer, reads `count` acknowledgements, kills it, and reads those that it had still printed.
fn run_and_kill(dir: &Path, run: u64, count: usize, durability: Durability, all: &mut Acknowledged) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_audit-writer"));
    command.arg(dir).args(["--run", &run.to_string()]).stdout(Stdio::piped());
    if durability == Durability::Os {
        command.arg("--os");
    }
    let mut child = command.spawn().expect("the writer starts");
    let mut lines = BufReader::new(child.stdout.take().expect("its output is a pipe")).lines();
    let mut take = |line: String| {
        let (seq, id) = line.split_once(' ').expect("seq and id");
        all.insert(id.to_owned(), seq.parse().expect("a number"));
    };
    for _ in 0..count {
        take(lines.next().expect("it writes on").expect("a readable pipe"));
    }
    child.kill().expect("SIGKILL");
    child.wait().expect("its end");
    for line in lines {
        take(line.expect("a readable pipe"));
    }
}

async fn killed_again_and_again(durability: Durability) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = Acknowledged::new();
    for run in 0..KILLS {
        // Near the start, in the middle of batches, and across checkpoints and checkpoint records.
        let count = 1 + usize::try_from(run * run).expect("small");
        run_and_kill(dir.path(), run, count, durability, &mut acknowledged);
    }
    let log = AuditLog::open(Options {
        dir: dir.path().to_owned(),
        host: "test".into(),
        durability,
        wait: Duration::from_secs(30),
        calls_in_flight_max: 1,
        calls_in_flight_per_agent_max: 1,
        retention: Retention::default(),
    })
    .expect("the trail is continued after every kill");
    log.close().await;

    let report = verify(dir.path(), None, None);
    assert_eq!(report.verdict, Verdict::Sound, "{:?}", report.fault);
    assert_eq!((report.open_calls, report.unsigned_records), (0, 0));
    assert_eq!(report.counts.calls, report.counts.outcomes + report.counts.lost_outcomes);

    let trail = std::fs::read_to_string(dir.path().join("00000000000000000000.jsonl")).expect("one segment");
    let mut calls = HashMap::new();
    for line in trail.lines() {
        let record: serde_json::Value = serde_json::from_str(line).expect("a record");
        if record["kind"] == "call" {
            calls.insert(
                record["id"].as_str().expect("an id").to_owned(),
                record["seq"].as_u64().expect("a seq"),
            );
        }
    }
    assert!(acknowledged.len() > 2000, "only {} calls", acknowledged.len());
    for (id, seq) in &acknowledged {
        assert_eq!(calls.get(id), Some(seq), "call {id} was let through");
    }
    println!("{KILLS} kills: {} calls let through, {} records of calls", acknowledged.len(), calls.len());
}

#[tokio::test]
async fn every_call_let_through_before_a_kill_is_in_the_trail() {
    killed_again_and_again(Durability::Durable).await;
}

#[tokio::test]
async fn without_fdatasync_a_kill_of_the_guard_loses_nothing_either() {
    killed_again_and_again(Durability::Os).await;
}
