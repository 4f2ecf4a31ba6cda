//! Sessions, tasks and resumable streams work for the agent that has them, and for nobody else.

use std::io::Write;
use std::process::Stdio;

use guard_tests::daemon::Credential;
use guard_tests::https::{Answer, Request};
use guard_tests::process::{START_LIMIT, eventually, program};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, apart, call};
use guard_tests::slice::Slice;
use guard_tests::tenants::{Tenants, on, reason};
use serde_json::{Value, json};

fn ping(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn request(id: u64, method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})
}

/// The records of requests that the guard made itself.
fn own_calls(tenants: &Tenants) -> Vec<Value> {
    let ledger = tenants.daemon.ledger().unwrap();
    ledger.of_kind("call").filter(|record| record["local"] == "guard").cloned().collect()
}

fn assert_unknown(answer: &Answer) {
    assert_eq!((answer.status, reason(answer).as_str()), (404, "unknown_session"), "{answer:?}");
}

#[test]
fn a_session_works_for_the_agent_that_opened_it_alone() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        assert_unknown(&tenants.refused(&on("one", &ping(2), bob)).unwrap());
        assert_unknown(&tenants.refused(&on("one", &call(2, "open"), bob)).unwrap());
        for verb in ["GET", "DELETE"] {
            let stolen = Request::bare(verb).by(bob).with("Mcp-Session-Id", "one");
            assert_unknown(&tenants.refused(&stolen).unwrap());
        }
        // An id that nobody has gets the same answer.
        assert_unknown(&tenants.refused(&on("two", &ping(2), bob)).unwrap());
        let garbage = tenants.refused(&on("o\tne", &ping(2), alice)).unwrap();
        assert_eq!((garbage.status, reason(&garbage).as_str()), (400, "bad_session_id"));
        tenants.served(&on("one", &ping(3), alice), &json!({})).unwrap();
        let ledger = tenants.daemon.ledger().unwrap();
        let refused = ledger.of_kind("call").filter(|record| record["reason"] == "unknown_session");
        // The record says what nobody else is told.
        let causes: Vec<_> =
            refused.filter(|record| record["agent"] == "bob").map(|record| &record["cause"]).collect();
        assert_eq!(
            causes,
            ["another_agents", "another_agents", "another_agents", "another_agents", "unknown"]
        );
    });
}

#[test]
fn the_same_credential_in_another_process_does_not_open_the_session() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let slice = Slice::new();
        let mut command = std::process::Command::new(program("https-ask").unwrap());
        command.args([ADDRESS.to_string().as_str(), tenants.daemon.ca().to_str().unwrap()]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        slice.put("elsewhere.service", &mut command);
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&on("one", &ping(2), &tenants.alice).bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(answer["error"]["data"]["mcp-guard/decision"]["reason"], "unknown_session", "{answer}");
        assert!(tenants.puppet.heard().is_none());
    });
}

#[test]
fn a_stateless_request_brings_no_session_to_the_server() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let meta = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28"});
        let discover = request(2, "server/discover", &json!({"_meta": meta}));
        let modern = Request::post(&discover)
            .by(&tenants.bob)
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", "server/discover")
            .with("Mcp-Session-Id", "one");
        let (answer, heard) = tenants.served(&modern, &json!({"resultType": "complete"})).unwrap();
        assert_eq!((answer.status, heard.header("mcp-session-id")), (200, None));
    });
}

#[test]
fn a_session_outlives_the_guard_however_it_ends() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let works = |tenants: &Tenants| {
            tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
            assert_unknown(&tenants.refused(&on("one", &ping(2), &tenants.bob)).unwrap());
        };
        tenants.daemon.stop().unwrap();
        tenants.daemon.start().unwrap();
        works(&tenants);
        tenants.daemon.upgrade().unwrap();
        works(&tenants);
        tenants.daemon.kill().unwrap();
        tenants.daemon.start().unwrap();
        works(&tenants);
        // Of one that its client has ended the server tells, in its own words; the next guard knows nothing of it.
        let end = Request::bare("DELETE").by(&tenants.alice).with("Mcp-Session-Id", "one");
        tenants.served(&end, &json!({})).unwrap();
        works(&tenants);
        assert_eq!(tenants.daemon.json("sessions list", &[]).unwrap()["sessions"], json!([]));
        tenants.daemon.kill().unwrap();
        tenants.daemon.start().unwrap();
        assert_unknown(&tenants.refused(&on("one", &ping(3), &tenants.alice)).unwrap());
    });
}

