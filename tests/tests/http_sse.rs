//! HTTP+SSE (2024-11-05): a client posts to the path that its stream names first, and is answered on the stream.

use std::collections::BTreeSet;

use guard_tests::client::{Endpoint, Era};
use guard_tests::daemon::Credential;
use guard_tests::https::{Line, Request};
use guard_tests::peers::{Driver, Everything, Scenario, Step, Table, drive};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, PORT, apart, call, done, guard};
use guard_tests::tenants::{Tenants, reason};
use serde_json::{Value, json};

fn tenants(limits: &Value) -> Tenants {
    Tenants::with(limits, |server| server.sse_path = Some("/sse".into())).unwrap()
}

/// Opens a stream whose first event is `endpoint`; what the client sees of that event.
fn open(tenants: &Tenants, agent: &Credential, endpoint: &str) -> (Line, Heard, String) {
    let (mut line, heard) = begin(tenants, agent, endpoint);
    let first = line.chunks_until("\n\n").unwrap();
    (line, heard, first)
}

/// The same with an endpoint that no client may see: its stream ends.
fn assert_ends(tenants: &Tenants, agent: &Credential, endpoint: &str) {
    let (mut line, _heard) = begin(tenants, agent, endpoint);
    assert_eq!(line.chunk().unwrap(), None, "{endpoint}");
}

fn begin(tenants: &Tenants, agent: &Credential, endpoint: &str) -> (Line, Heard) {
    let mut line = tenants.https.line().unwrap();
    line.send(&Request { path: "/sse".into(), ..Request::bare("GET").by(agent) }.bytes()).unwrap();
    let mut heard = tenants.puppet.hear().unwrap();
    assert!(heard.head.starts_with("GET /sse "), "{}", heard.head);
    heard.stream().unwrap();
    heard.write(format!("event: endpoint\ndata: {endpoint}\n\n")).unwrap();
    line.head().unwrap();
    (line, heard)
}

fn post(path: &str, message: &Value, agent: &Credential) -> Request {
    Request { path: path.into(), ..Request::post(message).by(agent) }
}

/// A message that the server accepts; its answer is for later.
fn accepted(tenants: &Tenants, request: &Request) {
    let mut line = tenants.https.line().unwrap();
    line.send(&request.bytes()).unwrap();
    let mut heard = tenants.puppet.hear().unwrap();
    assert!(heard.head.starts_with(&format!("POST {} ", request.path)), "{}", heard.head);
    heard.write("HTTP/1.1 202 Accepted\r\nContent-Length: 8\r\nConnection: close\r\n\r\nAccepted").unwrap();
    let answer = line.answer().unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (202, ""));
}

fn outcome_of(tenants: &Tenants, tool: &str) -> Value {
    let found = eventually(START_LIMIT, || {
        let ledger = tenants.daemon.ledger()?;
        let call = ledger.calls("allow", tool).last().cloned();
        Ok(call.and_then(|call| ledger.outcome_of(&call).cloned()))
    });
    found.unwrap().expect("an outcome")
}

#[test]
fn a_call_is_answered_on_the_stream_and_its_record_says_how_it_ended() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (mut line, mut heard, first) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        assert_eq!(first, "event: endpoint\ndata: /message?sessionId=1\n\n");
        accepted(&tenants, &post("/message?sessionId=1", &call(7, "open"), &tenants.alice));
        heard.event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("notifications/message"));
        heard.event(&done(7)).unwrap();
        assert_eq!(line.chunks_until("\n\n").unwrap(), format!("event: message\ndata: {}\n\n", done(7)));
        let outcome = outcome_of(&tenants, "open");
        assert_eq!((&outcome["result"], &outcome["status"]), (&json!("ok"), &json!(202)));
        // One that nobody waits for does not reach the client, and the stream goes on.
        heard.event(&done(7)).unwrap();
        accepted(&tenants, &post("/message?sessionId=1", &call(8, "open"), &tenants.alice));
        heard.event(&json!({"jsonrpc": "2.0", "id": 8, "error": {"code": -5, "message": "no"}})).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("\"code\":-5"));
        assert_eq!(outcome_of(&tenants, "open")["error_code"], -5);
    });
}

