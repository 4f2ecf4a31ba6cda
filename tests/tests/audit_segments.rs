//! A guard that is killed while it begins new files of the trail, packs full ones and removes old ones.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use guard_tests::daemon::Programs;
use mcp_guard::audit::{
    AuditLog, Index, Options, Order, Outcomes, Query, Retention, Verdict, search, verify,
};
use mcp_guard::config::Durability;

const KILLS: u64 = 30;

/// Starts a writer with small files, of which few are kept; kills it after `count` acknowledgements.
fn run_and_kill(dir: &Path, run: u64, count: usize, all: &mut HashMap<String, u64>) {
    let mut child = Command::new(env!("CARGO_BIN_EXE_audit-writer"))
        .arg(dir)
        .args(["--run", &run.to_string(), "--segment-bytes", "30000", "--keep-bytes", "60000", "--os"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("the writer starts");
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

#[tokio::test]
async fn a_guard_that_is_killed_while_it_rotates_packs_and_prunes_leaves_a_trail_that_verifies() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut acknowledged = HashMap::new();
    let (mut packed, mut begins) = (0, Vec::new());
    for run in 0..KILLS {
        // From the first moments of a start on, into every stage of a file.
        let count = 1 + usize::try_from(run * run * 7 % 1_500).expect("small");
        run_and_kill(dir.path(), run, count, &mut acknowledged);
        // A last line that was not finished is the next start's to mend; nothing else may be wrong.
        let report = verify(dir.path(), None, None);
        let torn = report.fault.as_ref().is_some_and(|fault| fault.reason.contains("has no end"));
        assert!(report.verdict == Verdict::Sound || torn, "run {run}: {:?}", report.fault);
        begins.push(report.first);
        let names =
            std::fs::read_dir(dir.path()).expect("a directory").map(|entry| entry.expect("an entry").path());
        packed += names.filter(|path| path.extension().is_some_and(|ending| ending == "gz")).count();
    }
    let log = AuditLog::open(Options {
        dir: dir.path().to_owned(),
        host: "test".into(),
        durability: Durability::Os,
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
    let mut different = begins.clone();
    different.dedup();
    assert!(packed > 0 && different.len() > 5, "hardly anything happened: {packed} packed, {begins:?}");

    // The offline verifier says the same of a copy.
    let said = Command::new(Programs::built().expect("built").verifier)
        .arg(dir.path())
        .arg("--json")
        .output()
        .expect("it runs");
    let said: serde_json::Value = serde_json::from_slice(&said.stdout).expect("JSON");
    assert_eq!((&said["verdict"], said["first"].as_u64()), (&"sound".into(), Some(report.first)), "{said}");

    // What was let through is there, unless it was pruned by rule.
    let index = Index::open(dir.path(), |_, _| {}).expect("an index");
    assert_eq!(index.records(), report.records);
    let mut calls = HashMap::new();
    let query = Query { kind: Some("call".into()), ..Query::default() };
    search(&index, &query, (Order::Oldest, Outcomes::LeftOut), |found| {
        let record: serde_json::Value = serde_json::from_str(&found.line).expect("a record");
        calls.insert(record["id"].as_str().expect("an id").to_owned(), found.seq);
        std::ops::ControlFlow::Continue(())
    })
    .expect("a readable trail");
    let mut remaining = 0;
    for (id, seq) in acknowledged.iter().filter(|(_, seq)| **seq >= report.first) {
        assert_eq!(calls.get(id), Some(seq), "call {id} was let through");
        remaining += 1;
    }
    println!(
        "{KILLS} kills: {} calls let through, {remaining} of them left; the trail begins with {}",
        acknowledged.len(),
        report.first
    );
}
