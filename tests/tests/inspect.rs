//! Answers that hold what an agent must not get: masked or kept back, whole and on streams, however a server writes them.

use guard_tests::https::Request;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{Scene, apart, call, done};
use serde_json::{Value, json};

const POLICY: &str = r"
agents: {tester: {client_id: tester}}
intents:
  open: [{server: demo, tool: open}]
  keys: [{server: demo, tool: keys}]
  files: [{server: demo, resource: 'file:///*'}]
policies:
  - {intent: '*', agents: [tester], decision: allow}
inspect:
  - {name: hide, detect: [email, card], action: mask}
  - {name: no-keys, intent: keys, detect: [secret], action: refuse}
  - {name: look, detect: [phone], action: count}
  - {name: trial, detect: [iban], action: refuse, shadow: true}
";
const KEY: &str = "AKIAIOSFODNN7EXAMPLE";

fn scene() -> Scene {
    Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap()
}

/// What the client gets of an answer that the server writes so.
fn told(scene: &Scene, message: &Value, answer: &str) -> String {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(message).bytes()).unwrap();
    let mut heard = scene.puppet.hear().unwrap();
    let fields = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n";
    heard.write(format!("{fields}Content-Length: {}\r\n\r\n{answer}", answer.len())).unwrap();
    drop(heard);
    line.answer().unwrap().text()
}

fn outcomes(scene: &Scene, count: usize) -> Vec<Value> {
    let found = eventually(START_LIMIT, || {
        let ledger = scene.daemon.ledger()?;
        let outcomes: Vec<_> = ledger.of_kind("outcome").cloned().collect();
        Ok((outcomes.len() >= count).then_some(outcomes))
    });
    found.unwrap().expect("outcomes")
}

