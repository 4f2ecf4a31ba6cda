//! What a call said, in its record: found by who has the key, and shown to nobody.

use std::io::Write;
use std::process::Stdio;

use guard_tests::https::Request;
use guard_tests::scene::{Scene, apart};
use serde_json::{Value, json};

const POLICY: &str = r"
agents: {tester: {client_id: tester}}
intents:
  refund: [{server: demo, tool: refund, in_clear: [amount, order.id]}]
policies:
  - {intent: refund, agents: [tester], decision: allow}
";

fn call(tool: &str, arguments: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
}

fn send(scene: &Scene, message: &Value) {
    let mut line = scene.https.line().unwrap();
    line.send(&Request::post(message).by(&scene.credential).bytes()).unwrap();
    if message["params"]["name"] == "refund" {
        scene.puppet.hear().unwrap().answer(&json!({"jsonrpc": "2.0", "id": 1, "result": {}})).unwrap();
    }
    line.answer().unwrap();
}

#[test]
fn who_has_the_key_finds_a_value_and_the_trail_shows_only_what_is_listed() {
    apart(|| {
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap();
        let order = json!({"id": "o-17", "email": "ada@secret.example"});
        send(
            &scene,
            &call("refund", &json!({"amount": 120.50, "order": order, "tags": ["x", "hidden-tag"]})),
        );
        send(&scene, &call("refund", &json!({"amount": 9, "order": {"email": "other@secret.example"}})));
        // Refused, and recorded all the same.
        send(&scene, &call("wipe", &json!({"who": "ada@secret.example"})));

        let ledger = scene.daemon.ledger().unwrap();
        let calls: Vec<Value> =
            ledger.of_kind("call").filter(|call| !call["arguments"].is_null()).cloned().collect();
        let shown = |call: &Value| -> Vec<(String, Value)> {
            let values = call["arguments"]["values"].as_array().unwrap().iter();
            values.map(|value| (value["name"].as_str().unwrap().to_owned(), value["clear"].clone())).collect()
        };
        let hidden = |name: &str| (name.to_owned(), Value::Null);
        assert_eq!(
            shown(&calls[0]),
            [
                ("amount".to_owned(), json!("120.5")),
                ("order.id".to_owned(), json!("\"o-17\"")),
                hidden("order.email"),
                hidden("tags[0]"),
                hidden("tags[1]"),
            ]
        );
        assert_eq!(shown(&calls[2]), [hidden("who")]);
        assert_eq!(calls[2]["decision"], "deny");

        let digest = |value: &str, kind: &str| {
            scene.daemon.json("audit hash", &[value]).unwrap()[kind].as_str().unwrap().to_owned()
        };
        let ada = digest("ada@secret.example", "text");
        assert_eq!(calls[0]["arguments"]["values"][2]["digest"], json!(ada));
        assert_eq!(calls[2]["arguments"]["values"][0]["digest"], json!(ada));
        assert_eq!(calls[0]["arguments"]["values"][0]["digest"], json!(digest("1205e-1", "number")));
        assert_ne!(digest("120.5", "text"), digest("120.5", "number"));

        let found = |value: &str| {
            let told = scene
                .daemon
                .output("audit query", &["--argument", value, "--json", "--kind", "call"])
                .unwrap();
            assert_eq!(told.status.code(), Some(0), "{told:?}");
            let lines = String::from_utf8(told.stdout).unwrap();
            lines.lines().filter(|line| line.contains("\"kind\":\"call\"")).count()
        };
        assert_eq!((found("ada@secret.example"), found("9"), found("nobody@secret.example")), (2, 1, 0));

        // From standard input, so that no history of a shell has it.
        let mut hash = scene.daemon.command("audit hash");
        let mut child = hash.arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"ada@secret.example").unwrap();
        let told = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        assert_eq!(told, format!("{ada}  text\n"));

        for file in std::fs::read_dir(scene.daemon.dir().join("state/audit")).unwrap() {
            let path = file.unwrap().path();
            if path.is_file() {
                // A file on its way to its name may be gone by now.
                let Ok(bytes) = std::fs::read(&path) else { continue };
                let text = String::from_utf8_lossy(&bytes).into_owned();
                assert!(
                    !text.contains("secret.example") && !text.contains("hidden-tag"),
                    "{}",
                    path.display()
                );
            }
        }
        let started: Vec<_> = ledger.of_kind("start").map(|start| start["digest_key"].clone()).collect();
        assert_eq!(started[0].as_str().map(str::len), Some(16));
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
    });
}
