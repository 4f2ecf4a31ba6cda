//! Streams that broke and are resumed: by whoever had them, with the answers of the calls that waited on them.

use guard_tests::daemon::Credential;
use guard_tests::https::{Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{apart, call, done};
use guard_tests::tenants::{Tenants, on, reason};
use serde_json::{Value, json};

fn ping(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "ping"})
}

fn progress(step: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": step}})
}

#[test]
fn a_stream_is_resumed_by_whoever_had_it() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({"resumable_events_max": 2})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        tenants.open(&tenants.bob, "two").unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&on("one", &call(2, "open"), &tenants.alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        // The empty event that makes a stream resumable, and two more.
        for id in ["e-0", "e-1", "e-2"] {
            heard.write(format!("id: {id}\ndata: \n\n")).unwrap();
            line.chunks_until("\n\n").unwrap();
        }
        drop(heard);
        let get = |session: &str, event: &str, agent: &Credential| {
            Request::bare("GET").by(agent).with("Mcp-Session-Id", session).with("Last-Event-ID", event)
        };
        for (session, event, agent) in
            [("two", "e-2", &tenants.bob), ("one", "e-3", &tenants.alice), ("one", "e-0", &tenants.alice)]
        {
            let answer = tenants.refused(&get(session, event, agent)).unwrap();
            assert_eq!((answer.status, reason(&answer).as_str()), (400, "unknown_event"), "{event}");
        }
        let without = Request::bare("GET").by(&tenants.alice).with("Last-Event-ID", "e-2");
        assert_eq!(reason(&tenants.refused(&without).unwrap()), "unknown_event");
        let resumes = |tenants: &Tenants| {
            let mut line = tenants.https.line().unwrap();
            line.send(&get("one", "e-2", &tenants.alice).bytes()).unwrap();
            let heard = tenants.puppet.hear().unwrap();
            assert_eq!(heard.header("last-event-id"), Some("e-2"));
            heard.answer(&json!({})).unwrap();
            line.answer().unwrap();
        };
        resumes(&tenants);
        tenants.daemon.upgrade().unwrap();
        resumes(&tenants);
    });
}

#[test]
fn after_a_crash_an_event_id_is_unknown_and_its_session_goes_on() {
    apart(|| {
        let mut tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&on("one", &call(2, "open"), &tenants.alice).bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        line.head().unwrap();
        heard.write("id: e-1\ndata: \n\n").unwrap();
        line.chunks_until("\n\n").unwrap();
        // Event ids are written at an end in order only.
        tenants.daemon.kill().unwrap();
        tenants.daemon.start().unwrap();
        let get = Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "one");
        let answer = tenants.refused(&get.clone().with("Last-Event-ID", "e-1")).unwrap();
        assert_eq!((answer.status, reason(&answer).as_str()), (400, "unknown_event"));
        tenants.served(&on("one", &ping(5), &tenants.alice), &json!({})).unwrap();
        let mut line = tenants.https.line().unwrap();
        line.send(&get.bytes()).unwrap();
        let mut heard = tenants.puppet.hear().unwrap();
        heard.stream().unwrap();
        assert_eq!(line.head().unwrap().status, 200, "a stream from the beginning");
        let ledger = tenants.daemon.ledger().unwrap();
        let call = ledger.calls("allow", "open").next().unwrap();
        let gap = ledger.of_kind("gap").next().expect("the trail says what it lacks");
        assert_eq!((&gap["open_count"], &gap["open"][0]["id"]), (&json!(1), &call["id"]));
    });
}

/// Sends a call on the session `one`, whose stream has one event, by which it can be resumed.
fn resumable(tenants: &Tenants, id: u64, event: &str) -> (Line, Heard) {
    let mut line = tenants.https.line().unwrap();
    line.send(&on("one", &call(id, "report"), &tenants.alice).bytes()).unwrap();
    let mut heard = tenants.puppet.hear().unwrap();
    heard.stream().unwrap();
    line.head().unwrap();
    heard.write(format!("id: {event}\ndata: \n\n")).unwrap();
    line.chunks_until("\n\n").unwrap();
    (line, heard)
}

/// Resumes it.
fn resume(tenants: &Tenants, event: &str) -> (Line, Heard) {
    let get = Request::bare("GET").by(&tenants.alice).with("Mcp-Session-Id", "one");
    let mut line = tenants.https.line().unwrap();
    line.send(&get.with("Last-Event-ID", event).bytes()).unwrap();
    let mut heard = tenants.puppet.hear().unwrap();
    heard.stream().unwrap();
    line.head().unwrap();
    (line, heard)
}

/// How the call with this id has ended, if it has.
fn ended(tenants: &Tenants, id: u64) -> Option<String> {
    let ledger = tenants.daemon.ledger().unwrap();
    let id = json!(id.to_string());
    let call = ledger.of_kind("call").find(|call| call["rpc_id"] == id).unwrap();
    ledger.outcome_of(call).map(|outcome| outcome["result"].as_str().unwrap().to_owned())
}

fn ends(tenants: &Tenants, id: u64, result: &str) {
    let found = eventually(START_LIMIT, || Ok(ended(tenants, id))).unwrap();
    assert_eq!(found.as_deref(), Some(result), "call {id}");
}

