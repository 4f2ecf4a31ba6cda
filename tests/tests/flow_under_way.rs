//! What is under way while a reload labels it higher, while time goes by, and where rules speak of what only a server asks.

use std::fs;

use guard_tests::https::{Https, Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done};
use serde_json::{Value, json};

const POLICY: &str = r"
agents:
  tester: {client_id: tester}
intents:
  note: [{server: demo, tool: note, label: internal}]
  other: [{server: demo, tool: other, label: public}]
policies:
  - {intent: '*', agents: [tester], decision: allow}
default_label: public
flow_rules:
  - {name: stays-here, after: restricted, sink: external, decision: deny}
";

fn progress(words: &str) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1, "message": words}})
}

fn reload(scene: &Scene, policy: &str) {
    scene.daemon.write_policy("policy.yaml", policy).unwrap();
    scene.daemon.reload().unwrap();
}

fn outcome_of(scene: &Scene, tool: &str) -> Value {
    let found = eventually(START_LIMIT, || {
        let ledger = scene.daemon.ledger()?;
        let call = ledger.calls("allow", tool).last().cloned();
        Ok(call.and_then(|call| ledger.outcome_of(&call).cloned()))
    });
    found.unwrap().expect("an outcome")
}

/// The stream of a session of HTTP+SSE, as its client and its server have it.
fn sse(scene: &Scene, path: &str) -> (Line, Heard) {
    let mut line = scene.https.line().unwrap();
    let get = Request { path: "/sse".into(), ..Request::bare("GET").by(&scene.credential) };
    line.send(&get.bytes()).unwrap();
    let mut heard = scene.puppet.hear().unwrap();
    heard.stream().unwrap();
    heard.write(format!("event: endpoint\ndata: {path}\n\n")).unwrap();
    line.head().unwrap();
    line.chunks_until("\n\n").unwrap();
    (line, heard)
}

/// A message that the server accepts; its answer comes on the stream.
fn accepted(scene: &Scene, path: &str, message: &Value) {
    let mut line = scene.https.line().unwrap();
    line.send(&Request { path: path.into(), ..scene.post(message) }.bytes()).unwrap();
    let mut heard = scene.puppet.hear().unwrap();
    heard.write("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
    assert_eq!(line.answer().unwrap().status, 202);
}

#[test]
fn a_label_that_a_reload_raises_ends_a_call_of_http_sse_and_neither_its_stream_nor_other_calls() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| {
            daemon.config.servers[0].sse_path = Some("/sse".into());
            daemon.write_policy("policy.yaml", POLICY)
        });
        let scene = scene.unwrap();
        let path = "/message?sessionId=1";
        let (mut line, mut heard) = sse(&scene, path);
        accepted(&scene, path, &call(7, "note"));
        accepted(&scene, path, &call(8, "other"));
        heard.event(&progress("before")).unwrap();
        line.chunks_until("before").unwrap();
        reload(&scene, &POLICY.replace("label: internal", "label: confidential"));
        // Nobody can tell which of the two calls it is about.
        heard.event(&progress("what is confidential by now")).unwrap();
        heard.event(&done(7)).unwrap();
        let told = line.chunks_until("access_withdrawn").unwrap();
        assert!(!told.contains("by now") && !told.contains("\"done\""), "{told}");
        heard.event(&done(8)).unwrap();
        let told = line.chunks_until("\"done\"").unwrap();
        assert!(told.contains("\"id\":8"), "{told}");
        heard.event(&progress("after")).unwrap();
        line.chunks_until("after").unwrap();
        let outcome = outcome_of(&scene, "note");
        assert_eq!(
            (&outcome["result"], &outcome["reason"]),
            (&json!("cut_off"), &json!("access_withdrawn")),
            "{outcome}"
        );
        assert_eq!(outcome_of(&scene, "other")["result"], "ok");
        // Asked for anew, it raises the mark.
        accepted(&scene, path, &call(9, "note"));
        heard.event(&done(9)).unwrap();
        line.chunks_until("\"done\"").unwrap();
        let listed = scene.daemon.json("sessions", &["list"]).unwrap();
        let labels = &listed["contexts"][0]["labels"];
        assert!(labels.as_array().unwrap().contains(&json!("confidential")), "{listed}");
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
    });
}

/// A server may ask its client for so long, and the session goes on.
const SHORT: &str = r"
agents:
  tester: {client_id: tester}
intents:
  note: [{server: demo, tool: note}]
  ask: [{server: demo, server_request: elicitation/create}]
policies:
  - {intent: note, agents: [tester], decision: allow}
  - {intent: ask, agents: [tester], decision: allow, conditions: {max_session_minutes: 5}}
";

fn initialize() -> Value {
    let client = json!({"name": "t", "version": "1"});
    let params =
        json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}}, "clientInfo": client});
    json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})
}

/// Opens a session at a server that gives it this id.
fn open(scene: &Scene, id: &str) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&initialize()).bytes()).unwrap();
    let result = json!({"protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "p", "version": "1"}});
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": result});
    scene.puppet.hear().unwrap().answer_with(&format!("Mcp-Session-Id: {id}\r\n"), &result).unwrap();
    assert_eq!(line.answer().unwrap().status, 200);
}

/// The session as if it were opened so many minutes earlier.
fn grow_old(scene: &Scene, minutes: u64) {
    let file = scene.daemon.config.state_dir.join("sessions.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let mut changed = 0;
    let older = |line: &str| {
        let mut line: Value = serde_json::from_str(line).unwrap();
        if let Some(opened_at) = line["opened_at"].as_u64() {
            line["opened_at"] = json!(opened_at - minutes * 60_000);
            changed += 1;
        }
        format!("{line}\n")
    };
    let text: String = text.lines().map(older).collect();
    assert_eq!(changed, 1, "{text}");
    fs::write(&file, text).unwrap();
}

#[test]
fn what_a_server_asks_late_in_a_session_is_late_for_a_rule_on_its_age() {
    apart(|| {
        let mut scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", SHORT)).unwrap();
        open(&scene, "s-1");
        let ask = |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "elicitation/create", "params": {"message": format!("Which {id}?")}});
        // Whether the client gets a question that comes in the course of a call.
        let is_asked = |scene: &Scene, id: u64| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(id, "note")).with("Mcp-Session-Id", "s-1").bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            heard.stream().unwrap();
            line.head().unwrap();
            heard.event(&ask(id + 1)).unwrap();
            heard.event(&done(id)).unwrap();
            let told = line.chunks_until("\"done\"").unwrap();
            told.contains("Which")
        };
        assert!(is_asked(&scene, 10));
        scene.daemon.kill().unwrap();
        grow_old(&scene, 10);
        scene.daemon.start().unwrap();
        scene.https = Https::new(ADDRESS, &scene.daemon.ca()).unwrap();
        assert!(!is_asked(&scene, 20), "the session is older than five minutes");
        let errand = scene.puppet.hear().unwrap();
        assert_eq!(
            (&errand.message()["id"], &errand.message()["error"]["code"]),
            (&json!(21), &json!(40_300))
        );
        errand.answer(&json!({})).unwrap();
        reload(&scene, &SHORT.replace("session_minutes: 5", "session_minutes: 15"));
        assert!(is_asked(&scene, 30), "by this rule it is young enough");
    });
}
