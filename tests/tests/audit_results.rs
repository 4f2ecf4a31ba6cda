//! What a call was answered with, in its record: as a digest of what the client got, by which who has the text finds the call.

use std::io::Write;
use std::process::Stdio;

use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{Scene, apart, call};
use serde_json::json;

const POLICY: &str = r"
agents: {tester: {client_id: tester}}
intents:
  open: [{server: demo, tool: open}]
  keys: [{server: demo, tool: keys}]
policies:
  - {intent: '*', agents: [tester], decision: allow}
inspect:
  - {name: hide, detect: [email], action: mask}
  - {name: no-keys, intent: keys, detect: [secret], action: refuse}
";

/// What the record of the only call that `ask` makes has as the digest of its answer.
fn recorded(scene: &Scene, ask: impl FnOnce()) -> serde_json::Value {
    let outcomes =
        || -> anyhow::Result<Vec<_>> { Ok(scene.daemon.ledger()?.of_kind("outcome").cloned().collect()) };
    let before = outcomes().unwrap().len();
    ask();
    let found = eventually(START_LIMIT, || Ok(outcomes()?.get(before).cloned()));
    found.unwrap().expect("an outcome")["result_digest"].clone()
}

/// What `audit hash --result -` makes of it.
fn hashed(scene: &Scene, text: &str) -> String {
    let mut hash = scene.daemon.command("audit hash");
    let mut child =
        hash.args(["--result", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let told = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    told.strip_suffix("  result\n").unwrap_or_else(|| panic!("{told}")).to_owned()
}

#[test]
fn who_has_what_an_agent_was_told_finds_the_call_that_told_it() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap();
        let answered = |tool: &str, text: &str, told: &str| {
            recorded(&scene, || {
                let mut line = scene.https.line().unwrap();
                line.send(&scene.post(&call(1, tool)).bytes()).unwrap();
                let mut heard = scene.puppet.hear().unwrap();
                let fields = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
                heard.write(format!("{fields}Content-Length: {}\r\n\r\n{text}", text.len())).unwrap();
                drop(heard);
                let answer = line.answer().unwrap().text();
                assert!(answer.contains(told), "{answer}");
            })
        };
        // As it stands there, blanks and all.
        let result = r#"{"content" : [ {"type":"text","text":"caf\u00e9"} ]}"#;
        let plain = answered("open", &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#), result);
        assert_eq!(plain, hashed(&scene, result));
        assert_eq!(plain, hashed(&scene, &format!("\n{result}\n")), "blanks around it are nothing");
        // An error.
        let error = r#"{"code":-32000,"message":"no"}"#;
        let failed = answered("open", &format!(r#"{{"jsonrpc":"2.0","error":{error},"id":1}}"#), error);
        assert_eq!(failed, hashed(&scene, error));
        // What the client got, not what the server said.
        let (said, got) = (r#"{"a":"x@d.example"}"#, r#"{"a":"[email]"}"#);
        let masked = answered("open", &format!(r#"{{"jsonrpc":"2.0","id":1,"result":{said}}}"#), got);
        assert_eq!(masked, hashed(&scene, got));
        // Nothing that came from the server.
        let kept =
            answered("keys", r#"{"jsonrpc":"2.0","id":1,"result":{"k":"AKIAIOSFODNN7EXAMPLE"}}"#, "refused");
        assert!(kept.is_null(), "{kept}");
        // The last message of a stream.
        let streamed = recorded(&scene, || {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            heard.stream().unwrap();
            heard
                .event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"result": 7}}))
                .unwrap();
            heard.event(&json!({"jsonrpc": "2.0", "id": 1, "result": {"streamed": true}})).unwrap();
            drop(heard);
            line.answer().unwrap();
        });
        assert_eq!(streamed, hashed(&scene, r#"{"streamed":true}"#));

        let query = ["--result", plain.as_str().unwrap(), "--json"];
        let told = scene.daemon.output("audit query", &query).unwrap();
        let lines = String::from_utf8(told.stdout).unwrap();
        let kinds: Vec<_> = lines.lines().map(|line| line.contains(plain.as_str().unwrap())).collect();
        assert!(kinds.contains(&true) && kinds.len() <= 2, "{lines}");
        let none = scene.daemon.output("audit query", &["--result", &"0".repeat(32), "--json"]).unwrap();
        assert!(!String::from_utf8(none.stdout).unwrap().contains("result_digest"));
    });
}
