//! What an incident responder asks the trail of a guard that runs.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use guard_tests::scene::{apart, call, done};
use guard_tests::tenants::{Tenants, on, reason};
use serde_json::{Value, json};

/// Runs a verb of `audit` and gives its standard output.
fn told(tenants: &Tenants, verb: &str, words: &[&str]) -> String {
    let output = tenants.daemon.output(&format!("audit {verb}"), words).unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn records(tenants: &Tenants, words: &[&str]) -> Vec<Value> {
    let lines = told(tenants, "query", &[words, &["--json"]].concat());
    lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Three calls of alice, the last of which is refused, and one of bob, which is no tool of the policy's.
fn traffic(tenants: &Tenants) {
    tenants.open(&tenants.alice, "one").unwrap();
    tenants.open(&tenants.bob, "two").unwrap();
    for tool in ["open", "once"] {
        tenants.served(&on("one", &call(2, tool), &tenants.alice), &json!({"content": []})).unwrap();
    }
    let limited = tenants.refused(&on("one", &call(3, "once"), &tenants.alice)).unwrap();
    assert_eq!(reason(&limited), "velocity_exceeded");
    tenants.refused(&on("two", &call(4, "erase_everything"), &tenants.bob)).unwrap();
}

#[test]
fn the_trail_answers_who_did_what_and_when() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        traffic(&tenants);
        let policy = std::fs::read_to_string(tenants.daemon.config.policy_dir.join("policy.yaml")).unwrap();
        let risky = policy.replace("tool: report}", "tool: report, risk: {base: 100}}");
        assert_ne!(risky, policy);
        tenants.daemon.write_policy("policy.yaml", &risky).unwrap();
        tenants.daemon.reload().unwrap();
        tenants.served(&on("two", &call(5, "report"), &tenants.bob), &json!({"content": []})).unwrap();
        // An outcome may follow its call's answer.
        tenants.daemon.ledger().unwrap();

        let of_alice =
            records(&tenants, &["--agent", "alice", "--intent", "demo.*", "--from", "1h", "--oldest-first"]);
        let calls: Vec<_> = of_alice.iter().filter(|record| record["kind"] == "call").collect();
        let seen: Vec<_> = calls
            .iter()
            .map(|call| (call["target"]["name"].as_str().unwrap(), call["decision"].as_str().unwrap()))
            .collect();
        assert_eq!(seen, [("open", "allow"), ("once", "allow"), ("once", "deny")]);
        // Each call that was forwarded, and then how it ended.
        assert_eq!(of_alice[0]["id"], of_alice[1]["id"]);
        assert_eq!((&of_alice[1]["kind"], &of_alice[1]["result"]), (&json!("outcome"), &json!("ok")));

        let newest = records(&tenants, &["--kind", "call"]);
        let newest: Vec<u64> = newest
            .iter()
            .filter(|record| record["kind"] == "call")
            .map(|record| record["seq"].as_u64().unwrap())
            .collect();
        assert!(newest.windows(2).all(|two| two[0] > two[1]), "{newest:?}");
        let one = records(&tenants, &["--kind", "call", "--limit", "1", "--decision", "deny"]);
        assert_eq!(one.len(), 1);
        assert_eq!(one[0]["agent"], "bob");
        assert_eq!(records(&tenants, &["--text", "ERASE_everything"]).len(), 1);
        assert_eq!(records(&tenants, &["--id", one[0]["id"].as_str().unwrap()]), one);
        assert!(records(&tenants, &["--to", "1h"]).is_empty(), "nothing is that old");
        let risky = records(&tenants, &["--min-risk", "100"]);
        let risky: Vec<_> = risky.iter().filter(|record| record["kind"] == "call").collect();
        assert_eq!(risky.len(), 1, "{risky:?}");
        assert_eq!(
            (&risky[0]["risk"]["score"], &risky[0]["target"]["name"]),
            (&json!(100), &json!("report"))
        );
        let table = told(&tenants, "query", &["--agent", "alice", "--decision", "deny"]);
        assert!(table.contains("once") && table.lines().all(|line| line.chars().count() <= 100), "{table}");

        let nobody = tenants.daemon.output("audit query", &["--agent", "alicia"]).unwrap();
        assert!(String::from_utf8_lossy(&nobody.stderr).contains("are the names right?"), "{nobody:?}");
        let empty = tempfile::tempdir().unwrap();
        let dir = empty.path().to_str().unwrap();
        for wrong in [
            &["--dir", dir][..],
            &["--from", "noon"],
            &["--from", "1h", "--to", "2h"],
            &["--intent", "demo.o*"],
            &["--min-risk", "101"],
        ] {
            let output = tenants.daemon.output("audit query", wrong).unwrap();
            assert!(!output.status.success() && !output.stderr.is_empty(), "{wrong:?}: {output:?}");
        }
        assert_eq!(std::fs::read_dir(empty.path()).unwrap().count(), 0, "nothing is made where no trail is");
    });
}

#[test]
fn calls_are_counted_by_agent_intent_decision_and_time() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        traffic(&tenants);
        let stats: Value = serde_json::from_str(&told(&tenants, "stats", &["--json"])).unwrap();
        assert_eq!(stats["intents"]["demo.once"], json!({"calls": 2, "allow": 1, "deny": 1, "hold": 0}));
        assert_eq!(stats["agents"]["bob"]["deny"], 1);
        assert_eq!(stats["reasons"]["velocity_exceeded"]["calls"], 1);
        let hours = stats["times"].as_object().unwrap();
        assert_eq!(
            hours.values().map(|hour| hour["calls"].as_u64().unwrap()).sum::<u64>(),
            stats["total"]["calls"].as_u64().unwrap()
        );
        let only: Value =
            serde_json::from_str(&told(&tenants, "stats", &["--json", "--agent", "bob"])).unwrap();
        assert!(only["agents"].get("alice").is_none(), "{only}");
        let text = told(&tenants, "stats", &[]);
        assert!(text.contains("demo.once") && text.contains('#'), "{text}");
    });
}

#[test]
fn a_query_that_follows_shows_what_comes() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let mut command = tenants.daemon.command("audit query");
        let mut follower = command
            .args(["--follow", "--json", "--from", "1h", "--agent", "alice"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (send, lines) = mpsc::channel();
        let out = BufReader::new(follower.stdout.take().unwrap());
        std::thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
        let next = || -> Value {
            serde_json::from_str(&lines.recv_timeout(Duration::from_secs(20)).unwrap()).unwrap()
        };
        let first = next();
        assert_eq!(first["rpc_method"], "initialize", "what was there");
        assert_eq!((&next()["kind"], &first["kind"]), (&json!("outcome"), &json!("call")));
        for tool in ["open", "report"] {
            // The server takes its time: the call is shown before its outcome is there.
            let mut line = tenants.https.line().unwrap();
            line.send(&on("one", &call(2, tool), &tenants.alice).bytes()).unwrap();
            let heard = tenants.puppet.hear().unwrap();
            let shown = next();
            assert_eq!(shown["target"]["name"], tool);
            heard.answer(&done(2)).unwrap();
            let outcome = next();
            assert_eq!((&outcome["kind"], &outcome["result"]), (&json!("outcome"), &json!("ok")));
            assert_eq!((&outcome["id"], &outcome["call_seq"]), (&shown["id"], &shown["seq"]));
            assert_eq!(line.answer().unwrap().status, 200);
        }
        follower.kill().unwrap();
        follower.wait().unwrap();
        assert!(lines.recv_timeout(Duration::from_secs(20)).is_err(), "each record once");
    });
}