#[test]
fn a_state_directory_without_room_keeps_no_guard_from_taking_over() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        // In the way of the next file, as a full disk is.
        std::fs::create_dir(tenants.daemon.config.state_dir.join("sessions.next")).unwrap();
        tenants.daemon.upgrade().unwrap();
        tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("one", &ping(2), &tenants.bob)).unwrap());
        // A new one works until the next start.
        tenants.open(&tenants.bob, "two").unwrap();
        tenants.served(&on("two", &ping(2), &tenants.bob), &json!({})).unwrap();
        tenants.daemon.kill().unwrap();
        tenants.daemon.start().unwrap();
        tenants.served(&on("one", &ping(3), &tenants.alice), &json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("two", &ping(3), &tenants.bob)).unwrap());
    });
}

#[test]
fn a_file_of_sessions_that_cannot_be_read_keeps_the_guard_from_serving() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.daemon.stop().unwrap();
        let file = tenants.daemon.config.state_dir.join("sessions.jsonl");
        std::fs::write(&file, "{}\n{}\n").unwrap();
        let error = format!("{:#}", tenants.daemon.start().unwrap_err());
        assert!(error.contains("sessions.jsonl") && error.contains("remove it"), "{error}");
        std::fs::remove_file(&file).unwrap();
        tenants.daemon.start().unwrap();
    });
}

#[test]
fn an_idle_session_is_closed_at_its_server_and_one_with_an_open_stream_is_not_idle() {
    apart(|| {
        let tenants = Tenants::new(&json!({"session_idle_seconds": 1})).unwrap();
        tenants.open(&tenants.bob, "busy").unwrap();
        let mut stream = tenants.https.line().unwrap();
        stream.send(&Request::bare("GET").by(&tenants.bob).with("Mcp-Session-Id", "busy").bytes()).unwrap();
        let mut listening = tenants.puppet.hear().unwrap();
        listening.stream().unwrap();
        stream.head().unwrap();
        tenants.open(&tenants.alice, "idle").unwrap();
        let closed = tenants.puppet.hear().unwrap();
        assert!(closed.head.starts_with("DELETE /mcp "), "{}", closed.head);
        assert_eq!(closed.header("mcp-session-id"), Some("idle"));
        closed.answer(&json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("idle", &ping(2), &tenants.alice)).unwrap());
        tenants.served(&on("busy", &ping(2), &tenants.bob), &json!({})).unwrap();
        let own = own_calls(&tenants);
        assert_eq!((&own[0]["reason"], &own[0]["agent"]), (&json!("session_idle"), &json!("alice")));
        assert_eq!(own.len(), 1, "{own:?}");
    });
}

#[test]
fn a_session_ends_when_it_is_too_old_however_busy_it_is() {
    apart(|| {
        let tenants = Tenants::new(&json!({"session_seconds_max": 1})).unwrap();
        tenants.open(&tenants.alice, "old").unwrap();
        let mut stream = tenants.https.line().unwrap();
        stream.send(&Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "old").bytes()).unwrap();
        let mut listening = tenants.puppet.hear().unwrap();
        listening.stream().unwrap();
        stream.head().unwrap();
        // Its stream ends in good order, at both ends.
        assert_eq!(stream.chunk().unwrap(), None);
        listening.other_side_leaves().unwrap();
        let closed = tenants.puppet.hear().unwrap();
        assert_eq!(closed.header("mcp-session-id"), Some("old"));
        assert_eq!(own_calls(&tenants)[0]["reason"], "session_too_old");
    });
}