#[test]
fn lists_on_the_stream_show_what_the_agent_may_use() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (mut line, mut heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
        accepted(&tenants, &post("/message?sessionId=1", &list, &tenants.alice));
        let tools = ["open", "secret", "once"].map(|name| json!({"name": name}));
        heard.event(&json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": tools}})).unwrap();
        let seen = line.chunks_until("\n\n").unwrap();
        assert!(seen.contains("open") && seen.contains("once") && !seen.contains("secret"), "{seen}");
    });
}

#[test]
fn a_refused_call_is_accepted_and_refused_on_the_stream() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (mut line, _heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        let answer =
            tenants.refused(&post("/message?sessionId=1", &call(3, "secret"), &tenants.alice)).unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (202, ""));
        let event = line.chunks_until("\n\n").unwrap();
        let message: Value =
            serde_json::from_str(event.strip_prefix("event: message\ndata: ").unwrap()).unwrap();
        assert_eq!((&message["id"], &message["error"]["code"]), (&json!(3), &json!(-32602)));
        // The session goes on.
        accepted(&tenants, &post("/message?sessionId=1", &call(4, "open"), &tenants.alice));
        let twice = tenants.refused(&post("/message?sessionId=1", &call(4, "open"), &tenants.alice)).unwrap();
        // Not on the stream: the answer to the first is still to come.
        assert_eq!((twice.status, reason(&twice).as_str()), (400, "id_in_use"));
    });
}

/// Clients look for no message in the answer to a POST: they would wait for one that does not come.
#[test]
fn what_is_refused_before_its_stream_is_known_has_an_http_status() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (_line, _heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        let nobody = Request { path: "/message?sessionId=1".into(), ..Request::post(&call(3, "open")) };
        let answer = tenants.refused(&nobody).unwrap();
        assert_eq!((answer.status, reason(&answer).as_str()), (403, "no_credential"));
        let task =
            json!({"jsonrpc": "2.0", "id": 4, "method": "tasks/get", "params": {"taskId": "another's"}});
        let answer = tenants.refused(&post("/message?sessionId=1", &task, &tenants.alice)).unwrap();
        assert_eq!((answer.status, reason(&answer).as_str()), (400, "unknown_task"));
        tenants.daemon.json("block", &["--agent", "alice"]).unwrap();
        let answer =
            tenants.refused(&post("/message?sessionId=1", &call(5, "open"), &tenants.alice)).unwrap();
        assert_eq!((answer.status, reason(&answer).as_str()), (403, "blocked"));
    });
}

#[test]
fn the_path_works_for_the_agent_that_it_was_given_to_and_as_long_as_its_stream() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (mut line, heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        let (_other, mut others, _) = open(&tenants, &tenants.bob, "/message?sessionId=2");
        for path in
            ["/message?sessionId=1", "/message?sessionId=3", "/message", "/message?sessionId=2&x", "/admin"]
        {
            let answer = tenants.refused(&post(path, &call(1, "open"), &tenants.bob)).unwrap();
            assert_eq!((answer.status, reason(&answer).as_str()), (404, "unknown_session"), "{path}");
        }
        for (method, path) in [("GET", "/message?sessionId=1"), ("DELETE", "/sse"), ("GET", "/other")] {
            let request = Request { path: path.into(), ..Request::bare(method).by(&tenants.alice) };
            assert_eq!(tenants.refused(&request).unwrap().status, 404, "{method} {path}");
        }
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None, "the server has ended the stream");
        let answer =
            tenants.refused(&post("/message?sessionId=1", &call(1, "open"), &tenants.alice)).unwrap();
        assert_eq!(reason(&answer), "unknown_session");
        // What an operator ends, ends at both sides.
        assert_eq!(tenants.daemon.json("sessions end", &["--agent", "bob"]).unwrap()["ended"], 1);
        others.other_side_leaves().unwrap();
        assert!(tenants.puppet.heard().is_none(), "no DELETE: this transport has none");
        let ended =
            eventually(START_LIMIT, || Ok(tenants.daemon.ledger()?.of_kind("session_ended").next().cloned()));
        let ended = ended.unwrap().expect("a record of its own");
        assert_eq!((&ended["agent"], &ended["reason"]), (&json!("bob"), &json!("session_ended")));
    });
}

