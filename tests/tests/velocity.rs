//! Velocity rules of a running guard: over its death and its restart, and for calls that are under way.

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use guard_tests::daemon::Credential;
use guard_tests::https::{Https, Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{self, ADDRESS, apart, done_for, guard};
use guard_tests::tenants::reason;
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  alice: {client_id: alice-client}
  bob: {client_id: bob-client}
intents:
  demo.read: [{server: demo, tool: read}]
  demo.dear: [{server: demo, tool: dear}]
  demo.slow: [{server: demo, tool: slow}]
policies:
  - {name: all, intent: "demo.*", agents: [alice, bob], decision: allow}
velocity_rules:
  - {name: reads, agent: alice, intent: demo.read, window: 1d, max_calls: 40, exceeded_action: deny}
  - {name: budget, agent: bob, per: [agent, server], window: 1d, max_cost: 10, costs: {demo.dear: 4}, exceeded_action: deny}
  - {name: dear-ones, agent: alice, tool: dear, window: 1d, max_calls: 40, exceeded_action: deny}
  - {name: at-once, tool: slow, per: tool, max_concurrent: 2, exceeded_action: deny}
  - {name: trial, intent: demo.slow, per: agent, window: 1d, max_calls: 1, exceeded_action: shadow}
"#;

/// What becomes of a snapshot between two guards.
type Harm = fn(&std::path::Path);

struct Stage {
    daemon: guard_tests::daemon::Daemon,
    https: Https,
    alice: Credential,
    bob: Credential,
}

fn stage() -> Stage {
    stage_with(&json!({}))
}

fn stage_with(limits: &Value) -> Stage {
    let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.config.limits = serde_json::from_value(limits.clone()).unwrap();
    let (alice, bob) = (daemon.issue("alice").unwrap(), daemon.issue("bob").unwrap());
    daemon.start().unwrap();
    let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
    Stage { daemon, https, alice, bob }
}

fn call(tool: &str, agent: &Credential) -> Request {
    Request::post(&scene::call(1, tool)).by(agent)
}

impl Stage {
    fn reason(&self, tool: &str, agent: &Credential) -> String {
        reason(&self.https.ask(&call(tool, agent)).unwrap())
    }

    /// Rows of `mcp-guard top`, as rule, used and max.
    fn top(&self) -> Vec<(String, u64, u64)> {
        let answer = self.daemon.json("top", &["--once"]).unwrap();
        let rows = answer["rows"].as_array().unwrap().iter();
        let row = |row: &Value| {
            (
                row["rule"].as_str().unwrap().to_owned(),
                row["used"].as_u64().unwrap(),
                row["max"].as_u64().unwrap(),
            )
        };
        rows.map(row).collect()
    }
}

#[test]
fn no_more_calls_than_may_reach_the_server_over_the_death_of_the_guard() {
    apart(|| {
        let served = Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = stage();
        let over = AtomicBool::new(false);
        // Killed with calls under way, again and again, until nothing passes any more.
        for _ in 0..3 {
            over.store(false, Ordering::Relaxed);
            thread::scope(|scope| {
                for _ in 0..2 {
                    scope.spawn(|| {
                        while !over.load(Ordering::Relaxed) {
                            // The guard dies under it.
                            drop(stage.https.ask(&call("read", &stage.alice)));
                        }
                    });
                }
                let before = served.load(Ordering::Relaxed);
                eventually(START_LIMIT, || {
                    let now = served.load(Ordering::Relaxed);
                    Ok((now >= (before + 10).min(39)).then_some(()))
                })
                .unwrap();
                stage.daemon.kill().unwrap();
                over.store(true, Ordering::Relaxed);
            });
            stage.daemon.start().unwrap();
        }
        for _ in 0..60 {
            drop(stage.https.ask(&call("read", &stage.alice)).unwrap());
        }
        // A call whose record was on disk counts, whether its server heard of it or not.
        let count = served.load(Ordering::Relaxed);
        assert!((30..=40).contains(&count), "{count} reached the server");
        assert_eq!(stage.reason("read", &stage.alice), "velocity_exceeded");
        assert_eq!(stage.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_record_tells_how_full_the_window_is_and_of_which_trace_the_call_is() {
    apart(|| {
        let _served = Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = stage();
        let (trace, span) = ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331");
        let mut traced = scene::call(1, "read");
        traced["params"]["_meta"] = json!({"traceparent": format!("00-{trace}-{span}-01")});
        stage.https.ask(&call("read", &stage.alice)).unwrap();
        stage.https.ask(&Request::post(&traced).by(&stage.alice)).unwrap();
        stage.daemon.stop().unwrap();
        let ledger = stage.daemon.ledger().unwrap();
        let calls: Vec<_> = ledger.calls("allow", "read").collect();
        assert_eq!(calls[0]["velocity"], json!({"rule": "reads", "count": 1, "max": 40}));
        assert_eq!(calls[1]["velocity"], json!({"rule": "reads", "count": 2, "max": 40}));
        assert_eq!(calls[0].get("trace"), None);
        assert_eq!(calls[1]["trace"], json!({"id": trace, "span": span}));
    });
}

#[test]
fn windows_go_on_after_a_restart_with_a_snapshot_without_one_and_with_a_broken_one() {
    apart(|| {
        let served = Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let mut stage = stage();
        let snapshot = stage.daemon.config.state_dir.join("velocity.snapshot");
        for _ in 0..2 {
            assert_eq!(stage.reason("dear", &stage.bob), "no decision");
        }
        assert_eq!(stage.reason("dear", &stage.bob), "velocity_exceeded", "8 of 10, and it costs 4");
        assert_eq!(stage.reason("read", &stage.bob), "no decision");
        let full = [("budget".to_owned(), 9, 10)];
        assert_eq!(stage.top(), full);
        let harms: [(Harm, &str); 3] = [
            (|_| {}, ""),
            (
                |path| std::fs::remove_file(path).unwrap(),
                "velocity.snapshot: there is none; the velocity windows are counted again",
            ),
            (
                |path| {
                    std::fs::write(path, b"mcp-guard velocity 1\nbroken, and long enough for a digest")
                        .unwrap();
                },
                "it is not what was written",
            ),
        ];
        for (harm, words) in harms {
            stage.daemon.stop().unwrap();
            harm(&snapshot);
            stage.daemon.start().unwrap();
            assert_eq!(stage.top(), full, "{words}");
            assert_eq!(stage.reason("dear", &stage.bob), "velocity_exceeded", "{words}");
            assert!(stage.daemon.log().unwrap().contains(words), "{words}");
        }
        // Another limit judges what was counted before.
        stage.daemon.write_policy("policy.yaml", &POLICY.replace("max_cost: 10", "max_cost: 13")).unwrap();
        stage.daemon.reload().unwrap();
        assert_eq!(stage.reason("dear", &stage.bob), "no decision");
        assert_eq!(stage.top(), [("budget".to_owned(), 13, 13)]);
        assert_eq!(served.load(Ordering::Relaxed), 4);
    });
}

/// A call to `slow` that its server has, and answers with a stream.
fn slow(stage: &Stage, puppet: &Puppet, agent: &Credential) -> (Line, guard_tests::puppet::Heard) {
    let mut line = stage.https.line().unwrap();
    line.send(&call("slow", agent).bytes()).unwrap();
    let mut heard = puppet.hear().unwrap();
    heard.stream().unwrap();
    heard.event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "x"}})).unwrap();
    line.head().unwrap();
    (line, heard)
}

#[test]
fn a_call_is_under_way_until_its_stream_ends_its_client_goes_or_its_server_dies() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let stage = stage();
        let free = |count: u64| {
            let under_way = || {
                let used = stage
                    .top()
                    .into_iter()
                    .find(|(rule, ..)| rule == "at-once")
                    .map_or(0, |(_, used, _)| used);
                Ok((used == count).then_some(()))
            };
            eventually(Duration::from_secs(10), under_way).unwrap();
        };
        let (first, mut first_heard) = slow(&stage, &puppet, &stage.alice);
        let (second, second_heard) = slow(&stage, &puppet, &stage.bob);
        free(2);
        for agent in [&stage.alice, &stage.bob] {
            assert_eq!(stage.reason("slow", agent), "velocity_exceeded");
        }
        assert!(puppet.heard().is_none(), "it reached the server");
        // The answer comes, and the stream ends.
        first_heard.event(&json!({"jsonrpc": "2.0", "id": 1, "result": {"content": []}})).unwrap();
        drop(first_heard);
        free(1);
        drop(first);
        // The client goes.
        let (third, third_heard) = slow(&stage, &puppet, &stage.alice);
        free(2);
        drop(third);
        free(1);
        drop(third_heard);
        // The server goes.
        drop(second_heard);
        free(0);
        drop(second);
        let records = stage.daemon.ledger().unwrap();
        let told: Vec<_> =
            records.calls("allow", "slow").map(|call| call.get("would_deny").cloned()).collect();
        assert_eq!(told, [None, None, Some(json!(["trial"]))], "the second one of alice");
        let counted: Vec<_> =
            records.calls("allow", "slow").map(|call| call.get("counted").is_some()).collect();
        assert_eq!(counted, [true, true, false], "a rule in shadow counts what it would have let pass");
    });
}

#[test]
fn an_agent_that_needs_all_counters_leaves_the_others_those_kept_for_them() {
    apart(|| {
        let served = Puppet::at(ADDRESS).unwrap().answer_all(done_for);
        let stage = stage_with(&json!({
            "velocity_keys_max": 1, "velocity_keys_per_agent_max": 2, "velocity_keys_per_agent_kept": 1,
        }));
        assert_eq!(stage.reason("slow", &stage.bob), "no decision", "needs two");
        assert_eq!(stage.reason("read", &stage.alice), "no decision", "kept for it");
        assert_eq!(stage.reason("dear", &stage.alice), "velocity_exceeded", "would be its second");
        assert_eq!(stage.reason("read", &stage.alice), "no decision", "what it has counts on");
        assert_eq!(stage.reason("read", &stage.bob), "no decision");
        assert_eq!(served.load(Ordering::Relaxed), 4);
        let records = stage.daemon.ledger().unwrap();
        let texts: Vec<_> = records.calls("deny", "dear").map(|call| call["text"].clone()).collect();
        let full =
            "calls already need 1 counters beyond those kept for each agent, and there is room for no more";
        assert_eq!(texts, [full]);
    });
}