#[test]
fn who_opens_too_many_sessions_loses_the_one_not_used_for_longest() {
    apart(|| {
        let tenants = Tenants::new(&json!({"sessions_per_agent_max": 2})).unwrap();
        tenants.open(&tenants.bob, "other").unwrap();
        for id in ["one", "two"] {
            tenants.open(&tenants.alice, id).unwrap();
        }
        tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
        tenants.open(&tenants.alice, "three").unwrap();
        let closed = tenants.puppet.hear().unwrap();
        assert_eq!(closed.header("mcp-session-id"), Some("two"));
        closed.answer(&json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("two", &ping(2), &tenants.alice)).unwrap());
        for (id, agent) in [("one", &tenants.alice), ("three", &tenants.alice), ("other", &tenants.bob)] {
            tenants.served(&on(id, &ping(2), agent), &json!({})).unwrap();
        }
    });
}

#[test]
fn an_operator_sees_sessions_and_ends_them() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        assert_eq!(
            String::from_utf8(tenants.daemon.output("sessions list", &[]).unwrap().stdout).unwrap(),
            "No session is open.\n"
        );
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.open(&tenants.bob, "two").unwrap();
        tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
        let listed = tenants.daemon.json("sessions list", &[]).unwrap();
        let seen: Vec<_> = listed["sessions"].as_array().unwrap().iter().collect();
        let mut agents: Vec<_> = seen.iter().map(|one| one["agent"].as_str().unwrap()).collect();
        agents.sort_unstable();
        assert_eq!(agents, ["alice", "bob"]);
        let of_alice = seen.iter().find(|one| one["agent"] == "alice").unwrap();
        assert_eq!(of_alice["version"], "2025-11-25");
        assert!(!listed.to_string().contains("\"one\""), "the id itself is nobody's business: {listed}");
        let table = tenants.daemon.output("sessions list", &[]).unwrap();
        let table = String::from_utf8(table.stdout).unwrap();
        assert!(
            table.contains("alice") && table.contains("2025-11-25") && table.contains("uid 0 in /"),
            "{table}"
        );

        let name = of_alice["session"].as_str().unwrap();
        let ended = tenants.daemon.json("sessions end", &[name]).unwrap();
        assert_eq!(ended["ended"], 1);
        let closed = tenants.puppet.hear().unwrap();
        assert_eq!(closed.header("mcp-session-id"), Some("one"));
        assert_eq!(closed.header("mcp-protocol-version"), Some("2025-11-25"));
        assert_eq!(closed.header("host"), Some("localhost"));
        closed.answer(&json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("one", &ping(2), &tenants.alice)).unwrap());
        let ledger = tenants.daemon.ledger().unwrap();
        let refused = ledger.of_kind("call").find(|record| record["reason"] == "unknown_session").unwrap();
        assert_eq!(refused["cause"], "session_ended");
        let again = tenants.daemon.output("sessions end", &[name]).unwrap();
        assert_eq!(again.status.code(), Some(1));
        assert_eq!(tenants.daemon.json("sessions end", &["--agent", "bob"]).unwrap()["ended"], 1);
        let record = eventually(START_LIMIT, || Ok(own_calls(&tenants).into_iter().nth(1))).unwrap().unwrap();
        assert_eq!(
            (&record["reason"], &record["session"]),
            (&json!("session_ended"), &json!(digest_of_two()))
        );
    });
}

/// The first 8 bytes of the SHA-256 of `two`.
fn digest_of_two() -> &'static str {
    "3fc4ccfe745870e2"
}

#[test]
fn a_session_is_closed_while_its_server_takes_its_time_over_other_answers() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&on("one", &call(2, "open"), &tenants.alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        let asks =
            |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {}});
        for id in 0..6 {
            heard.event(&asks(id)).unwrap();
        }
        // Each takes as long as it is kept here.
        let mut kept: Vec<_> = (0..4).map(|_| tenants.puppet.hear().unwrap()).collect();
        assert!(kept.iter().all(|refusal| refusal.head.starts_with("POST /mcp ")));
        tenants.daemon.json("sessions end", &["--all"]).unwrap();
        let closed = tenants.puppet.hear().unwrap();
        assert!(closed.head.starts_with("DELETE /mcp "), "{}", closed.head);
        for _ in 0..2 {
            kept.remove(0).answer(&json!({})).unwrap();
            assert!(tenants.puppet.hear().unwrap().head.starts_with("POST /mcp "));
        }
    });
}