#[test]
fn a_call_whose_stream_ends_has_an_outcome_and_its_client_an_answer() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let path = "/message?sessionId=1";
        let (line, mut heard, _) = open(&tenants, &tenants.alice, path);
        accepted(&tenants, &post(path, &call(7, "open"), &tenants.alice));
        drop(line);
        heard.other_side_leaves().unwrap();
        assert_eq!(outcome_of(&tenants, "open")["result"], "abandoned");

        let (mut line, heard, _) = open(&tenants, &tenants.alice, path);
        accepted(&tenants, &post(path, &call(8, "once"), &tenants.alice));
        accepted(&tenants, &post(path, &call(9, "report"), &tenants.alice));
        drop(heard);
        let last = line.chunks_until("\n\n").unwrap() + &line.chunks_until("\n\n").unwrap_or_default();
        assert_eq!(last.matches(r#""reason":"server_broke_off""#).count(), 2, "{last}");
        assert!(last.contains(r#""id":8"#) && last.contains(r#""id":9"#), "{last}");
        for tool in ["once", "report"] {
            assert_eq!(outcome_of(&tenants, tool)["result"], "upstream_failed");
        }
    });
}

#[test]
fn a_call_that_its_server_does_not_answer_in_time_is_given_up() {
    apart(|| {
        let tenants = tenants(&json!({"upstream_head_seconds": 2}));
        let path = "/message?sessionId=1";
        let (mut line, mut heard, _) = open(&tenants, &tenants.alice, path);
        accepted(&tenants, &post(path, &call(7, "open"), &tenants.alice));
        let given_up = line.chunks_until("\n\n").unwrap();
        assert!(
            given_up.contains(r#""reason":"server_silent""#) && given_up.contains(r#""id":7"#),
            "{given_up}"
        );
        let outcome = outcome_of(&tenants, "open");
        assert_eq!([&outcome["result"], &outcome["reason"]], ["upstream_failed", "server_silent"]);
        // What the server says of it now is for nobody, and the session goes on.
        heard.event(&done(7)).unwrap();
        accepted(&tenants, &post(path, &call(8, "once"), &tenants.alice));
        heard.event(&done(8)).unwrap();
        assert_eq!(line.chunks_until("\n\n").unwrap(), format!("event: message\ndata: {}\n\n", done(8)));
    });
}

#[test]
fn a_stream_that_makes_room_for_another_has_a_record_of_its_end() {
    apart(|| {
        let tenants = tenants(&json!({"sessions_per_agent_max": 1}));
        let (mut first, mut heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        let (_second, _stream, _) = open(&tenants, &tenants.alice, "/message?sessionId=2");
        assert_eq!(first.chunk().unwrap(), None);
        heard.other_side_leaves().unwrap();
        let record =
            eventually(START_LIMIT, || Ok(tenants.daemon.ledger()?.of_kind("session_ended").next().cloned()));
        let record = record.unwrap().expect("a record");
        assert_eq!([&record["agent"], &record["reason"]], ["alice", "sessions_too_many"]);
        let post = post("/message?sessionId=1", &call(3, "open"), &tenants.alice);
        assert_eq!(tenants.refused(&post).unwrap().status, 404);
        let ledger = tenants.daemon.ledger().unwrap();
        let refused = ledger.of_kind("call").find(|call| call["reason"] == "unknown_session").unwrap();
        assert_eq!(refused["cause"], "sessions_too_many");
        assert_eq!(ledger.of_kind("session_ended").count(), 1);
        assert!(!ledger.of_kind("call").any(|call| call["local"] == "guard"), "its server has seen it end");
    });
}

/// One request of a call of several rounds.
fn round(id: u64, more: &Value, agent: &Credential) -> Request {
    let mut params = json!({"name": "once", "arguments": {},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let message = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": params});
    Request::post(&message)
        .by(agent)
        .with("MCP-Protocol-Version", "2026-07-28")
        .with("Mcp-Method", "tools/call")
        .with("Mcp-Name", "once")
}

#[test]
fn a_round_that_is_refused_for_want_of_room_can_be_sent_again() {
    apart(|| {
        let tenants = tenants(&json!({"calls_in_flight_per_agent_max": 2}));
        let asked = json!({"resultType": "input_required", "requestState": "s",
            "inputRequests": {"q": {"method": "elicitation/create", "params": {}}}});
        tenants.served(&round(1, &json!({}), &tenants.alice), &asked).unwrap();
        outcome_of(&tenants, "once");
        let (mut line, mut stream, _) = open(&tenants, &tenants.alice, "/messages?s=1");
        let mut busy = tenants.https.line().unwrap();
        busy.send(&Request::post(&call(2, "open")).by(&tenants.alice).bytes()).unwrap();
        let slow = tenants.puppet.hear().unwrap();

        let answers = json!({"requestState": "s", "inputResponses": {"q": {"action": "accept"}}});
        let again = Request { path: "/messages?s=1".into(), ..round(3, &answers, &tenants.alice) };
        assert_eq!(tenants.refused(&again).unwrap().status, 202);
        let refused = line.chunks_until("\n\n").unwrap();
        assert!(refused.contains("too_many_calls"), "{refused}");
        slow.answer(&done(2)).unwrap();
        busy.answer().unwrap();
        outcome_of(&tenants, "open");
        // As a call of its own it would be one too many for its rule.
        accepted(&tenants, &again);
        stream.event(&done(3)).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("done"));
        let ledger = tenants.daemon.ledger().unwrap();
        let calls: Vec<_> = ledger.calls("allow", "once").collect();
        assert_eq!((calls.len(), &calls[1]["continues"]), (2, &calls[0]["id"]));
    });
}

#[test]
fn the_end_of_an_old_stream_leaves_a_new_one_with_its_path_alone() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let path = "/message";
        let (mut old, mut olds, _) = open(&tenants, &tenants.alice, path);
        assert_eq!(tenants.daemon.json("sessions end", &["--agent", "alice"]).unwrap()["ended"], 1);
        assert_eq!(old.chunk().unwrap(), None);
        olds.other_side_leaves().unwrap();
        // While its client has not left, and with the first still open.
        let (mut line, mut heard, _) = open(&tenants, &tenants.alice, path);
        let (mut newer, mut newers, _) = open(&tenants, &tenants.alice, path);
        drop(old);
        assert_eq!(line.chunk().unwrap(), None, "a path has one stream");
        heard.other_side_leaves().unwrap();
        drop(line);
        accepted(&tenants, &post(path, &call(8, "open"), &tenants.alice));
        newers.event(&done(8)).unwrap();
        assert!(newer.chunks_until("\n\n").unwrap().contains("done"));
    });
}

#[test]
fn a_cancelled_call_has_its_outcome_at_once_and_its_id_is_free() {
    apart(|| {
        let tenants = tenants(&json!({}));
        let (mut line, mut heard, _) = open(&tenants, &tenants.alice, "/message?sessionId=1");
        accepted(&tenants, &post("/message?sessionId=1", &call(7, "open"), &tenants.alice));
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 7}});
        accepted(&tenants, &post("/message?sessionId=1", &cancel, &tenants.alice));
        assert_eq!(outcome_of(&tenants, "open")["result"], "client_gone");
        // An answer that comes all the same is for nobody; the id may be used again.
        heard.event(&done(7)).unwrap();
        heard.event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}})).unwrap();
        let event = line.chunks_until("\n\n").unwrap();
        assert!(event.contains("notifications/message") && !event.contains("done"), "{event}");
        accepted(&tenants, &post("/message?sessionId=1", &call(7, "once"), &tenants.alice));
        heard.event(&done(7)).unwrap();
        line.chunks_until("\n\n").unwrap();
        assert_eq!(outcome_of(&tenants, "once")["result"], "ok");
    });
}

