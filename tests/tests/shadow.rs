//! A server in shadow: its rules are judged, told and counted, and bind nobody. What no rule allows stays closed.

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, apart, call, guard};
use serde_json::{Value, json};

const POLICY: &str = r"
agents:
  tester: {client_id: tester}
  other: {client_id: other}
intents:
  crm: [{server: demo, tool: read, label: confidential}]
  mail: [{server: demo, tool: send, sink: external}]
  held: [{server: demo, tool: pay}]
  shut: [{server: demo, tool: drop}]
  free: [{server: demo, tool: free}]
policies:
  - {intent: crm, agents: [tester], decision: allow}
  - {intent: mail, agents: [tester], decision: allow}
  - {name: a-person, intent: held, agents: [tester], decision: escalate}
  - {name: big-ones, intent: held, agents: [tester], decision: escalate, conditions: {source: {remote: false}}}
  - {intent: shut, agents: [tester], decision: allow}
  - {name: never, intent: shut, agents: [tester], decision: deny}
default_label: public
default_sink: internal
flow_rules:
  - {name: stays-here, after: confidential, sink: external, decision: deny}
velocity_rules:
  - {name: once, agent: tester, intent: mail, window: 1h, max_calls: 1, exceeded_action: deny}
inspect:
  - {name: hide, detect: [email], action: mask}
";
const IN_SHADOW: &str = "shadow_servers: [demo]\n";

fn policy(in_shadow: bool) -> String {
    format!("{POLICY}{}", if in_shadow { IN_SHADOW } else { "" })
}

/// A guard with that policy before a server that says an address with each answer.
fn scene() -> (Daemon, Credential, Https) {
    let puppet = Puppet::at(ADDRESS).unwrap();
    let _count = puppet.answer_all(done);
    let mut daemon = guard("demo", &[("policy.yaml", &policy(true))]).unwrap();
    let tester = daemon.issue("tester").unwrap();
    daemon.start().unwrap();
    let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
    (daemon, tester, https)
}

fn told(https: &Https, tester: &Credential, tool: &str) -> String {
    let mut line = https.line().unwrap();
    line.send(&Request::post(&call(1, tool)).by(tester).bytes()).unwrap();
    line.answer().unwrap().text()
}

fn done(message: &Value) -> Value {
    let content = json!([{"type": "text", "text": "done by a@b.example"}]);
    json!({"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}})
}

#[test]
fn what_a_server_in_shadow_would_refuse_goes_on_and_is_told_and_what_nobody_allows_stays_closed() {
    apart(|| {
        let (daemon, tester, https) = scene();
        for tool in ["read", "send", "send", "pay", "drop"] {
            let text = told(&https, &tester, tool);
            assert!(text.contains("done by a@b.example"), "{tool}: {text}");
        }
        let text = told(&https, &tester, "free");
        assert!(text.contains("error") && !text.contains("done"), "nobody allows it: {text}");

        let ledger = daemon.ledger().unwrap();
        let would = |tool: &str| -> Vec<Value> {
            ledger.calls("allow", tool).map(|call| call["would_deny"].clone()).collect()
        };
        assert_eq!(would("read"), [Value::Null]);
        assert_eq!(would("send"), [json!(["stays-here"]), json!(["once", "stays-here"])]);
        assert_eq!(would("pay"), [json!(["a-person", "big-ones"])]);
        assert_eq!(would("drop"), [json!(["never"])]);
        let denied: Vec<_> = ledger.calls("deny", "free").map(|call| call["reason"].clone()).collect();
        assert_eq!(denied, ["default_deny"]);
        let policies: Vec<_> = ledger.of_kind("policy").map(|record| record["text"].clone()).collect();
        assert_eq!(policies, ["in shadow: demo"]);
        let inspected = eventually(START_LIMIT, || {
            let ledger = daemon.ledger()?;
            let outcomes: Vec<_> =
                ledger.of_kind("outcome").map(|record| record["inspected"].clone()).collect();
            Ok((outcomes.len() == 5).then_some(outcomes))
        });
        for inspected in inspected.unwrap().expect("outcomes") {
            assert_eq!((&inspected["would"], &inspected["rules"]), (&json!(["hide"]), &Value::Null));
        }
        let status = daemon.status().unwrap();
        assert_eq!(status["shadow_servers"], json!(["demo"]));
        let counts: Vec<_> = status["shadows"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| (&row["rule"], &row["would_deny"]))
            .collect();
        let count =
            |rule: &str| counts.iter().find(|(name, _)| *name == rule).map(|(_, count)| (*count).clone());
        assert_eq!(
            (count("stays-here"), count("once"), count("never")),
            (Some(json!(2)), Some(json!(1)), Some(json!(1)))
        );
        let words = String::from_utf8(daemon.output("status", &[]).unwrap().stdout).unwrap();
        assert!(words.contains("IN SHADOW   no rule refuses, holds or masks anything of demo"), "{words}");
        let checked = daemon.output("check", &[]).unwrap();
        assert!(String::from_utf8_lossy(&checked.stdout).contains("demo is in shadow"), "{checked:?}");
    });
}

#[test]
fn the_rules_of_a_server_bind_from_the_reload_on_that_takes_it_out_of_shadow() {
    apart(|| {
        let (daemon, tester, https) = scene();
        for tool in ["read", "send", "drop"] {
            assert!(told(&https, &tester, tool).contains("done by a@b.example"));
        }
        daemon.write_policy("policy.yaml", &policy(false)).unwrap();
        daemon.json("reload", &[]).unwrap();
        assert!(told(&https, &tester, "read").contains("done by [email]"));
        for (tool, reason) in [("send", "flow"), ("drop", "denied_by_rule")] {
            let text = told(&https, &tester, tool);
            assert!(text.contains(reason) && !text.contains("done"), "{tool}: {text}");
        }
        // What was counted in shadow counts.
        let cleared = daemon.output("sessions", &["clear", "--agent", "tester"]).unwrap();
        assert_eq!(cleared.status.code(), Some(0), "{cleared:?}");
        let text = told(&https, &tester, "send");
        assert!(text.contains("velocity") && !text.contains("done"), "{text}");
        assert_eq!(daemon.status().unwrap()["shadow_servers"], json!([]));
    });
}

#[test]
fn what_a_rule_in_shadow_would_have_refused_is_a_metric() {
    apart(|| {
        let (mut daemon, tester, https) = scene();
        for _ in 0..2 {
            assert!(told(&https, &tester, "drop").contains("done by a@b.example"));
        }
        let metrics = daemon.output("metrics", &[]).unwrap();
        let text = String::from_utf8(metrics.stdout).unwrap();
        for line in [
            "mcp_guard_up 1",
            "mcp_guard_protected 1",
            "mcp_guard_would_deny_calls_total{rule=\"never\"} 2",
            "mcp_guard_server_in_shadow{server=\"demo\"} 1",
            "mcp_guard_server_listeners{server=\"demo\"} 1",
        ] {
            assert!(text.lines().any(|told| told == line), "no {line} in\n{text}");
        }
        let steered = text
            .lines()
            .find_map(|line| line.strip_prefix("mcp_guard_kernel_events_total{event=\"steered\"} "));
        assert!(steered.unwrap().parse::<u64>().unwrap() >= 2, "{text}");
        assert!(text.ends_with("# EOF\n"), "{text}");
        daemon.stop().unwrap();
        let metrics = daemon.output("metrics", &[]).unwrap();
        let text = String::from_utf8(metrics.stdout).unwrap();
        assert!(metrics.status.code() == Some(3) && text.contains("mcp_guard_up 0\n"), "{text}");
    });
}