#[test]
fn a_server_that_asks_too_often_is_not_answered_each_time() {
    apart(|| {
        let tenants = Tenants::new(&json!({"server_refusals_per_second_max": 1})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&on("one", &call(2, "open"), &tenants.alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        // All at once. A second may end between two of them, and hardly two seconds.
        let asks = |id: u64| {
            format!(r#"data: {{"jsonrpc":"2.0","id":{id},"method":"sampling/createMessage","params":{{}}}}"#)
                + "\n\n"
        };
        heard.write((10..16).map(asks).collect::<String>()).unwrap();
        heard.event(&json!({"jsonrpc": "2.0", "id": 2, "result": {"content": []}})).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("\"result\""), "the client gets none of them");
        let told = || {
            let told = own_calls(&tenants).len();
            let left_out = format!("refusals={}", 6 - told);
            Ok(((1..3).contains(&told) && tenants.daemon.log()?.contains(&left_out)).then_some(()))
        };
        assert!(eventually(START_LIMIT, told).unwrap().is_some());
    });
}

#[test]
fn a_server_that_gives_out_a_session_twice_is_not_believed() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        assert!(tenants.open(&tenants.bob, "one").is_err());
        tenants.served(&on("one", &ping(2), &tenants.alice), &json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("one", &ping(2), &tenants.bob)).unwrap());
    });
}

#[test]
fn a_server_that_was_started_again_gives_an_id_to_somebody_else() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "1").unwrap();
        let is_there = |tenants: &Tenants, is: bool| {
            let told = || {
                let down = tenants.daemon.status()?["kernel"]["namespaces"][0]["ports"]
                    [ADDRESS.port().to_string()]["pinned"]
                    .as_array()
                    .is_none_or(Vec::is_empty);
                Ok((down != is).then_some(()))
            };
            eventually(START_LIMIT, told).unwrap().unwrap();
        };
        is_there(&tenants, true);
        tenants.puppet.stop().unwrap();
        is_there(&tenants, false);
        tenants.puppet = Puppet::at(ADDRESS).unwrap();
        is_there(&tenants, true);
        // Many servers keep their sessions: whoever has one goes on.
        tenants.served(&on("1", &ping(2), &tenants.alice), &json!({})).unwrap();
        tenants.open(&tenants.bob, "1").unwrap();
        tenants.served(&on("1", &ping(2), &tenants.bob), &json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("1", &ping(3), &tenants.alice)).unwrap());
        let ledger = tenants.daemon.ledger().unwrap();
        let refused = ledger.of_kind("call").find(|record| record["reason"] == "unknown_session").unwrap();
        assert_eq!((&refused["agent"], &refused["cause"]), (&json!("alice"), &json!("another_agents")));
        // The same server may not.
        assert!(tenants.open(&tenants.alice, "1").is_err());
        assert!(own_calls(&tenants).is_empty(), "there is nothing to close");
    });
}

#[test]
fn a_task_and_its_result_belong_to_the_agent_that_made_the_call() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        let made = json!({"task": {"taskId": "t-1", "status": "working", "ttl": 60000}});
        tenants.served(&Request::post(&call(1, "report")).by(alice), &made).unwrap();
        let flat = json!({"resultType": "task", "taskId": "t-2", "status": "working"});
        tenants.served(&Request::post(&call(1, "open")).by(bob), &flat).unwrap();
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            let ask = request(2, method, &json!({"taskId": "t-1"}));
            tenants.served(&Request::post(&ask).by(alice), &json!({})).unwrap();
            for (id, agent) in [("t-1", bob), ("t-2", alice), ("t-3", alice)] {
                let ask = request(2, method, &json!({"taskId": id}));
                let answer = tenants.refused(&Request::post(&ask).by(agent)).unwrap();
                assert_eq!((answer.status, answer.json()["error"]["code"].as_i64()), (200, Some(-32602)));
                assert_eq!(reason(&answer), "unknown_task", "{method} {id}");
            }
        }
        let unnamed = Request::post(&request(2, "tasks/get", &json!({}))).by(alice);
        assert_eq!(reason(&tenants.refused(&unnamed).unwrap()), "no_intent");
        let all =
            json!({"tasks": [{"taskId": "t-0"}, {"taskId": "t-1"}, {"taskId": "t-2"}], "nextCursor": "n"});
        let list = Request::post(&request(3, "tasks/list", &json!({}))).by(alice);
        let (answer, _) = tenants.served(&list, &all).unwrap();
        assert_eq!(answer.json()["result"], json!({"tasks": [{"taskId": "t-1"}], "nextCursor": "n"}));
    });
}