#[test]
fn an_endpoint_is_a_path_of_this_server_and_comes_once() {
    apart(|| {
        let tenants = tenants(&json!({}));
        // A whole URL has the scheme and host that the server knows of itself.
        let (_line, _heard, first) =
            open(&tenants, &tenants.alice, "http://10.0.0.1:3001/messages/?session_id=9");
        assert_eq!(first, "event: endpoint\ndata: /messages/?session_id=9\n\n");
        accepted(&tenants, &post("/messages/?session_id=9", &call(1, "open"), &tenants.alice));
        let bads = [
            "",
            "//elsewhere/m",
            "/a/../b",
            "ftp:",
            "/a b",
            "javascript:alert(1)",
            "/mcp?sessionId=3",
            "/\\elsewhere/m",
            "/a/%2e%2e/b",
        ];
        for bad in bads {
            assert_ends(&tenants, &tenants.bob, bad);
        }
        let (mut line, mut heard, _) = open(&tenants, &tenants.bob, "/message?sessionId=2");
        heard.write("event: endpoint\ndata: /message?sessionId=3\n\n").unwrap();
        assert_eq!(line.chunk().unwrap(), None, "two paths");
        // Somebody else's is not given out again.
        assert_ends(&tenants, &tenants.bob, "/messages/?session_id=9");
    });
}

