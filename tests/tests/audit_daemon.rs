//! The audit trail of a guard that is killed, or tampered with.
//!
//! `GUARD_FAULTS_KILLS` says how often it is killed, and `GUARD_FAULTS_SEED` when; `cargo xtask faults` sets them.

use std::collections::BTreeSet;
use std::fs;
use std::io::ErrorKind;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use guard_tests::daemon::Daemon;
use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::https::Request;
use guard_tests::ledger::segments;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, Scene, apart, call, done_for};
use serde_json::json;

const KILLS: u64 = 20;
/// Calls that must have reached the server before the next kill.
const CALLS_PER_LIFE: usize = 10;
/// It dies at some moment within so many microseconds after them.
const MOMENT_MICROSECONDS_MAX: usize = 60_000;

/// Calls by their ids, each of which is used once.
type Ids = BTreeSet<u64>;

/// The calls that the trail has a record of. An error if one of those that reached the server is not among them.
fn recorded(daemon: &Daemon, reached: &Mutex<Ids>) -> anyhow::Result<Ids> {
    let ledger = daemon.ledger()?;
    let ids = ledger.calls("allow", "open").map(|call| call["rpc_id"].as_str().unwrap_or_default().parse());
    let recorded: Ids = ids.collect::<Result<_, _>>()?;
    let reached = reached.lock().unwrap_or_else(PoisonError::into_inner);
    let unseen: Vec<_> = reached.difference(&recorded).collect();
    anyhow::ensure!(unseen.is_empty(), "{unseen:?} reached the server without a record");
    Ok(recorded)
}

#[test]
fn audit_kill9_loop() {
    let (kills, seed) = (faults::number("KILLS", KILLS), faults::seed());
    let mut random = Random::new(seed);
    apart(|| {
        let Scene { mut daemon, puppet, credential, https } = Scene::new(&json!({})).unwrap();
        let reached = Arc::new(Mutex::new(Ids::new()));
        let twice = Arc::new(Mutex::new(Vec::new()));
        let (theirs, doubles) = (Arc::clone(&reached), Arc::clone(&twice));
        puppet.answer_each(move |message| {
            let id = message["id"].as_u64().unwrap_or_default();
            if !theirs.lock().unwrap_or_else(PoisonError::into_inner).insert(id) {
                doubles.lock().unwrap_or_else(PoisonError::into_inner).push(id);
            }
            done_for(message)
        });
        let count = || reached.lock().unwrap_or_else(PoisonError::into_inner).len();
        let (over, ids) = (AtomicBool::new(false), AtomicU64::new(1));
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let request = || {
                        let id = ids.fetch_add(1, Ordering::Relaxed);
                        Request::post(&call(id, "open")).by(&credential).bytes()
                    };
                    while !over.load(Ordering::Relaxed) {
                        // The guard dies at any point of this.
                        let Ok(mut line) = https.line() else { continue };
                        while line.send(&request()).is_ok() && line.answer().is_ok() {
                            if over.load(Ordering::Relaxed) {
                                return;
                            }
                        }
                    }
                });
            }
            let lives = (0..kills).try_for_each(|life| {
                let before = count();
                let busy =
                    eventually(START_LIMIT, || Ok((count() >= before + CALLS_PER_LIFE).then_some(())))?;
                anyhow::ensure!(busy.is_some(), "life {life}: no calls");
                let moment = random.below(MOMENT_MICROSECONDS_MAX);
                thread::sleep(Duration::from_micros(u64::try_from(moment)?));
                daemon.kill()?;
                let refused = TcpStream::connect(ADDRESS).map_err(|error| error.kind());
                anyhow::ensure!(
                    refused.as_ref().err() == Some(&ErrorKind::ConnectionRefused),
                    "life {life}: {refused:?} while the guard is dead"
                );
                recorded(&daemon, &reached).with_context(|| format!("life {life}"))?;
                daemon.start()?;
                let verified = daemon.verify()?;
                anyhow::ensure!(verified.code == Some(0), "life {life}: {verified:?}");
                Ok(())
            });
            over.store(true, Ordering::Relaxed);
            lives.unwrap();
            let twice = twice.lock().unwrap().clone();
            assert!(twice.is_empty(), "{twice:?} reached the server twice");
        });
        daemon.stop().unwrap();
        let durable = recorded(&daemon, &reached).unwrap().len();
        let (ledger, reached) = (daemon.ledger().unwrap(), count());
        assert_eq!(u64::try_from(ledger.of_kind("start").count()).unwrap(), kills + 1);
        assert_eq!(daemon.verify().unwrap().code, Some(0));
        println!(
            "seed {seed}: {kills} kills, {reached} calls reached the server, {durable} have a durable record"
        );
    });
}

#[test]
fn what_is_changed_in_a_guards_trail_is_found() {
    apart(|| {
        let Scene { mut daemon, puppet, credential, https } = Scene::new(&json!({})).unwrap();
        puppet.answer_all(done_for);
        for tool in ["open", "closed", "open", "vetted", "open"] {
            https.ask(&Request::post(&call(1, tool)).by(&credential)).unwrap();
        }
        daemon.stop().unwrap();
        assert_eq!(daemon.verify().unwrap().code, Some(0));
        let trail = daemon.config.audit_dir();
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(&trail).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        let segment = segments(copy.path()).unwrap().pop().unwrap();
        let text = fs::read_to_string(&segment).unwrap();
        let lines: Vec<_> = text.split_inclusive('\n').collect();
        let denied = lines.iter().position(|line| line.contains(r#""decision":"deny""#)).unwrap();
        let mut swapped = lines.clone();
        swapped.swap(denied, denied + 1);
        for (what, changed, code) in [
            (
                "a refusal made an allowance",
                text.replacen(r#""decision":"deny""#, r#""decision":"allow""#, 1),
                1,
            ),
            ("a line left out", [&lines[..denied], &lines[denied + 1..]].concat().concat(), 1),
            ("two lines swapped", swapped.concat(), 1),
            ("the end cut off", lines[..denied].concat(), 2),
        ] {
            fs::write(&segment, changed).unwrap();
            let verified = daemon.verify_copy(copy.path()).unwrap();
            assert_eq!(verified.code, Some(code), "{what}: {}", verified.report);
        }
        fs::write(&segment, &text).unwrap();
        assert_eq!(daemon.verify_copy(copy.path()).unwrap().code, Some(0));
    });
}

#[test]
fn a_start_is_recorded_with_the_configuration_that_check_names() {
    apart(|| {
        let Scene { mut daemon, .. } = Scene::new(&json!({})).unwrap();
        let named = |daemon: &Daemon| daemon.json("check", &[]).unwrap()["config"].clone();
        let first = named(&daemon);
        assert_eq!(first.as_str().map(str::len), Some(64));
        daemon.stop().unwrap();
        daemon.config.audit.segment_seconds += 1;
        daemon.write_config().unwrap();
        daemon.start().unwrap();
        let second = named(&daemon);
        assert_ne!(first, second);
        daemon.stop().unwrap();
        let ledger = daemon.ledger().unwrap();
        let recorded: Vec<_> = ledger.of_kind("start").map(|start| start["config"].clone()).collect();
        assert_eq!(recorded, [first, second]);
    });
}