#[test]
fn an_operator_frees_the_task_ids_of_a_server_that_was_started_again() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        let make = |agent: &Credential| {
            let made = json!({"task": {"taskId": "1", "status": "working"}});
            tenants.served(&Request::post(&call(1, "report")).by(agent), &made).unwrap().0.status
        };
        let ask =
            |agent: &Credential| Request::post(&request(2, "tasks/get", &json!({"taskId": "1"}))).by(agent);
        make(alice);
        tenants.served(&ask(alice), &json!({})).unwrap();
        let none = tenants.daemon.output("sessions end", &["--agent", "bob"]).unwrap();
        assert_eq!(none.status.code(), Some(1));
        let freed = tenants.daemon.json("sessions end", &["--server", "demo"]).unwrap();
        assert_eq!(freed, json!({"ended": 0, "tasks": 1}));
        assert_eq!(reason(&tenants.refused(&ask(alice)).unwrap()), "unknown_task");
        make(bob);
        tenants.served(&ask(bob), &json!({})).unwrap();
        let ledger = tenants.daemon.ledger().unwrap();
        let record = ledger.of_kind("sessions_ended").next().unwrap();
        assert_eq!((&record["count"], &record["tasks"]), (&json!(0), &json!(1)));
    });
}

#[test]
fn a_tasks_result_is_refused_once_its_tool_is() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let made = json!({"task": {"taskId": "t-1", "status": "working"}});
        tenants.served(&Request::post(&call(1, "report")).by(&tenants.alice), &made).unwrap();
        let ask = Request::post(&request(2, "tasks/result", &json!({"taskId": "t-1"}))).by(&tenants.alice);
        tenants.served(&ask, &json!({})).unwrap();
        let policy = "agents: {alice: {client_id: alice-client}, bob: {client_id: bob-client}}\n\
             intents: {demo.other: [{server: demo, tool: other}]}\n\
             policies: [{intent: demo.other, agents: [alice, bob], decision: allow}]\n";
        tenants.daemon.write_policy("policy.yaml", policy).unwrap();
        tenants.daemon.reload().unwrap();
        assert_eq!(reason(&tenants.refused(&ask).unwrap()), "no_intent");
    });
}

/// A stateless call, with these further parameters.
fn modern(id: u64, tool: &str, more: &Value) -> Value {
    let mut params = json!({"name": tool, "arguments": {"a": 1},
        "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
    params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    request(id, "tools/call", &params)
}

fn modern_request(message: &Value) -> Request {
    let name = message["params"]["name"].as_str().unwrap();
    Request::post(message)
        .with("MCP-Protocol-Version", "2026-07-28")
        .with("Mcp-Method", "tools/call")
        .with("Mcp-Name", name)
}

#[test]
fn a_call_of_several_rounds_counts_once_and_for_its_owner() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        let more = |state: &str| {
            json!({"resultType": "input_required", "requestState": state,
                "inputRequests": {"q": {"method": "elicitation/create", "params": {}}}})
        };
        let with =
            |state: &str| json!({"requestState": state, "inputResponses": {"q": {"action": "accept"}}});
        let first = modern_request(&modern(1, "once", &json!({}))).by(alice);
        tenants.served(&first, &more("s-1")).unwrap();
        // Bob saw Alice's state, and Alice may not make another call with it.
        let stolen = modern_request(&modern(2, "once", &with("s-1"))).by(bob);
        assert_eq!(reason(&tenants.refused(&stolen).unwrap()), "unknown_state");
        let other =
            modern_request(&modern(2, "once", &json!({"arguments": {"a": 2}, "requestState": "s-1"})));
        assert_eq!(reason(&tenants.refused(&other.by(alice)).unwrap()), "velocity_exceeded");
        let second = modern_request(&modern(2, "once", &with("s-1"))).by(alice);
        tenants.served(&second, &more("s-2")).unwrap();
        // That the call has gone on makes its state nobody else's.
        assert_eq!(reason(&tenants.refused(&stolen).unwrap()), "unknown_state");
        let third = modern_request(&modern(3, "once", &with("s-2"))).by(alice);
        tenants.served(&third, &json!({"resultType": "complete", "content": []})).unwrap();
        // It is over: the same again is another call.
        assert_eq!(reason(&tenants.refused(&third).unwrap()), "velocity_exceeded");
        let ledger = tenants.daemon.ledger().unwrap();
        let calls: Vec<_> = ledger.calls("allow", "once").collect();
        assert_eq!(calls.len(), 3);
        assert_eq!(calls[0].get("continues"), None);
        assert_eq!((&calls[1]["continues"], &calls[2]["continues"]), (&calls[0]["id"], &calls[0]["id"]));
    });
}

