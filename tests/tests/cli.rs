//! What the operator's commands say, and by which exit code, when there is nothing good to say.

use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use guard_tests::daemon::Daemon;
use guard_tests::https::Request;
use guard_tests::process::{START_LIMIT, copy_program, eventually, program};
use guard_tests::scene::{POLICY, Scene, apart, call, done, guard};
use guard_tests::tenants::Tenants;
use guard_tests::world::Netns;
use serde_json::{Value, json};

/// A guard that does not run, with its files in place.
fn idle() -> Daemon {
    let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.write_config().unwrap();
    daemon
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

/// Runs a command as an ordinary user, who may execute the program and read nothing of the guard's.
fn as_nobody(arguments: &[&str]) -> Output {
    // The checkout may be closed to other users.
    let dir = tempfile::Builder::new().permissions(PermissionsExt::from_mode(0o755)).tempdir().unwrap();
    let copy = dir.path().join("mcp-guard");
    copy_program(&program("mcp-guard").unwrap(), &copy).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(copy).args(arguments);
    command.output().unwrap()
}

#[test]
fn the_exit_code_of_status_tells_protected_from_not_running_and_from_not_known() {
    apart(|| {
        let mut scene = Scene::new(&json!({})).unwrap();
        assert_eq!(scene.daemon.output("status", &[]).unwrap().status.code(), Some(0));

        let file = scene.daemon.config_file();
        let stranger = as_nobody(&["status", "--json", "--config", file.to_str().unwrap()]);
        assert_eq!(stranger.status.code(), Some(4), "{}", said(&stranger));
        let told: Value = serde_json::from_slice(&stranger.stdout).unwrap();
        assert!(told["error"].as_str().unwrap().contains("run this as root"), "{told}");

        let here = scene.daemon.output("status", &[]).unwrap();
        assert!(!said(&here).contains("NOT HERE"), "{}", said(&here));
        let elsewhere = Netns::new().run(|| scene.daemon.output("status", &[]).unwrap());
        assert!(said(&elsewhere).contains("NOT HERE"), "{}", said(&elsewhere));

        scene.daemon.stop().unwrap();
        let stopped = scene.daemon.output("status", &[]).unwrap();
        assert_eq!(stopped.status.code(), Some(3));
        assert!(said(&stopped).contains("CLOSED"), "{}", said(&stopped));

        let elsewhere = Netns::new().run(|| scene.daemon.output("status", &[]).unwrap());
        assert_eq!(elsewhere.status.code(), Some(3));
        let words = said(&elsewhere);
        assert!(words.contains("OPEN") && words.contains("another one closed"), "{words}");

        scene.daemon.unload().unwrap();
        let unloaded = scene.daemon.output("status", &[]).unwrap();
        assert_eq!(unloaded.status.code(), Some(3));
        assert!(said(&unloaded).contains("OPEN"), "{}", said(&unloaded));
    });
}

#[test]
fn run_by_an_ordinary_user_says_that_root_is_needed() {
    let output = as_nobody(&["run"]);
    assert_eq!(output.status.code(), Some(1));
    let words = said(&output);
    assert!(words.contains("run it as root") && words.contains("`mcp-guard doctor`"), "{words}");
}

#[test]
fn with_json_an_error_is_json_too() {
    let daemon = idle();
    let failed = |verb: &str, arguments: &[&str]| {
        let output = daemon.output(verb, &[arguments, &["--json"]].concat()).unwrap();
        let told: Value = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|error| panic!("{verb}: {error} in {}", said(&output)));
        assert!(output.stderr.is_empty(), "{verb}: {}", said(&output));
        (output.status.code(), told)
    };
    for (verb, arguments, words) in [
        ("reload", &[][..], "no guard is running"),
        ("tokens issue", &["--agent", "testr"], "did you mean \"tester\"?"),
        ("tokens revoke", &["c-1"], "no credential has the id"),
        ("audit list", &[], "cannot read the trail"),
    ] {
        let (code, told) = failed(verb, arguments);
        assert_eq!(code, Some(1), "{verb}");
        assert!(told["error"].as_str().is_some_and(|error| error.contains(words)), "{verb}: {told}");
    }
    let (code, told) = failed("audit verify", &["--key", "no such key"]);
    assert_eq!(code, Some(3));
    assert!(told["error"].is_string(), "{told}");

    std::fs::write(daemon.config_file(), "servers:\n  - {name: a, prot: 3001}\n").unwrap();
    for (verb, code) in [("reload", 1), ("unload", 1), ("tokens list", 1), ("status", 4)] {
        let (ended, told) = failed(verb, &[]);
        assert_eq!(ended, Some(code), "{verb}");
        assert_eq!(told["problems"][0]["line"], 2, "{verb}: {told}");
    }
}

#[test]
fn a_guard_without_its_server_protects_and_says_that_the_server_is_down() {
    apart(|| {
        let mut daemon = idle();
        daemon.start().unwrap();
        let status = daemon.output("status", &[]).unwrap();
        assert_eq!(status.status.code(), Some(0));
        let words = said(&status);
        assert!(words.starts_with("PROTECTED"), "{words}");
        assert!(words.contains("SERVER DOWN   demo: no server is pinned behind port 3001"), "{words}");
        assert!(daemon.log().unwrap().contains("SERVER DOWN"), "{}", daemon.log().unwrap());
    });
}