#[test]
fn escaped_nested_and_numeric_hits_are_masked_in_whole_answers_and_the_rest_stays() {
    apart(|| {
        let scene = scene();
        for (answer, expected) in [
            (
                r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"to \u0061da\u0040mail.example\n"}], "structuredContent":{"a":{"b":[4111111111111111]},"c@d.example":1.50}}}"#,
                r#"{"jsonrpc":"2.0","id":1,"result":{"content":[{"type":"text","text":"to [email]\n"}], "structuredContent":{"a":{"b":["****1111"]},"[email 1]":1.50}}}"#,
            ),
            (
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no a@b.example","data":["4111 1111 1111 1111"]}}"#,
                r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"no [email]","data":["****1111"]}}"#,
            ),
        ] {
            assert_eq!(told(&scene, &call(1, "open"), answer), expected);
        }
        let read =
            json!({"jsonrpc": "2.0", "id": 1, "method": "resources/read", "params": {"uri": "file:///a"}});
        let answer = r#"{"jsonrpc":"2.0","id":1,"result":{"contents":[{"uri":"file:///a","text":"x a@b.example +49 30 1234567 DE89370400440532013000"}]}}"#;
        let text = told(&scene, &read, answer);
        assert!(text.contains("x [email] +49 30 1234567 DE89"), "{text}");
        let outcomes = outcomes(&scene, 3);
        let inspected = &outcomes[2]["inspected"];
        assert_eq!(inspected["hits"], json!({"email": 1, "phone": 1, "iban": 1}));
        assert_eq!((&inspected["rules"], &inspected["would"]), (&json!(["hide"]), &json!(["trial"])));
        assert_eq!(outcomes[2]["response_bytes"], json!(text.len()));
        assert_eq!(scene.daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn nothing_of_an_answer_that_a_rule_refuses_goes_on_and_the_agent_is_told_which() {
    apart(|| {
        let scene = scene();
        let answer = json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": format!("before {KEY} after")}]}});
        let text = told(&scene, &call(1, "keys"), &answer.to_string());
        assert!(text.contains("no-keys") && text.contains("result_refused"), "{text}");
        assert!(!text.contains("AKIA") && !text.contains("before"), "{text}");
        let text = told(&scene, &call(1, "open"), &answer.to_string());
        assert!(text.contains(KEY), "the rule is about another intent: {text}");
        let outcomes = outcomes(&scene, 2);
        assert_eq!(
            (&outcomes[0]["result"], &outcomes[0]["reason"]),
            (&json!("refused"), &json!("result_refused"))
        );
        assert_eq!(outcomes[0]["inspected"]["rules"], json!(["no-keys"]));

        // What is no message is looked at, too; what is no text cannot be.
        for (body, passes) in [(&b"sorry, ask a@b.example"[..], true), (&b"\xff\xfea@b"[..], false)] {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            let fields = format!(
                "HTTP/1.1 500 Oh\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            heard.write(fields).unwrap();
            heard.write(body).unwrap();
            drop(heard);
            let text = line.answer().unwrap().text();
            assert_eq!(text.contains("sorry, ask [email]"), passes, "{text}");
            assert!(passes || text.contains("no inspection rule can look into it"), "{text}");
        }
    });
}

#[test]
fn what_clients_read_otherwise_than_the_guard_does_not_go_on() {
    apart(|| {
        let scene = scene();
        let utf16: Vec<u8> = "{\"a\":\"a@b.example\"}".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let told = |kind: &str, body: &[u8]| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            let fields = format!(
                "HTTP/1.1 500 Oh\r\nContent-Type: {kind}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            heard.write(fields).unwrap();
            heard.write(body).unwrap();
            drop(heard);
            line.answer().unwrap().text()
        };
        let marked = [&b"\xef\xbb\xbf"[..], b"{\"a\":\"a@b.example\"}"].concat();
        for (kind, body) in [
            ("text/plain", &utf16[..]),
            ("text/plain", &marked[..]),
            ("text/plain", b" {\"n\": NaN, \"a\": \"x\"}"),
            ("application/json", b"NaN"),
        ] {
            let text = told(kind, body);
            assert!(text.contains("no inspection rule can look into it"), "{body:?}: {text}");
        }
        for (kind, body) in [("text/plain", &b"<p>{NaN}</p>"[..]), ("application/json", b"{\"n\": 1}")] {
            assert_eq!(told(kind, body).as_bytes(), body);
        }
    });
}

#[test]
fn what_is_said_to_be_in_other_letters_does_not_go_on_where_a_rule_binds() {
    let told = |scene: &Scene, head: &str, body: &[u8]| {
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        heard
            .write(format!("HTTP/1.1 {head}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len()))
            .unwrap();
        heard.write(body).unwrap();
        drop(heard);
        line.answer().unwrap().text()
    };
    // To who reads UTF-7 an address, and to the guard an error about nothing.
    let error = br#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"a+AEA-b.example"}}"#;
    let event = [&b"data: "[..], error, b"\n\n"].concat();
    let others = [
        ("500 Oh\r\nContent-Type: text/plain; charset=utf-7", &b"a+AEA-b.example"[..]),
        ("400 No\r\nContent-Type: application/json; charset=\"UTF-7\"", error),
        ("200 OK\r\nContent-Type: text/plain;charset=UTF-16", "愀䀀戀⸀攀砀".as_bytes()),
        (
            "500 Oh\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Type: text/plain; charset=cp037",
            b"x",
        ),
    ];
    apart(|| {
        let scene = scene();
        for (head, body) in others {
            let text = told(&scene, head, body);
            assert!(text.contains("no inspection rule can look into it"), "{head}: {text}");
        }
        for head in ["200 OK", "500 Oh"] {
            let text =
                told(&scene, &format!("{head}\r\nContent-Type: text/event-stream; charset=utf-7"), &event);
            assert!(text.contains("what its Content-Type means") && !text.contains("AEA"), "{head}: {text}");
        }
        for charset in ["utf-8", "\"UTF-8\"", "us-ascii"] {
            let head = format!("500 Oh\r\nContent-Type: text/plain; charset={charset}");
            assert_eq!(told(&scene, &head, b"sorry, ask a@b.example"), "sorry, ask [email]", "{charset}");
        }
    });
    apart(|| {
        let counts =
            POLICY.replace("action: mask", "action: count").replace("action: refuse}", "action: count}");
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", &counts)).unwrap();
        for (head, body) in &others[..2] {
            assert_eq!(
                told(&scene, head, body).as_bytes(),
                *body,
                "rules that count keep nothing back: {head}"
            );
        }
    });
}

#[test]
fn more_than_can_be_masked_is_kept_back_and_counted() {
    apart(|| {
        let scene = scene();
        let text = "a@b.example ".repeat(70_000);
        let answer =
            json!({"jsonrpc": "2.0", "id": 1, "result": {"content": [{"type": "text", "text": text}]}});
        let text = told(&scene, &call(1, "open"), &answer.to_string());
        assert!(text.contains("hide") && text.contains("result_refused"), "{}", text.len());
        assert!(!text.contains("b.example"));
        assert_eq!(outcomes(&scene, 1)[0]["inspected"]["hits"], json!({"email": 70_000}));
    });
}

#[test]
fn streams_progress_and_resumed_answers_are_no_way_around() {
    apart(|| {
        let scene = scene();
        let bare = |method| Request::bare(method).by(&scene.credential).with("Mcp-Session-Id", "s-1");
        let mut line = scene.https.line().unwrap();
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
        line.send(&scene.post(&initialize).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer_with("Mcp-Session-Id: s-1\r\n", &done(1)).unwrap();
        line.answer().unwrap();

        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(2, "keys")).with("Mcp-Session-Id", "s-1").bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        let progress = |message: &str| json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1, "message": message}});
        heard.event(&progress(&format!("found {KEY}"))).unwrap();
        heard.write(": a@b.example\n\n").unwrap();
        // In pieces, and over several lines of data.
        for part in [
            "id: 5\nevent: message\nda",
            "ta: {\"jsonrpc\":\"2.0\",\ndata: \"method\":\"notifications/progress\",\"params\":{\"progressToken\":1,\"progress\":2,\"message\":\"a\\u00",
            "40b.exam",
            "ple\"}}\n\n",
        ] {
            heard.write(part).unwrap();
        }
        let event = line.chunks_until("[email]").unwrap();
        assert!(!event.contains("AKIA") && !event.contains("b.example"), "{event}");
        // The stream breaks off, and the answer comes on the one that the client resumes.
        drop((heard, line));
        let mut line = scene.https.line().unwrap();
        line.send(&bare("GET").with("Last-Event-ID", "5").bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        let answer =
            json!({"jsonrpc": "2.0", "id": 2, "result": {"content": [{"type": "text", "text": KEY}]}});
        heard.event(&answer).unwrap();
        let event = line.chunks_until("\n\n").unwrap();
        assert!(event.contains("no-keys") && !event.contains("AKIA"), "{event}");
        // An answer that nobody knows of any more goes through all rules.
        let answer =
            json!({"jsonrpc": "2.0", "id": 77, "result": {"content": [{"type": "text", "text": KEY}]}});
        heard.event(&answer).unwrap();
        let event = line.chunks_until("\n\n").unwrap();
        assert!(event.contains("no-keys") && !event.contains("AKIA"), "{event}");
    });
}