/// Times and ids differ from run to run.
fn without_digits(steps: &[Step]) -> Vec<String> {
    let text = |step: &Step| format!("{}: {}", step.step, Value::Object(step.seen.clone()));
    steps.iter().map(|step| text(step).replace(|c: char| c.is_ascii_digit(), "#")).collect()
}

/// The tools of a step's text.
fn listed(step: &str) -> Vec<String> {
    let seen: Value = serde_json::from_str(step.strip_prefix("list: ").unwrap()).unwrap();
    serde_json::from_value(seen["tools"].clone()).unwrap()
}

#[test]
fn real_clients_and_a_real_server_see_no_difference() {
    apart(|| {
        let _server = Everything::speaking("sse", Some(PORT)).unwrap();
        // Not `progress`: its last report may come after the answer, without a guard too.
        let steps = vec!["initialize", "list", "call", "sampling", "elicitation", "read"];
        let scenario = Scenario { steps, ..Scenario::all(Table::Everything, Era::Legacy) };
        let drivers = [Driver::TypeScript, Driver::Python];
        let direct = Endpoint::plain(format!("http://{ADDRESS}/sse"));
        let before = drivers.map(|driver| without_digits(&drive(driver, &direct, &scenario).unwrap()));
        // What a server offers depends on what its client can do.
        let tools: BTreeSet<String> = before.iter().flat_map(|steps| listed(&steps[1])).collect();
        let tools: Vec<Value> = tools.iter().map(|tool| json!({"server": "peer", "tool": tool})).collect();
        let policy = json!({
            "agents": {"tester": {"client_id": "test-client"}},
            "intents": {"peer.use": tools, "peer.read": [{"server": "peer", "resource": "demo://resource/*"}]},
            "policies": [{"intent": "*", "agents": ["tester"], "decision": "allow"}],
        });
        let mut daemon = guard("peer", &[("policy.yaml", &format!("{policy:#}"))]).unwrap();
        daemon.config.servers[0].sse_path = Some("/sse".into());
        let credential = daemon.issue("tester").unwrap();
        daemon.start().unwrap();
        let mut guarded = daemon.endpoint(PORT, &credential);
        guarded.url = guarded.url.replace("/mcp", "/sse");
        for (driver, before) in drivers.into_iter().zip(before) {
            assert_eq!(without_digits(&drive(driver, &guarded, &scenario).unwrap()), before, "{driver:?}");
        }
        let ledger = daemon.ledger().unwrap();
        let calls: Vec<_> =
            ledger.of_kind("call").filter(|call| call["rpc_method"] == "tools/call").collect();
        assert!(calls.len() >= 6, "{calls:?}");
        for call in calls {
            assert_eq!(ledger.outcome_of(call).unwrap()["result"], "ok", "{call}");
        }
    });
}
