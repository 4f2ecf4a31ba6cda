//! The scenarios of authorization of the official conformance suite: a server that checks tokens itself has the same
//! dialogue with its clients when a guard stands before it, at the URL that it always had.
//!
//! Tokens are the server's business here, so the guard knows the clients by their process. A guard of its own starts and
//! ends for each server of the suite, which lives for one scenario at a port that it chooses.

use std::fs;
use std::path::Path;
use std::thread;

use guard_tests::peers;
use guard_tests::process::program;
use guard_tests::scene::apart;
use guard_tests::suite::{self, Report};
use serde_json::{Value, json};

const ONLY: &str = "auth/";

/// The suite's runs: its arguments, and how many scenarios of authorization each has.
const RUNS: [(&[&str], usize); 3] = [
    (&["--suite", "auth", "--spec-version", "2025-11-25"], 14),
    (&["--suite", "backcompat"], 2),
    (&["--suite", "all", "--spec-version", "2026-07-28"], 25),
];

/// Each with how many of the runs it makes: one guard after the other, all of Python's would take as long again.
fn clients() -> [(&'static str, String, usize); 2] {
    let folder = peers::folder().unwrap();
    let command = |program: &Path, script: &str| {
        format!("{} {}", program.to_str().unwrap(), folder.join(script).to_str().unwrap())
    };
    [
        ("TypeScript", command(&peers::node(&folder), "conformance-client.mjs"), 3),
        ("Python", command(&folder.join(".venv/bin/python"), "conformance_client.py"), 2),
    ]
}

fn run(client: &str, arguments: &[&str], own_guard: Option<&Path>) -> Report {
    let wrapper = program("scenario-client").unwrap();
    let own_guard =
        own_guard.map(|dir| format!("--own-guard {} ", dir.to_str().unwrap())).unwrap_or_default();
    let command = format!("{} --only {ONLY} {own_guard}{client}", wrapper.to_str().unwrap());
    let arguments = [&["client", "--command", &command], arguments].concat();
    let mut report = suite::run(&arguments, |command| command).unwrap();
    report.checks.retain(|check, _| check.scenario.starts_with(ONLY));
    report
}

/// What the guards recorded, of all scenarios of a run.
fn records(dir: &Path) -> Vec<Value> {
    let files = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    files.flat_map(|path| serde_json::from_slice::<Vec<Value>>(&fs::read(path).unwrap()).unwrap()).collect()
}

#[test]
fn who_is_authorized_by_a_server_cannot_tell_that_a_guard_stands_before_it() {
    apart(|| {
        let mut differences = Vec::new();
        println!("\nclient      scenarios  checks  passed direct  passed guarded  recorded  documents");
        for (name, client, runs) in clients() {
            for (arguments, scenarios) in RUNS.into_iter().take(runs) {
                let dir = tempfile::tempdir().unwrap();
                let (before, after) = thread::scope(|scope| {
                    let before = scope.spawn(|| run(&client, arguments, None));
                    let after = run(&client, arguments, Some(dir.path()));
                    (before.join().unwrap(), after)
                });
                let records = records(dir.path());
                let documents = records.iter().filter(|record| record["target"]["kind"] == "path").count();
                println!(
                    "{name:<10}  {:>9}  {:>6}  {:>13}  {:>14}  {:>8}  {documents:>9}",
                    before.scenarios(),
                    before.checks.len(),
                    before.passed(),
                    after.passed(),
                    records.len()
                );
                assert!(before.scenarios() >= scenarios, "{} scenarios: {}", before.scenarios(), before.log);
                let told = before.differences(&after);
                if !told.is_empty() {
                    let log =
                        after.log.lines().filter(|line| !line.trim_start().starts_with(['|', '+', 'a']));
                    println!("{}", log.collect::<Vec<_>>().join("\n"));
                    differences.extend(told.into_iter().map(|line| format!("{name}: {line}")));
                    continue;
                }
                // It was the guard that was asked, and it knew by the process who asked.
                assert!(records.len() >= 4 * scenarios && documents >= scenarios, "{records:#?}");
                let known = |record: &Value| {
                    record["agent"] == "suite"
                        && record["evidence"] == "process"
                        && record["credential"].is_null()
                };
                let unknown: Vec<_> = records.iter().filter(|record| !known(record)).collect();
                assert!(unknown.is_empty(), "{unknown:#?}");
                // No token of the server's is in the trail.
                assert!(!json!(records).to_string().contains("test-token"));
            }
        }
        assert!(differences.is_empty(), "not as without a guard:\n{}", differences.join("\n"));
    });
}