#[test]
fn a_call_is_answered_on_the_stream_that_its_client_resumes() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let task = |id: &Value, task: &str| json!({"jsonrpc": "2.0", "id": id, "result": {"task": {"taskId": task, "status": "working"}}});
        let ask = |task: &str, agent: &Credential| {
            let ask = json!({"jsonrpc": "2.0", "id": 9, "method": "tasks/get", "params": {"taskId": task}});
            Request::post(&ask).by(agent)
        };

        let (mut line, heard) = resumable(&tenants, 2, "e-1");
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None, "an end in order, which the client knows how to go on from");
        let (mut line, mut heard) = resume(&tenants, "e-1");
        // Its id is a number.
        for (id, name) in [(json!("2"), "t-9"), (json!(2), "t-1")] {
            assert_eq!(ended(&tenants, 2), None);
            heard.event(&task(&id, name)).unwrap();
            assert!(line.chunks_until("\n\n").unwrap().contains(name));
        }
        ends(&tenants, 2, "ok");
        tenants.served(&ask("t-1", &tenants.alice), &json!({"taskId": "t-1"})).unwrap();
        for (task, agent) in [("t-1", &tenants.bob), ("t-9", &tenants.alice)] {
            let refused = tenants.refused(&ask(task, agent)).unwrap();
            assert_eq!(reason(&refused), "unknown_task", "{task}");
        }
        drop((line, heard));

        // It is the same when the client's connection broke, and the stream is resumed twice.
        let (line, mut heard) = resumable(&tenants, 3, "e-2");
        drop(line);
        heard.other_side_leaves().unwrap();
        drop(resume(&tenants, "e-2"));
        let (mut line, mut heard) = resume(&tenants, "e-2");
        let failed = json!({"jsonrpc": "2.0", "id": 3, "error": {"code": -5, "message": "no"}});
        heard.event(&failed).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("-5"));
        ends(&tenants, 3, "rpc_error");

        // What cannot be passed on is told, and the stream goes on.
        let (mut broken, before) = resumable(&tenants, 4, "e-3");
        drop(before);
        assert_eq!(broken.chunk().unwrap(), None);
        let twice = r#"{"jsonrpc":"2.0","id":4,"result":{"tools":[{"name":"open","name":"secret"}]}}"#;
        heard.write(format!("data: {twice}\n\n")).unwrap();
        let told = line.chunks_until("\n\n").unwrap();
        assert!(told.contains("bad_answer") && !told.contains("secret"), "{told}");
        ends(&tenants, 4, "upstream_failed");
        heard.event(&progress(1)).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("progress"));
    });
}

#[test]
fn a_call_that_nobody_resumes_ends_in_time() {
    apart(|| {
        let tenants = Tenants::new(&json!({"resume_seconds": 1})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        let (mut line, heard) = resumable(&tenants, 2, "e-1");
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None);
        ends(&tenants, 2, "stream_ended");
    });
    apart(|| {
        let tenants = Tenants::new(&json!({"resumable_calls_per_agent_max": 1})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        for id in [2, 3, 4] {
            let (mut line, heard) = resumable(&tenants, id, "e-1");
            drop(heard);
            assert_eq!(line.chunk().unwrap(), None);
        }
        // The oldest go, whoever ends the session ends the last, and who cancels his call has done with it.
        for id in [2, 3] {
            ends(&tenants, id, "stream_ended");
        }
        assert_eq!(ended(&tenants, 4), None);
        tenants.daemon.json("sessions end", &["--agent", "alice"]).unwrap();
        assert_eq!(tenants.puppet.hear().unwrap().header("mcp-session-id"), Some("one"));
        ends(&tenants, 4, "stream_ended");
        tenants.open(&tenants.alice, "one").unwrap();
        let (line, mut heard) = resumable(&tenants, 5, "e-2");
        drop(line);
        heard.other_side_leaves().unwrap();
        let cancel =
            json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 5}});
        tenants.served(&on("one", &cancel, &tenants.alice), &json!({})).unwrap();
        ends(&tenants, 5, "client_gone");
        // Nor does he get an answer on a stream that he resumes all the same.
        let (mut resumed, mut heard) = resume(&tenants, "e-2");
        heard.event(&done(5)).unwrap();
        heard.event(&progress(1)).unwrap();
        let event = resumed.chunks_until("\n\n").unwrap();
        assert!(event.contains("progress"), "{event}");
        let ledger = tenants.daemon.ledger().unwrap();
        let of_call = |record: &&Value| record["rpc_id"] == json!("5");
        let call = ledger.of_kind("call").find(of_call).unwrap();
        let outcomes = ledger.of_kind("outcome").filter(|outcome| outcome["id"] == call["id"]).count();
        assert_eq!(outcomes, 1);
    });
}

#[test]
fn two_calls_with_one_id_whose_streams_ended_are_both_given_up() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        tenants.open(&tenants.alice, "one").unwrap();
        for event in ["e-1", "e-2"] {
            let (mut line, heard) = resumable(&tenants, 2, event);
            drop(heard);
            assert_eq!(line.chunk().unwrap(), None);
        }
        let both = || {
            let ledger = tenants.daemon.ledger()?;
            let calls: Vec<_> = ledger.of_kind("call").filter(|call| call["rpc_id"] == json!("2")).collect();
            let ended = calls.iter().filter_map(|call| ledger.outcome_of(call));
            let ended: Vec<_> = ended.map(|outcome| outcome["result"].clone()).collect();
            Ok((ended == ["stream_ended", "stream_ended"]).then_some(()))
        };
        eventually(START_LIMIT, both).unwrap().expect("nobody could tell whose an answer would be");
        // What comes for them binds nothing to anybody.
        let (mut line, mut heard) = resume(&tenants, "e-1");
        let task =
            json!({"jsonrpc": "2.0", "id": 2, "result": {"task": {"taskId": "t-1", "status": "working"}}});
        heard.event(&task).unwrap();
        line.chunks_until("\n\n").unwrap();
        let ask = json!({"jsonrpc": "2.0", "id": 9, "method": "tasks/get", "params": {"taskId": "t-1"}});
        let refused = tenants.refused(&Request::post(&ask).by(&tenants.alice)).unwrap();
        assert_eq!(reason(&refused), "unknown_task");
    });
}