#[test]
fn the_trail_says_who_ended_sessions_and_shows_what_is_asked_for() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.open(&tenants.bob, "two").unwrap();
        assert_eq!(tenants.daemon.json("sessions end", &["--agent", "bob"]).unwrap()["ended"], 1);
        let none = tenants.daemon.output("sessions end", &["--agent", "bob"]).unwrap();
        assert_eq!(none.status.code(), Some(1));
        let ledger = tenants.daemon.ledger().unwrap();
        let ended: Vec<_> = ledger.of_kind("sessions_ended").collect();
        assert_eq!(ended.len(), 1, "where nothing ended, there is nothing to tell");
        assert_eq!(
            (&ended[0]["uid"], &ended[0]["count"], &ended[0]["agent"], &ended[0]["server"]),
            (&json!(0), &json!(1), &json!("bob"), &json!(null))
        );

        let list = |arguments: &[&str]| {
            let output = tenants.daemon.output("audit list", arguments).unwrap();
            assert!(output.status.success(), "{}", said(&output));
            said(&output)
        };
        let records = |arguments: &[&str]| {
            let lines = list(&[&["--json", "--last", "100"], arguments].concat());
            let record = |line: &str| serde_json::from_str::<Value>(line).unwrap();
            lines.lines().filter(|line| !line.is_empty()).map(record).collect::<Vec<_>>()
        };
        let of_alice = records(&["--agent", "alice"]);
        assert!(of_alice.iter().any(|record| record["kind"] == "outcome"), "{of_alice:?}");
        let mut calls = of_alice.iter().filter(|record| record["kind"] != "outcome");
        assert!(calls.all(|record| record["agent"] == "alice"), "{of_alice:?}");
        let session = tenants.daemon.json("sessions list", &[]).unwrap()["sessions"][0]["session"].clone();
        let on_session = records(&["--session", session.as_str().unwrap()]);
        assert!(on_session.iter().all(|record| record["agent"] == "alice" || record["kind"] == "outcome"));
        assert!(records(&["--agent", "alice", "--server", "other"]).is_empty());
        assert!(!records(&["--since", "1h", "--reason", "allowed"]).is_empty());
        assert!(records(&["--since", "2100-01-01T00:00:00Z"]).is_empty());
        let table = list(&["--agent", "bob"]);
        assert!(table.contains("sessions_ended") && table.contains("1 ended: by"), "{table}");
        let wrong = tenants.daemon.output("audit list", &["--since", "yesterday"]).unwrap();
        assert_eq!(wrong.status.code(), Some(2));
        // Where 2 says something of the trail, a slip of the pen does not.
        for verb in ["audit verify", "audit reconcile", "audit checkpoints"] {
            let wrong = tenants.daemon.output(verb, &["--bogus"]).unwrap();
            assert_eq!(wrong.status.code(), Some(3), "{verb}");
            assert!(said(&wrong).contains("--bogus"), "{verb}: {}", said(&wrong));
        }
    });
}

#[test]
fn tables_are_at_most_a_hundred_columns_wide_and_json_has_the_whole_digest() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let stranger = call(1, &"long".repeat(60));
        assert!(scene.https.ask(&scene.post(&stranger)).unwrap().json()["error"].is_object());
        let digest = scene.daemon.status().unwrap()["policy"].as_str().unwrap().to_owned();
        assert_eq!(digest.len(), 64);
        // A program that reads a table finds each name in one piece.
        let piped = scene.daemon.command("audit list").env_remove("COLUMNS").output().unwrap();
        assert!(said(&piped).contains(&"long".repeat(20)), "{}", said(&piped));
        for verb in ["status", "audit list", "check", "tokens list", "reload"] {
            let output = scene.daemon.output(verb, &[]).unwrap();
            let text = said(&output);
            assert!(output.status.success(), "{verb}: {text}");
            for line in text.lines() {
                assert!(line.chars().count() <= 100, "{verb}: {} columns: {line}", line.chars().count());
            }
            if ["status", "check", "reload"].contains(&verb) {
                assert!(text.contains(&digest[..12]), "{verb}: {text}");
            }
        }
    });
}

#[test]
fn status_says_who_holds_calls_streams_and_sessions() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        assert_eq!(tenants.daemon.status().unwrap()["holders"], json!([]));
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.open(&tenants.alice, "two").unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "one").bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        let mut waiting = tenants.https.line().unwrap();
        waiting.send(&Request::post(&call(3, "open")).by(&tenants.bob).bytes()).unwrap();
        let slow = tenants.puppet.hear().unwrap();
        let holds = |agent: &str, [calls, streams, sessions]: [u64; 3]| json!({"agent": agent, "calls": calls, "streams": streams, "sessions": sessions});
        let holders = || tenants.daemon.status().unwrap()["holders"].clone();
        let until = |expected: Value| {
            let seen = eventually(START_LIMIT, || Ok((holders() == expected).then_some(()))).unwrap();
            assert!(seen.is_some(), "{:?} is not {expected}", holders());
        };
        until(json!([holds("alice", [1, 1, 2]), holds("bob", [1, 0, 0])]));
        let table = said(&tenants.daemon.output("status", &[]).unwrap());
        assert!(table.contains("CALLS UNDER WAY") && table.contains("alice"), "{table}");
        drop(heard);
        slow.answer(&done(3)).unwrap();
        until(json!([holds("alice", [0, 0, 2])]));
    });
}
