//! JSON-RPC batches: refused, unless the server's entry has them split, and then judged and recorded one by one.

use guard_tests::daemon::Credential;
use guard_tests::https::{Answer, Line, Request};
use guard_tests::scene::{apart, call, done};
use guard_tests::tenants::{Tenants, reason};
use mcp_guard::config::Batches;
use serde_json::{Value, json};

const VERSION: &str = "2025-03-26";

fn splitting(limits: &Value) -> Tenants {
    Tenants::with(limits, |server| server.batches = Batches::Split).unwrap()
}

fn batch(session: &str, messages: &[Value], agent: &Credential) -> Request {
    Request::post(&json!(messages)).by(agent).with("Mcp-Session-Id", session)
}

/// Opens a session in which that version was agreed on.
fn open(tenants: &Tenants, agent: &Credential, id: &str, version: &str) {
    let initialize =
        json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": version}});
    let mut line = tenants.https.line().unwrap();
    line.send(&Request::post(&initialize).by(agent).bytes()).unwrap();
    let result = json!({"jsonrpc": "2.0", "id": 1, "result": {"protocolVersion": version}});
    tenants.puppet.hear().unwrap().answer_with(&format!("Mcp-Session-Id: {id}\r\n"), &result).unwrap();
    assert_eq!(line.answer().unwrap().status, 200);
}

fn assert_refused(answer: &Answer, word: &str) {
    assert_eq!((answer.status, reason(answer).as_str()), (400, word), "{answer:?}");
}

/// The message of the next event.
fn next(line: &mut Line) -> Value {
    let event = line.chunks_until("\n\n").unwrap();
    serde_json::from_str(event.trim_end().strip_prefix("event: message\ndata: ").expect(&event)).unwrap()
}

#[test]
fn a_batch_is_refused_unless_the_entry_and_the_agreed_version_have_batches() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        open(&tenants, &tenants.alice, "old", VERSION);
        let calls = [call(1, "open"), call(2, "open")];
        assert_refused(&tenants.refused(&batch("old", &calls, &tenants.alice)).unwrap(), "batch");
    });
    apart(|| {
        let tenants = splitting(&json!({"batch_messages_max": 2}));
        open(&tenants, &tenants.alice, "old", VERSION);
        open(&tenants, &tenants.alice, "new", "2025-06-18");
        let calls = [call(1, "open"), call(2, "open")];
        assert_refused(&tenants.refused(&batch("new", &calls, &tenants.alice)).unwrap(), "batch");
        let named = batch("old", &calls, &tenants.alice).with("MCP-Protocol-Version", "2025-11-25");
        assert_refused(&tenants.refused(&named).unwrap(), "batch");
        let modern = batch("old", &calls, &tenants.alice).with("MCP-Protocol-Version", "2026-07-28");
        assert_refused(&tenants.refused(&modern).unwrap(), "batch");
        for (messages, word) in [
            (vec![], "batch_size"),
            (vec![call(1, "open"), call(2, "open"), call(3, "open")], "batch_size"),
            (vec![call(1, "open"), call(1, "once")], "id_in_use"),
            (vec![json!({"jsonrpc": "2.0", "id": 1, "method": "initialize"})], "batch"),
            (vec![json!([call(1, "open")])], "batch"),
            (vec![call(1, "open"), json!({"jsonrpc": "1.0", "id": 2, "method": "ping"})], "jsonrpc_version"),
        ] {
            assert_refused(&tenants.refused(&batch("old", &messages, &tenants.alice)).unwrap(), word);
        }
        let stranger = tenants.refused(&Request::post(&json!(calls))).unwrap();
        assert_refused(&stranger, "batch");
    });
}

#[test]
fn a_batch_on_a_session_that_is_over_or_another_agents_is_not_found() {
    apart(|| {
        let tenants = splitting(&json!({}));
        open(&tenants, &tenants.alice, "old", VERSION);
        let calls = [call(1, "open"), call(2, "open")];
        let note = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
        for (session, messages, agent) in [
            ("old", &calls[..], &tenants.bob),
            ("none", &calls[..], &tenants.alice),
            ("none", &[note][..], &tenants.alice),
        ] {
            let answer = tenants.refused(&batch(session, messages, agent)).unwrap();
            assert_eq!((answer.status, reason(&answer).as_str()), (404, "unknown_session"), "{answer:?}");
        }
        let ledger = tenants.daemon.ledger().unwrap();
        let causes: Vec<_> = ledger
            .of_kind("call")
            .filter(|record| record["reason"] == "unknown_session")
            .map(|record| &record["cause"])
            .collect();
        assert_eq!(causes, ["another_agents", "unknown", "unknown"]);
    });
}

