//! Connections that the kernel counted against those in the trail, with real traffic of every kind.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use aya::maps::{Map, MapData, PerCpuHashMap, PerCpuValues};
use guard_tests::daemon::Daemon;
use guard_tests::https::Line;
use guard_tests::ledger::segments;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{ADDRESS, PORT, Scene, apart, call, done_for};
use serde_json::{Value, json};

/// Numbers in the kernel's tally of a port, and which of them is that of finished handshakes.
const TALLY_WORDS: usize = 10;
const ESTABLISHED: usize = 9;

/// A scene whose guard writes a heartbeat every second.
fn scene(limits: &Value) -> Scene {
    Scene::with(limits, |daemon| {
        daemon.config.audit.heartbeat_seconds = 1;
        Ok(())
    })
    .unwrap()
}

/// Exit code and answer of `mcp-guard audit reconcile` on a directory.
fn reconcile(daemon: &Daemon, dir: &Path) -> (i32, Value) {
    let output = daemon.output("audit reconcile", &[dir.to_str().unwrap(), "--json"]).unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    (output.status.code().unwrap(), serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
}

fn heartbeats(daemon: &Daemon) -> usize {
    daemon.ledger().unwrap().of_kind("heartbeat").count()
}

/// Waits for `count` heartbeats more.
fn wait_for_heartbeats(daemon: &Daemon, count: usize) {
    let before = heartbeats(daemon);
    let more = eventually(START_LIMIT, || Ok((heartbeats(daemon) >= before + count).then_some(())));
    assert!(more.unwrap().is_some());
}

fn sum(balance: &Value, pointer: &str) -> u64 {
    let intervals = balance["intervals"].as_array().unwrap();
    intervals.iter().filter_map(|interval| interval.pointer(pointer)?.as_u64()).sum()
}

fn words(balance: &Value) -> String {
    let intervals = balance["intervals"].as_array().unwrap();
    intervals.iter().map(|interval| interval["faults"].to_string()).collect()
}

/// A client that is closed at once or ends before it asks anything.
fn broken_off(first: &[u8]) {
    let mut stream = TcpStream::connect(ADDRESS).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let _refused = stream.write_all(first);
    let _over = stream.shutdown(Shutdown::Write);
    let _answer = stream.read_to_end(&mut Vec::new());
}

#[test]
fn traffic_of_every_kind_is_explained_to_the_last_connection() {
    apart(|| {
        // The slots are counted: two that stay open leave no room for a third.
        let mut scene = scene(&json!({"connections_max": 2}));
        let puppet = std::mem::replace(
            &mut scene.puppet,
            guard_tests::puppet::Puppet::at(([127, 0, 0, 1], 1).into()).unwrap(),
        );
        puppet.answer_all(done_for);
        let ask = |scene: &Scene, tool: &str| scene.https.ask(&scene.post(&call(1, tool))).unwrap();
        for tool in ["open", "closed", "vetted"] {
            ask(&scene, tool);
        }
        // Several records of one connection count once.
        let mut line = scene.https.line().unwrap();
        for id in 1..=3 {
            line.send(&scene.post(&call(id, "closed")).bytes()).unwrap();
            line.answer().unwrap();
        }
        drop(line);
        // No TLS, no bytes, and a plain request that gets its 426 and its record.
        broken_off(b"\x16\x03\x01\xff\xffgarbage");
        broken_off(b"");
        let mut plain = guard_tests::https::plain(ADDRESS).unwrap();
        plain.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        assert_eq!(plain.answer().unwrap().status, 426);
        drop(plain);
        let held: Vec<Line> = (0..2).map(|_| scene.https.line().unwrap()).collect();
        let over = eventually(START_LIMIT, || {
            broken_off(b"");
            Ok((scene.daemon.status()?["kernel"]["counters"]["over_limit"] != 0).then_some(()))
        });
        assert!(over.unwrap().is_some());
        wait_for_heartbeats(&scene.daemon, 2);
        let (code, running) = reconcile(&scene.daemon, &scene.daemon.config.audit_dir());
        assert_eq!(code, 0, "while it runs: {running:#}");
        drop(held);
        // The proof anew: canaries and loops.
        assert_eq!(scene.daemon.json("status", &["--prove"]).unwrap()["kernel"]["protected"], true);
        scene.daemon.stop().unwrap();
        let (code, balance) = reconcile(&scene.daemon, &scene.daemon.config.audit_dir());
        assert_eq!((code, &balance["complete"]), (0, &json!(true)), "{balance:#}");
        assert_eq!(sum(&balance, "/established"), sum(&balance, "/accepted"), "{balance:#}");
        assert_eq!(sum(&balance, "/recorded"), 5, "three calls, one of three requests, one without TLS");
        for (reason, at_least) in [("canaries", 8), ("loops", 2), ("over_limit", 1), ("ended", 3)] {
            let count = sum(&balance, &format!("/explained/{reason}"));
            assert!(count >= at_least, "{count} {reason}: {balance:#}");
        }
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
        // Another start and stop over the same trail and the same pins.
        scene.daemon.start().unwrap();
        scene.daemon.stop().unwrap();
        let (code, balance) = reconcile(&scene.daemon, &scene.daemon.config.audit_dir());
        assert_eq!(code, 0, "{balance:#}");
        assert!(balance.to_string().contains(r#""state":"closed""#));
    });
}

#[test]
fn a_record_that_was_taken_away_is_noticed_by_both() {
    apart(|| {
        let Scene { mut daemon, puppet, credential, https } = scene(&json!({}));
        puppet.answer_all(done_for);
        for tool in ["closed", "open"] {
            https.ask(&guard_tests::https::Request::post(&call(1, tool)).by(&credential)).unwrap();
        }
        daemon.stop().unwrap();
        let copy = tempfile::tempdir().unwrap();
        for entry in fs::read_dir(daemon.config.audit_dir()).unwrap() {
            let file = entry.unwrap().path();
            fs::copy(&file, copy.path().join(file.file_name().unwrap())).unwrap();
        }
        assert_eq!(reconcile(&daemon, copy.path()).0, 0);
        let segment = segments(copy.path()).unwrap().pop().unwrap();
        let text = fs::read_to_string(&segment).unwrap();
        let kept: String =
            text.split_inclusive('\n').filter(|line| !line.contains(r#""decision":"deny""#)).collect();
        assert!(kept.len() < text.len());
        fs::write(&segment, kept).unwrap();
        assert_ne!(daemon.verify_copy(copy.path()).unwrap().code, Some(0));
        let (code, balance) = reconcile(&daemon, copy.path());
        assert_eq!(code, 2, "{balance:#}");
        assert!(words(&balance).contains("not in the trail"), "{balance:#}");
    });
}

#[test]
fn a_connection_that_only_the_kernel_counted_is_told() {
    apart(|| {
        let mut scene = scene(&json!({}));
        // As if the guard had hidden one: the kernel's count is one above its own.
        let pins = Path::new("/sys/fs/bpf").join(&scene.daemon.config.kernel.pins);
        let data = MapData::from_pin(pins.join("maps/TALLY")).unwrap();
        let mut tally: PerCpuHashMap<_, [u64; 2], [u64; TALLY_WORDS]> =
            Map::PerCpuHashMap(data).try_into().unwrap();
        let key = tally
            .keys()
            .map(Result::unwrap)
            .find(|key| key[1].to_ne_bytes()[..2] == PORT.to_ne_bytes())
            .unwrap();
        let mut values = tally.get(&key, 0).unwrap().to_vec();
        values[0][ESTABLISHED] += 1;
        tally.insert(key, PerCpuValues::try_from(values).unwrap(), 0).unwrap();
        wait_for_heartbeats(&scene.daemon, 2);
        let (code, balance) = reconcile(&scene.daemon, &scene.daemon.config.audit_dir());
        assert_eq!(code, 2, "{balance:#}");
        assert!(words(&balance).contains("never counted as accepted"), "{balance:#}");
        scene.daemon.stop().unwrap();
    });
}

#[test]
fn a_guard_that_is_killed_leaves_an_interval_of_its_own() {
    apart(|| {
        let Scene { mut daemon, puppet, credential, https } = scene(&json!({}));
        puppet.answer_all(done_for);
        let ask =
            || https.ask(&guard_tests::https::Request::post(&call(1, "closed")).by(&credential)).unwrap();
        wait_for_heartbeats(&daemon, 1);
        ask();
        daemon.kill().unwrap();
        daemon.start().unwrap();
        let (code, balance) = reconcile(&daemon, &daemon.config.audit_dir());
        assert_eq!(code, 0, "its one connection has a record: {balance:#}");
        assert!(balance.to_string().contains(r#""state":"unwitnessed""#), "{balance:#}");
        // One that nobody recorded.
        wait_for_heartbeats(&daemon, 1);
        let silent = TcpStream::connect(ADDRESS).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        daemon.kill().unwrap();
        drop(silent);
        daemon.start().unwrap();
        let (code, balance) = reconcile(&daemon, &daemon.config.audit_dir());
        assert_eq!(code, 2, "{balance:#}");
        assert!(words(&balance).contains("ended without a word"), "{balance:#}");
        daemon.stop().unwrap();
    });
}

#[test]
fn the_table_says_where_a_connection_is_missing() {
    apart(|| {
        let mut scene = scene(&json!({}));
        scene.https.ask(&scene.post(&call(1, "closed"))).unwrap();
        scene.daemon.stop().unwrap();
        let mut command = Command::new(guard_tests::process::program("mcp-guard").unwrap());
        command.args(["audit", "reconcile"]).arg(scene.daemon.config.audit_dir());
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{text}");
        assert!(text.contains("COMPLETE") && text.contains("demo"), "{text}");
        let nowhere = Command::new(guard_tests::process::program("mcp-guard").unwrap())
            .args(["audit", "reconcile", "/nonexistent"])
            .output()
            .unwrap();
        assert_eq!(nowhere.status.code(), Some(3));
    });
}
