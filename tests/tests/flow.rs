//! What an agent has read decides where it may send: across servers, sessions and restarts, until it is cleared.

use std::thread;

use guard_tests::daemon::{Credential, Daemon};
use guard_tests::https::{Https, Request};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done, done_for, guard};
use serde_json::{Value, json};

const POLICY: &str = r"
agents:
  tester: {client_id: tester}
  other: {client_id: other}
intents:
  crm: [{server: demo, tool: read, label: confidential}]
  mail: [{server: demo, tool: send, sink: external}]
  note: [{server: demo, tool: note, label: internal, sink: internal}]
policies:
  - {intent: '*', agents: [tester, other], decision: allow}
default_label: public
flow_rules:
  - {name: stays-here, after: confidential, sink: external, decision: deny, reason: 'It stays in the house'}
";

fn scene() -> (Daemon, Credential, Credential, Https) {
    let puppet = Puppet::at(ADDRESS).unwrap();
    let _count = puppet.answer_all(done_for);
    let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    let (tester, other) = (daemon.issue("tester").unwrap(), daemon.issue("other").unwrap());
    daemon.start().unwrap();
    let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
    (daemon, tester, other, https)
}

/// Stateless (2026-07-28): no session holds the two calls together.
fn modern(id: u64, tool: &str) -> Value {
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "t", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {}
    });
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}, "_meta": meta}})
}

fn told(https: &Https, credential: &Credential, message: &Value) -> String {
    let mut request = Request::post(message).by(credential);
    if !message["params"]["_meta"].is_null() {
        request = request
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", "tools/call")
            .with("Mcp-Name", message["params"]["name"].as_str().unwrap());
    }
    let mut line = https.line().unwrap();
    line.send(&request.bytes()).unwrap();
    line.answer().unwrap().text()
}

#[test]
fn who_has_read_cannot_send_in_either_era_until_an_operator_clears_it() {
    apart(|| {
        let (mut daemon, tester, other, https) = scene();
        let sends = |credential: &Credential, modern_era: bool| {
            let message = if modern_era { modern(2, "send") } else { call(2, "send") };
            let text = told(&https, credential, &message);
            assert!(text.contains("done") != text.contains("It stays in the house"), "{text}");
            text.contains("done")
        };
        assert!(sends(&tester, false) && sends(&tester, true));
        assert!(told(&https, &tester, &call(1, "note")).contains("done"));
        assert!(sends(&tester, false), "internal is below confidential");
        assert!(told(&https, &tester, &modern(1, "read")).contains("done"));
        assert!(
            !sends(&tester, false) && !sends(&tester, true),
            "read without a session, sent with and without one"
        );
        assert!(sends(&other, false), "another agent has not read it");
        assert!(told(&https, &tester, &call(3, "note")).contains("done"), "an internal sink is open");

        // A guard that was killed leaves it to the next one.
        daemon.kill().unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let text = told(&https, &tester, &call(4, "send"));
        assert!(text.contains("It stays in the house"), "{text}");

        let listed = daemon.json("sessions", &["list"]).unwrap();
        assert_eq!(
            listed["contexts"][1]["labels"],
            json!(["public", "internal", "confidential"]),
            "{listed}"
        );
        let nothing = daemon.output("sessions", &["clear", "--agent", "nobody"]).unwrap();
        assert_eq!(nothing.status.code(), Some(1), "{nothing:?}");
        let cleared = daemon.output("sessions", &["clear", "--agent", "tester"]).unwrap();
        assert_eq!(cleared.status.code(), Some(0), "{cleared:?}");
        assert!(told(&https, &tester, &call(5, "send")).contains("done"));

        let ledger = daemon.ledger().unwrap();
        let denied: Vec<_> = ledger.calls("deny", "send").cloned().collect();
        assert_eq!(denied.len(), 3);
        for record in &denied {
            assert_eq!(record["reason"], "flow");
            assert_eq!(record["rule"], "stays-here");
            assert_eq!(record["mark"], "confidential");
        }
        let read: Vec<_> = ledger.calls("allow", "read").cloned().collect();
        assert_eq!((&read[0]["label"], &read[0]["mark"]), (&json!("confidential"), &json!("internal")));
        assert_eq!(ledger.of_kind("contexts_cleared").count(), 1);
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn the_mark_stands_before_the_answer_is_there_and_a_session_that_ends_takes_none_of_it_away() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap();
        let open = |message: &Value| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(message).with("Mcp-Session-Id", "s-1").bytes()).unwrap();
            line
        };
        let mut line = scene.https.line().unwrap();
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
        line.send(&scene.post(&initialize).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer_with("Mcp-Session-Id: s-1\r\n", &done(1)).unwrap();
        line.answer().unwrap();
        // The server has the first call, and has not answered.
        let mut reading = open(&call(2, "read"));
        let mut heard = scene.puppet.hear().unwrap();
        let text = open(&call(3, "send")).answer().unwrap().text();
        assert!(text.contains("It stays in the house"), "{text}");
        heard.stream().unwrap();
        reading.head().unwrap();
        heard.event(&done(2)).unwrap();
        reading.chunks_until("done").unwrap();
        drop(heard);
        // The session ends, and the agent goes on in another one.
        let mut line = scene.https.line().unwrap();
        line.send(&Request::bare("DELETE").by(&scene.credential).with("Mcp-Session-Id", "s-1").bytes())
            .unwrap();
        scene.puppet.hear().unwrap().answer(&json!({})).unwrap();
        line.answer().unwrap();
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(4, "send")).bytes()).unwrap();
        let text = line.answer().unwrap().text();
        assert!(text.contains("It stays in the house"), "{text}");
    });
}

#[test]
fn what_was_read_is_forgotten_when_its_agent_was_idle_for_long_enough() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let _count = puppet.answer_all(done_for);
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        daemon.config.limits = serde_json::from_value(json!({"context_idle_seconds": 2})).unwrap();
        let tester = daemon.issue("tester").unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        assert!(told(&https, &tester, &call(1, "read")).contains("done"));
        assert!(!told(&https, &tester, &call(2, "send")).contains("done"));
        let contexts = || -> Value { daemon.json("sessions", &["list"]).unwrap()["contexts"].clone() };
        while contexts() != json!([]) {
            thread::sleep(std::time::Duration::from_millis(100));
        }
        assert!(told(&https, &tester, &call(3, "send")).contains("done"));
    });
}