#[test]
fn each_message_of_a_batch_is_judged_forwarded_and_recorded_by_itself() {
    apart(|| {
        let tenants = splitting(&json!({}));
        open(&tenants, &tenants.alice, "old", VERSION);
        let note = json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": 1}});
        let messages = [call(1, "open"), call(2, "secret"), note.clone(), call(3, "once"), call(4, "once")];
        let mut line = tenants.https.line().unwrap();
        line.send(&batch("old", &messages, &tenants.alice).bytes()).unwrap();
        let begun = line.head().unwrap();
        assert_eq!((begun.status, begun.header("content-type")), (200, Some("text/event-stream")));

        let heard = tenants.puppet.hear().unwrap();
        assert_eq!((heard.message(), heard.header("mcp-session-id")), (call(1, "open"), Some("old")));
        heard.answer(&done(1)).unwrap();
        assert_eq!(next(&mut line), done(1));
        let hidden = next(&mut line);
        assert_eq!((&hidden["id"], &hidden["error"]["code"]), (&json!(2), &json!(-32602)));
        let mut heard = tenants.puppet.hear().unwrap();
        assert_eq!(heard.message(), note);
        heard.write("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        drop(heard);
        // A stream's events come as they are sent.
        let mut heard = tenants.puppet.hear().unwrap();
        assert_eq!(heard.message(), call(3, "once"));
        heard.stream().unwrap();
        heard.event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})).unwrap();
        assert_eq!(next(&mut line)["method"], "notifications/message");
        heard.event(&done(3)).unwrap();
        assert_eq!(next(&mut line), done(3));
        drop(heard);
        // The same call again is one too many.
        let refused = next(&mut line);
        assert_eq!((&refused["id"], &refused["result"]["isError"]), (&json!(4), &json!(true)));
        assert_eq!(line.chunk().unwrap(), None);
        assert!(tenants.puppet.heard().is_none());
        let ledger = tenants.daemon.ledger().unwrap();
        let records = |decision: &str, tool| ledger.calls(decision, tool).count();
        assert_eq!(
            [
                records("allow", "open"),
                records("deny", "secret"),
                records("allow", "once"),
                records("deny", "once")
            ],
            [1, 1, 1, 1]
        );
    });
}

#[test]
fn a_servers_http_error_is_no_message_of_the_stream() {
    apart(|| {
        let tenants = splitting(&json!({}));
        open(&tenants, &tenants.alice, "old", VERSION);
        let mut line = tenants.https.line().unwrap();
        line.send(&batch("old", &[call(1, "open"), call(2, "open")], &tenants.alice).bytes()).unwrap();
        line.head().unwrap();
        // Outside a batch no client takes it for one; here it would be an event that nobody has read.
        let body = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[],"tools":[{"name":"secret"}]}}"#;
        let head = "HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nConnection: close\r\n";
        let mut asked = tenants.puppet.hear().unwrap();
        asked.write(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
        let failed = next(&mut line);
        assert_eq!((&failed["id"], &failed["error"]["code"]), (&json!(1), &json!(50200)));
        drop(asked);
        tenants.puppet.hear().unwrap().answer(&done(2)).unwrap();
        assert_eq!(next(&mut line), done(2));

        // Nor is what only looks like events from afar.
        let mut line = tenants.https.line().unwrap();
        line.send(&batch("old", &[call(1, "open"), call(2, "open")], &tenants.alice).bytes()).unwrap();
        line.head().unwrap();
        let event = format!("data: {body}\n\n");
        let head = "HTTP/1.1 500 Odd\r\nContent-Type: text/event-stream2\r\nConnection: close\r\n";
        let mut asked = tenants.puppet.hear().unwrap();
        asked.write(format!("{head}Content-Length: {}\r\n\r\n{event}", event.len())).unwrap();
        let failed = next(&mut line);
        assert_eq!((&failed["id"], &failed["error"]["code"]), (&json!(1), &json!(50200)));
        drop(asked);
        tenants.puppet.hear().unwrap().answer(&done(2)).unwrap();
        assert_eq!(next(&mut line), done(2));
    });
}

#[test]
fn a_batch_without_requests_is_accepted_and_a_client_that_leaves_ends_the_rest() {
    apart(|| {
        let tenants = splitting(&json!({}));
        open(&tenants, &tenants.alice, "old", VERSION);
        let note = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}});
        let mut line = tenants.https.line().unwrap();
        line.send(&batch("old", &[note.clone(), note.clone()], &tenants.alice).bytes()).unwrap();
        for _ in 0..2 {
            let mut heard = tenants.puppet.hear().unwrap();
            assert_eq!(heard.message(), note);
            heard.write("HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        }
        let answer = line.answer().unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (202, ""));

        let mut line = tenants.https.line().unwrap();
        line.send(&batch("old", &[call(1, "open"), call(2, "open")], &tenants.alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        drop(line);
        heard.other_side_leaves().unwrap();
        tenants.served(&Request::post(&call(3, "open")).by(&tenants.bob), &json!({"content": []})).unwrap();
        assert_eq!(tenants.daemon.ledger().unwrap().calls("allow", "open").count(), 2);
    });
}

#[test]
fn a_batch_whose_agent_is_let_in_no_more_goes_no_further() {
    apart(|| {
        let tenants = splitting(&json!({}));
        open(&tenants, &tenants.alice, "old", VERSION);
        let mut line = tenants.https.line().unwrap();
        let messages = [call(1, "open"), call(2, "open"), call(3, "open")];
        line.send(&batch("old", &messages, &tenants.alice).bytes()).unwrap();
        line.head().unwrap();
        tenants.puppet.hear().unwrap().answer(&done(1)).unwrap();
        assert_eq!(next(&mut line), done(1));
        let mut heard = tenants.puppet.hear().unwrap();
        let credentials = tenants.daemon.json("tokens list", &[]).unwrap();
        let of_alice = credentials.as_array().unwrap().iter().find(|one| one["agent"] == "alice").unwrap();
        tenants.daemon.output("tokens revoke", &[of_alice["id"].as_str().unwrap()]).unwrap();
        tenants.daemon.reload().unwrap();
        for (id, reason) in [(2, "access_withdrawn"), (3, "unknown_credential")] {
            let told = next(&mut line);
            assert_eq!(told["id"], id);
            assert_eq!(told["result"]["_meta"]["mcp-guard/decision"]["reason"], reason, "{told}");
        }
        assert_eq!(line.chunk().unwrap(), None);
        heard.other_side_leaves().unwrap();
        assert!(tenants.puppet.heard().is_none());
    });
}