#[test]
fn nobody_listens_to_anothers_task_or_to_what_is_hidden() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        let made = json!({"resultType": "task", "taskId": "t-1", "status": "working"});
        tenants.served(&modern_request(&modern(1, "report", &json!({}))).by(alice), &made).unwrap();
        let listen = |filter: &Value, agent| {
            let params = json!({"notifications": filter,
                "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}});
            Request::post(&request(2, "subscriptions/listen", &params))
                .with("MCP-Protocol-Version", "2026-07-28")
                .with("Mcp-Method", "subscriptions/listen")
                .by(agent)
        };
        let tasks = json!({"taskIds": ["t-1"]});
        assert_eq!(reason(&tenants.refused(&listen(&tasks, bob)).unwrap()), "unknown_task");
        let unknown = json!({"somethingNew": ["t-1"]});
        assert_eq!(reason(&tenants.refused(&listen(&unknown, alice)).unwrap()), "no_intent");

        let mut line = tenants.https.line().unwrap();
        line.send(&listen(&tasks, alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        let notice =
            |method: &str, params: Value| json!({"jsonrpc": "2.0", "method": method, "params": params});
        let hidden = [
            notice("notifications/resources/updated", json!({"uri": "file:///etc/shadow"})),
            notice("notifications/tasks", json!({"taskId": "t-9", "status": "completed"})),
            notice(
                "notifications/tasks",
                json!({"taskId": "t-1",
                "inputRequests": {"q": {"method": "sampling/createMessage"}}}),
            ),
        ];
        for message in hidden {
            heard.event(&message).unwrap();
        }
        let own = notice("notifications/tasks", json!({"taskId": "t-1", "status": "completed"}));
        heard.event(&own).unwrap();
        assert_eq!(line.chunks_until("\n\n").unwrap(), format!("event: message\ndata: {own}\n\n"));
    });
}

#[test]
fn a_404_to_a_stateless_method_or_to_a_get_ends_no_session() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let ping =
            request(2, "ping", &json!({"_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}));
        let stateless = Request::post(&ping)
            .by(&tenants.alice)
            .with("MCP-Protocol-Version", "2026-07-28")
            .with("Mcp-Method", "ping")
            .with("Mcp-Session-Id", "one");
        let get = Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "one");
        for request in [stateless, get] {
            let mut line = tenants.https.line().unwrap();
            line.send(&request.bytes()).unwrap();
            tenants.puppet.hear().unwrap().write(none).unwrap();
            assert_eq!(line.answer().unwrap().status, 404);
        }
        assert_eq!(tenants.daemon.json("sessions end", &["--agent", "alice"]).unwrap()["ended"], 1);
    });
}

