//! The hostile corpus against the guard: each case is refused with its status and reason, none reaches the server, and
//! the healthy cases between them arrive byte for byte.

use guard_tests::corpus::{self, Case};
use guard_tests::https::Line;
use guard_tests::puppet::Heard;
use guard_tests::scene::{Scene, apart, call, done};
use serde_json::{Value, json};

/// What the healthy cases call.
const POLICY: &str = r"
agents:
  tester: {client_id: test-client}
intents:
  demo.read: [{server: demo, tool: read_customer}, {server: demo, tool: a}, {server: demo, tool: open}]
policies:
  - {intent: demo.read, agents: [tester], decision: allow}
";
/// Healthy in form, but no call of a tool that the agent may use.
const REFUSED_BY_POLICY: [&str; 4] = [
    "trailing space in the tool name",
    "call without name",
    // Without a session nobody can tell whose request they answer.
    "client response",
    "client error response",
];

fn scene() -> Scene {
    Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap()
}

fn credential(scene: &Scene) -> String {
    let credential = &scene.credential;
    format!(
        "X-Client-ID: {}\r\nX-Profile-ID: {}\r\nAuthorization: Bearer {}\r\n",
        credential.client, credential.profile, credential.secret
    )
}

fn send(scene: &Scene, case: &Case) -> Line {
    let mut line = scene.https.line().unwrap();
    // The guard may have refused it, and closed, before its last byte.
    let _ = line.send(&case.on_the_wire(&credential(scene)));
    line
}

#[test]
fn every_hostile_request_is_refused_with_its_reason_and_none_reaches_the_server() {
    apart(|| {
        let scene = scene();
        let cases = [corpus::cases("json").unwrap(), corpus::cases("http").unwrap()].concat();
        let mut wrong = Vec::new();
        let hostile: Vec<_> = cases.into_iter().filter(Case::is_hostile).collect();
        for case in &hostile {
            match send(&scene, case).answer() {
                Ok(answer) => {
                    let message: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
                    let reason = &message["error"]["data"]["mcp-guard/decision"]["reason"];
                    if answer.status != case.status || *reason != case.reason {
                        wrong.push(format!(
                            "{}: {} {reason}, not {} {}",
                            case.name, answer.status, case.status, case.reason
                        ));
                    }
                }
                Err(error) => wrong.push(format!("{}: {error:#}", case.name)),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));

        // The first request that the server gets is this one.
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        let heard = scene.puppet.hear().unwrap();
        assert_eq!(heard.message(), call(1, "open"));
        heard.answer(&done(1)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(1));

        let ledger = scene.daemon.ledger().unwrap();
        let denied: Vec<_> = ledger.of_kind("call").filter(|record| record["decision"] == "deny").collect();
        let reasons: Vec<_> = denied.iter().map(|record| record["reason"].as_str().unwrap()).collect();
        let expected: Vec<_> = hostile.iter().map(|case| case.reason.as_str()).collect();
        assert_eq!(reasons, expected, "one record for each, in order");
    });
}

/// Answers as a server would, and returns what it was asked.
fn serve(mut heard: Heard) -> Vec<u8> {
    let body = std::mem::take(&mut heard.body);
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    if message["id"].is_null() || message["method"].is_null() {
        heard.write("HTTP/1.1 202 Accepted\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").unwrap();
    } else {
        let answer = json!({"jsonrpc": "2.0", "id": message["id"], "result": {}});
        heard.answer(&answer).unwrap();
    }
    body
}

#[test]
fn every_healthy_request_between_them_arrives_byte_for_byte() {
    apart(|| {
        let scene = scene();
        let cases = [corpus::cases("json").unwrap(), corpus::cases("http").unwrap()].concat();
        for case in cases.iter().filter(|case| !case.is_hostile()) {
            let mut line = send(&scene, case);
            let requests = if case.name == "two requests on one connection" { 2 } else { 1 };
            for _ in 0..requests {
                if !REFUSED_BY_POLICY.contains(&case.name.as_str()) {
                    let got = serve(scene.puppet.hear().unwrap());
                    if case.headers.is_some() {
                        assert_eq!(got, case.bytes, "{}", case.name);
                    }
                }
                let answer = line.answer().unwrap();
                assert!(matches!(answer.status, 200 | 202), "{}: {answer:?}", case.name);
            }
        }
        assert!(scene.puppet.heard().is_none());
    });
}
