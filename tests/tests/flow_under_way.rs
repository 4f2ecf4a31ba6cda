//! What is under way while a reload labels it higher, while time goes by, and where rules speak of what only a server asks.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;
use std::thread;

use guard_tests::https::{Https, Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
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

/// What one escalate rule leaves of what is under way: a task, and a stream of a method of the server's own.
const WATCHED: &str = r"
agents:
  tester: {client_id: tester}
intents:
  note: [{server: demo, tool: note}]
  slow: [{server: demo, tool: report}, {server: demo, method: acme/watch}]
policies:
  - {intent: note, agents: [tester], decision: allow}
  - {intent: slow, agents: [tester], decision: allow}
";

#[test]
fn an_escalate_rule_with_conditions_keeps_no_task_and_no_stream_open_and_one_without_them_does() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", WATCHED)).unwrap();
        open(&scene, "s-1");
        let on = |message: &Value| scene.post(message).with("Mcp-Session-Id", "s-1");
        let send = |message: &Value| {
            let mut line = scene.https.line().unwrap();
            line.send(&on(message).bytes()).unwrap();
            line
        };
        let mut line = send(&call(2, "report"));
        let made = json!({"task": {"taskId": "t-1", "status": "working", "ttl": 60000}});
        scene.puppet.hear().unwrap().answer(&json!({"jsonrpc": "2.0", "id": 2, "result": made})).unwrap();
        assert!(line.answer().unwrap().text().contains("t-1"));
        let mut watching = send(&json!({"jsonrpc": "2.0", "id": 3, "method": "acme/watch"}));
        let mut heard = scene.puppet.hear().unwrap();
        heard.stream().unwrap();
        watching.head().unwrap();
        heard.event(&progress("by the first policy")).unwrap();
        watching.chunks_until("by the first policy").unwrap();
        let ask =
            |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "tasks/get", "params": {"taskId": "t-1"}});
        // That a person has to agree was asked when they began.
        let rule = "{intent: slow, agents: [tester], decision: allow}";
        reload(&scene, &WATCHED.replace(rule, "{intent: slow, agents: [tester], decision: escalate}"));
        heard.event(&progress("by the second")).unwrap();
        watching.chunks_until("by the second").unwrap();
        let mut line = send(&ask(4));
        scene.puppet.hear().unwrap().answer(&done(4)).unwrap();
        assert!(line.answer().unwrap().text().contains("done"));
        let narrow = "{intent: slow, agents: [tester], decision: escalate, conditions: {in_session: true}}";
        reload(&scene, &WATCHED.replace(rule, narrow));
        let _ended = heard.event(&progress("by the third"));
        let told = watching.chunks_until("access_withdrawn").unwrap();
        assert!(!told.contains("by the third"), "{told}");
        let answer = send(&ask(5)).answer().unwrap().text();
        assert!(!answer.contains("done"), "{answer}");
        assert!(scene.puppet.heard().is_none(), "it reached the server");
        let record = scene.daemon.ledger().unwrap().of_kind("call").last().cloned().unwrap();
        assert_eq!(
            (&record["decision"], &record["reason"], &record["target"]["kind"]),
            (&json!("deny"), &json!("default_deny"), &json!("task")),
            "{record}"
        );
    });
}

const TRIAL: &str = r"
agents:
  tester: {client_id: tester}
intents:
  note: [{server: demo, tool: note, label: internal, sink: internal}]
  report: [{server: demo, tool: report, label: public}]
policies:
  - {intent: '*', agents: [tester], decision: allow}
default_label: public
flow_rules:
  - {name: trial, after: internal, sink: external, decision: deny, shadow: true}
";

/// A file system of its own for this thread alone.
fn small_disk(dir: &Path) {
    unshare(CloneFlags::CLONE_NEWNS).unwrap();
    let none = None::<&str>;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
    mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some("size=512k,mode=700")).unwrap();
}

#[test]
fn flow_rules_in_shadow_tell_of_tasks_and_forms_and_status_of_no_more_than_the_trail() {
    apart(|| {
        let disk = tempfile::tempdir().unwrap();
        small_disk(disk.path());
        let scene = Scene::with(&json!({}), |daemon| {
            daemon.config.audit.dir = Some(disk.path().join("audit"));
            daemon.config.audit.reserve_bytes = 0;
            daemon.config.servers[0].forward_authorization = true;
            daemon.config.servers[0].oauth_paths = vec!["/token".into()];
            daemon.write_policy("policy.yaml", TRIAL)
        });
        let scene = scene.unwrap();
        let served = |request: &Request, answer: &Value| {
            let mut line = scene.https.line().unwrap();
            line.send(&request.bytes()).unwrap();
            scene.puppet.hear().unwrap().answer(answer).unwrap();
            assert_eq!(line.answer().unwrap().status, 200);
        };
        let made = json!({"task": {"taskId": "t-1", "status": "working", "ttl": 60000}});
        served(&scene.post(&call(1, "report")), &json!({"jsonrpc": "2.0", "id": 1, "result": made}));
        served(&scene.post(&call(2, "note")), &done(2));
        let ask = |params: Value| json!({"jsonrpc": "2.0", "id": 3, "method": "tasks/get", "params": params});
        served(&scene.post(&ask(json!({"taskId": "t-1", "x": "what was read"}))), &done(3));
        let form = Request { path: "/token".into(), ..scene.post(&Value::Null) };
        let form = form.instead("Content-Type", "application/x-www-form-urlencoded").body("x=what+was+read");
        served(&form, &json!({"token_type": "Bearer"}));
        // What says nothing of the agent's.
        served(&scene.post(&ask(json!({"taskId": "t-1"}))), &done(3));
        let told = |scene: &Scene| -> Vec<Value> {
            let ledger = scene.daemon.ledger().unwrap();
            ledger.of_kind("call").map(|record| record["would_deny"].clone()).collect()
        };
        let trial = json!(["trial"]);
        assert_eq!(told(&scene), [Value::Null, Value::Null, trial.clone(), trial.clone(), Value::Null]);
        let counted = |scene: &Scene| scene.daemon.status().unwrap()["shadows"].clone();
        assert_eq!(counted(&scene), json!([{"rule": "trial", "would_deny": 2}]));
        // What has no record is not counted.
        let mut ballast = File::create(disk.path().join("ballast")).unwrap();
        while ballast.write(&[0; 4096]).is_ok() {}
        let mut tries = 0;
        loop {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(9, "report")).bytes()).unwrap();
            let waiting = thread::spawn(move || line.answer().unwrap().text());
            let told = eventually(START_LIMIT, || {
                if let Some(heard) = scene.puppet.heard() {
                    heard.answer(&done(9))?;
                }
                Ok(waiting.is_finished().then_some(()))
            });
            told.unwrap().expect("it goes on, or is refused");
            if waiting.join().unwrap().contains("audit_unavailable") {
                break;
            }
            tries += 1;
            assert!(tries < 1000, "the disk is not full");
        }
        let recorded = told(&scene).iter().filter(|would| **would == trial).count();
        assert_eq!(counted(&scene), json!([{"rule": "trial", "would_deny": recorded}]));
    });
}