#[test]
fn a_session_that_its_server_denies_may_come_back_and_is_closed_there_all_the_same() {
    apart(|| {
        let tenants = Tenants::new(&json!({"sessions_per_agent_max": 1})).unwrap();
        let open =
            || tenants.daemon.json("sessions list", &[]).unwrap()["sessions"].as_array().unwrap().len();
        let deny = || {
            let mut line = tenants.https.line().unwrap();
            line.send(&on("one", &ping(2), &tenants.alice).bytes()).unwrap();
            let none = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
            tenants.puppet.hear().unwrap().write(none).unwrap();
            assert_eq!(line.answer().unwrap().status, 404);
        };
        tenants.open(&tenants.alice, "one").unwrap();
        deny();
        assert_eq!(open(), 0);
        tenants.served(&on("one", &ping(3), &tenants.alice), &json!({})).unwrap();
        assert_eq!(open(), 1);
        // As long as a stream of it is open, an operator sees it.
        let mut line = tenants.https.line().unwrap();
        line.send(&Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "one").bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        deny();
        let listed = tenants.daemon.json("sessions list", &[]).unwrap();
        let seen = &listed["sessions"][0];
        assert_eq!((&seen["state"], &seen["requests"]), (&json!("denied"), &json!(1)), "{listed}");
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None);
        eventually(START_LIMIT, || Ok((open() == 0).then_some(()))).unwrap().expect("nothing of it is left");
        tenants.open(&tenants.alice, "two").unwrap();
        let closed = tenants.puppet.hear().unwrap();
        assert!(closed.head.starts_with("DELETE /mcp "), "{}", closed.head);
        assert_eq!(closed.header("mcp-session-id"), Some("one"));
        closed.answer(&json!({})).unwrap();
        assert_unknown(&tenants.refused(&on("one", &ping(4), &tenants.alice)).unwrap());
    });
}

#[test]
fn what_a_server_may_not_ask_of_an_agent_does_not_reach_it_and_the_server_is_told() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.open(&tenants.bob, "two").unwrap();
        let asks =
            |id: &str| json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {}});
        let answer = json!({"jsonrpc": "2.0", "id": 2, "result": {"content": []}});
        for (agent, session, gets) in [(&tenants.alice, "one", false), (&tenants.bob, "two", true)] {
            let mut line = tenants.https.line().unwrap();
            line.send(&on(session, &call(2, "open"), agent).bytes()).unwrap();
            let mut heard = tenants.puppet.hear().unwrap();
            heard.stream().unwrap();
            line.head().unwrap();
            heard.event(&json!({"jsonrpc": "2.0", "id": 7, "method": "roots/list"})).unwrap();
            assert!(line.chunks_until("\n\n").unwrap().contains("roots/list"), "no rule speaks of it");
            heard.event(&asks("s")).unwrap();
            if gets {
                assert!(line.chunks_until("\n\n").unwrap().contains("sampling/createMessage"));
            } else {
                let told = tenants.puppet.hear().unwrap();
                assert_eq!(
                    (told.header("mcp-session-id"), told.header("host")),
                    (Some("one"), Some("localhost"))
                );
                assert_eq!(
                    (&told.message()["id"], &told.message()["error"]["code"]),
                    (&json!("s"), &json!(40300))
                );
                told.answer(&json!({})).unwrap();
            }
            heard.event(&answer).unwrap();
            assert!(line.chunks_until("\n\n").unwrap().contains("\"result\""), "the next event");
        }
        let own = own_calls(&tenants);
        assert_eq!((own.len(), &own[0]["reason"]), (1, &json!("server_request_refused")));
        assert_eq!(own[0]["target"], json!({"kind": "server_request", "name": "sampling/createMessage"}));

        // In a stateless answer such a request cannot be taken out alone.
        let call = modern_request(&modern(4, "open", &json!({}))).by(&tenants.alice);
        let asked = json!({"resultType": "input_required", "inputRequests": {"q": {"method": "sampling/createMessage"}}});
        let (answer, _) = tenants.served(&call, &asked).unwrap();
        assert_eq!(reason(&answer), "bad_answer");
        // Nor with an HTTP error: some clients read its body.
        let mut line = tenants.https.line().unwrap();
        line.send(&call.bytes()).unwrap();
        let body = json!({"jsonrpc": "2.0", "id": 4, "result": asked}).to_string();
        let mut heard = tenants.puppet.hear().unwrap();
        let kind = "Content-Type: application/json\r\nConnection: close\r\n";
        heard
            .write(format!("HTTP/1.1 400 Bad\r\n{kind}Content-Length: {}\r\n\r\n{body}", body.len()))
            .unwrap();
        assert_eq!(reason(&line.answer().unwrap()), "bad_answer");
        let by_bob = modern_request(&modern(4, "open", &json!({}))).by(&tenants.bob);
        assert_eq!(tenants.served(&by_bob, &asked).unwrap().0.json()["result"], asked);
    });
}
