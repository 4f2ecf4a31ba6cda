//! Streams of events through the guard: as they come, judged one by one, and ended in order. The server is played by
//! the test, which sends the next event only when the client has the one before.

use guard_tests::daemon::Credential;
use guard_tests::https::{Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, PORT, Scene, apart, call, done};
use guard_tests::tenants::{Tenants, on};
use serde_json::{Value, json};

fn progress(step: u64) -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": {"progressToken": 1, "progress": step}})
}

/// Tools of every kind, in the order of the scene's policy.
fn tools(id: u64) -> Value {
    let tools = ["open", "closed", "vetted", "secret", "unknown"].map(|name| json!({"name": name}));
    json!({"jsonrpc": "2.0", "id": id, "result": {"tools": tools}})
}

/// What the agent sees of them.
fn seen_tools(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"tools": [{"name": "open"}, {"name": "vetted"}]}})
}

/// Sends a call of `open`; it has reached the server.
fn called(scene: &Scene) -> (Line, Heard) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
    (line, scene.puppet.hear().unwrap())
}

/// The last outcome in the trail, when there are `count`.
fn last_outcome(scene: &Scene, count: usize) -> Value {
    let outcome = eventually(START_LIMIT, || {
        let ledger = scene.daemon.ledger()?;
        let outcomes: Vec<_> = ledger.of_kind("outcome").cloned().collect();
        assert!(outcomes.len() <= count, "{outcomes:?}");
        Ok(outcomes.into_iter().nth(count - 1))
    });
    outcome.unwrap().expect("an outcome")
}

#[test]
fn each_event_passes_before_the_server_sends_the_next() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let (mut line, mut heard) = called(&scene);
        heard.stream().unwrap();
        let begun = line.head().unwrap();
        assert_eq!((begun.status, begun.header("content-type")), (200, Some("text/event-stream")));
        for step in 1..=3 {
            heard.event(&progress(step)).unwrap();
            let event = line.chunks_until("\n\n").unwrap();
            assert_eq!(event, format!("event: message\ndata: {}\n\n", progress(step)));
        }
        heard.write(": still there\n\n").unwrap();
        assert_eq!(line.chunks_until("\n\n").unwrap(), ": still there\n\n");
        heard.event(&done(1)).unwrap();
        line.chunks_until("done").unwrap();
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None);
        let outcome = last_outcome(&scene, 1);
        assert_eq!((&outcome["result"], &outcome["events"]), (&json!("ok"), &json!(4)));
    });
}

#[test]
fn http2_clients_get_each_event_as_it_comes_too() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut tls = guard_tests::tls::client_config(Some(&scene.daemon.ca())).unwrap();
        tls.alpn_protocols = vec![b"h2".to_vec()];
        let client = reqwest::Client::builder().no_proxy().tls_backend_preconfigured(tls).build().unwrap();
        let mut request = client.post(format!("https://localhost:{PORT}/mcp"));
        for (name, value) in scene.post(&call(1, "open")).headers {
            if name != "Host" {
                request = request.header(name, value);
            }
        }
        let request = request.body(call(1, "open").to_string());
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let answer = tokio::spawn(request.send());
            let mut heard = scene.puppet.hear().unwrap();
            assert_eq!(heard.header("Host"), Some(format!("localhost:{PORT}").as_str()));
            heard.stream().unwrap();
            let mut answer = answer.await.unwrap().unwrap();
            assert_eq!((answer.version(), answer.status().as_u16()), (http::Version::HTTP_2, 200));
            for step in 1..=3 {
                heard.event(&progress(step)).unwrap();
                let event = answer.chunk().await.unwrap().unwrap();
                assert_eq!(event, format!("event: message\ndata: {}\n\n", progress(step)));
            }
            heard.event(&done(1)).unwrap();
            assert!(answer.chunk().await.unwrap().is_some());
            drop(heard);
            assert_eq!(answer.text().await.unwrap(), "", "it ends in order, with no more");
        });
    });
}

#[test]
fn the_servers_own_stream_a_resumed_one_and_the_end_of_a_session_pass() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let bare = |method| Request::bare(method).by(&scene.credential).with("Mcp-Session-Id", "s-1");
        let mut line = scene.https.line().unwrap();
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}});
        line.send(&scene.post(&initialize).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer_with("Mcp-Session-Id: s-1\r\n", &done(1)).unwrap();
        assert_eq!(line.answer().unwrap().header("mcp-session-id"), Some("s-1"));
        let mut line = scene.https.line().unwrap();
        line.send(&bare("GET").bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        assert!(heard.head.starts_with("GET /mcp HTTP/1.1\r\n"), "{}", heard.head);
        assert_eq!(heard.header("Mcp-Session-Id"), Some("s-1"));
        assert_eq!(heard.header("Authorization"), None);
        heard.stream().unwrap();
        line.head().unwrap();
        let asks = json!({"jsonrpc": "2.0", "id": 9, "method": "sampling/createMessage", "params": {}});
        heard.event(&asks).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains(&asks.to_string()));
        heard.write("id: 6\ndata: \n\n").unwrap();
        assert_eq!(line.chunks_until("\n\n").unwrap(), "id: 6\ndata: \n\n");
        drop((heard, line));

        // The answer to an earlier request comes on a resumed stream, and is no less filtered there.
        let mut line = scene.https.line().unwrap();
        line.send(&bare("GET").with("Last-Event-ID", "6").bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        assert_eq!(heard.header("Last-Event-ID"), Some("6"));
        heard.stream().unwrap();
        line.head().unwrap();
        heard.write(format!("id: 7\nevent: message\ndata: {}\n\n", tools(3))).unwrap();
        let event = line.chunks_until("\n\n").unwrap();
        assert_eq!(event, format!("id: 7\nevent: message\ndata: {}\n\n", seen_tools(3)));
        drop((heard, line));

        let mut line = scene.https.line().unwrap();
        line.send(&bare("DELETE").bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        assert!(heard.head.starts_with("DELETE /mcp HTTP/1.1\r\n"), "{}", heard.head);
        heard.write("HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n").unwrap();
        assert_eq!(line.answer().unwrap().status, 204);
    });
}

#[test]
fn a_list_is_filtered_whether_it_comes_whole_or_as_an_event() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let list = json!({"jsonrpc": "2.0", "id": 5, "method": "tools/list"});
        for streams in [false, true] {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&list).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            if streams {
                heard.stream().unwrap();
                heard.event(&tools(5)).unwrap();
                drop(heard);
            } else {
                heard.answer(&tools(5)).unwrap();
            }
            let text = line.answer().unwrap().text();
            assert!(text.contains(&seen_tools(5).to_string()), "{text}");
            assert!(!text.contains("closed") && !text.contains("secret"), "{text}");
        }
    });
}

/// A closing record says why there was no answer, in the word that the client was told.
fn assert_failed(outcome: &Value, reason: &str) {
    assert_eq!((&outcome["result"], &outcome["reason"]), (&json!("upstream_failed"), &json!(reason)));
}

#[test]
fn an_answer_that_the_guard_cannot_vouch_for_is_refused_and_recorded() {
    let top = |kind: &str, more: &str| {
        format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {kind}\r\n{more}\r\n")
    };
    let json = |body: &str| format!("{}{body}", top("application/json", ""));
    let events = |data: &str| format!("{}event: message\ndata: {data}\n\n", top("text/event-stream", ""));
    let other = done(2).to_string();
    let twice = r#"{"jsonrpc":"2.0","id":1,"result":{"tools":[{"name":"open","name":"secret"}]}}"#;
    apart(|| {
        let scene = Scene::new(&serde_json::json!({})).unwrap();
        let answers = [
            ("another id", json(&other)),
            ("another id in an event", events(&other)),
            ("compressed", top("application/json", "Content-Encoding: gzip\r\n") + "\u{1f}"),
            ("a compressed stream", top("text/event-stream", "Content-Encoding: br\r\n") + "data"),
            ("two readings of a list", json(twice)),
            ("two readings of a list in an event", events(twice)),
            ("no message", json("[]")),
        ];
        for (number, (what, bytes)) in answers.iter().enumerate() {
            let (mut line, mut heard) = called(&scene);
            heard.write(bytes).unwrap();
            drop(heard);
            let answer = line.answer().unwrap();
            let text = answer.text();
            assert_eq!(answer.status, 200, "{what}: {text}");
            assert!(text.contains("the server's answer cannot be passed on"), "{what}: {text}");
            assert!(
                text.contains(r#""reason":"bad_answer""#) && text.contains(r#""isError":true"#),
                "{what}: {text}"
            );
            assert!(!text.contains("secret") && !text.contains("done"), "{what}: {text}");
            assert_failed(&last_outcome(&scene, number + 1), "bad_answer");
        }
    });
}

/// Begins an answer in chunks with one event.
fn begin(heard: &mut Heard, event: &str) {
    heard
        .write("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    heard.write(format!("{:x}\r\n{event}\r\n", event.len())).unwrap();
}

#[test]
fn a_server_that_goes_away_ends_the_stream_in_order_and_the_call_has_an_answer() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        // Broken off, and ended as if that were an answer.
        for (count, rest) in [(1, ""), (2, "0\r\n\r\n")] {
            let (mut line, mut heard) = called(&scene);
            let event = format!("data: {}\n\n", progress(1));
            begin(&mut heard, &event);
            line.head().unwrap();
            assert_eq!(line.chunks_until("\n\n").unwrap(), event);
            heard.write(rest).unwrap();
            drop(heard);
            let last = line.chunks_until("\n\n").unwrap();
            assert!(last.contains(r#""reason":"server_broke_off""#) && last.contains(r#""id":1"#), "{last}");
            assert_eq!(line.chunk().unwrap(), None);
            assert_failed(&last_outcome(&scene, count), "server_broke_off");
        }

        // Nothing at all instead of an answer, and nobody there.
        let (mut line, heard) = called(&scene);
        drop(heard);
        let answer = line.answer().unwrap().json();
        assert_eq!(answer["result"]["_meta"]["mcp-guard/decision"]["reason"], "server_broke_off");
        assert_failed(&last_outcome(&scene, 3), "server_broke_off");

        // With its answer a call is over, however the server and the client take their leave.
        for (count, is_client) in [(4, false), (5, true)] {
            let (mut line, mut heard) = called(&scene);
            begin(&mut heard, &format!("data: {}\n\n", done(1)));
            line.head().unwrap();
            line.chunks_until("\n\n").unwrap();
            if is_client {
                drop(line);
                heard.other_side_leaves().unwrap();
            } else {
                drop(heard);
                assert_eq!(line.chunk().unwrap(), None);
            }
            let outcome = last_outcome(&scene, count);
            assert_eq!((&outcome["result"], &outcome["reason"]), (&json!("ok"), &Value::Null));
        }
    });
}

#[test]
fn a_listening_client_sees_the_end_for_what_it_is() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let listen = json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": {
            "notifications": {"toolsListChanged": true},
            "_meta": {"io.modelcontextprotocol/protocolVersion": "2026-07-28"}}});
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&listen).bytes()).unwrap();
        let mut heard = scene.puppet.hear().unwrap();
        begin(&mut heard, ": begun\n\n");
        line.head().unwrap();
        line.chunks_until("\n\n").unwrap();
        drop(heard);
        assert_eq!(line.chunk().unwrap(), None);
        assert_eq!(last_outcome(&scene, 1)["result"], "upstream_failed");
    });
}

#[test]
fn a_server_that_is_not_there_is_told_from_a_refusal() {
    apart(|| {
        let mut daemon =
            guard_tests::scene::guard("demo", &[("policy.yaml", guard_tests::scene::POLICY)]).unwrap();
        let credential = daemon.issue("tester").unwrap();
        daemon.start().unwrap();
        let https = guard_tests::https::Https::new(ADDRESS, &daemon.ca()).unwrap();
        let answer = https.ask(&Request::post(&call(1, "open")).by(&credential)).unwrap().json();
        assert_eq!(answer["result"]["isError"], true);
        assert_eq!(answer["result"]["_meta"]["mcp-guard/decision"]["reason"], "server_unreachable");
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        for words in ["no server is running behind port 3001", "start the server", "`mcp-guard status`"] {
            assert!(text.contains(words), "{words} is not in: {text}");
        }
    });
}

#[test]
fn an_answer_that_only_some_clients_would_read_is_refused() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let ask = |head: &str, body: &str| {
            let mut line = scene.https.line().unwrap();
            let list = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"});
            line.send(&scene.post(&list).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            heard.write(format!("HTTP/1.1 {head}\r\nConnection: close\r\n\r\n{body}")).unwrap();
            drop(heard);
            line.answer().unwrap()
        };
        // Clients look for the first two words anywhere in the type, or at its beginning.
        let event = format!("data: {}\n\n", tools(1));
        let twice = tools(1).to_string().replacen("\"result\":", "\"result\":{},\"result\":", 1);
        for (kind, body) in [
            ("text/event-streams", &event),
            ("text/plain; was=text/event-stream", &event),
            ("application/json; also=text/event-stream", &event),
            ("text/plain\r\nContent-Type: text/event-stream", &event),
            ("application/jsonp", &twice),
            ("text/plain; application/json", &twice),
            ("text/event-stream; charset=utf-16", &event),
            ("text/event-stream;CHARSET=\"utf-7\"", &event),
            ("application/json; charset=utf-16le", &tools(1).to_string()),
        ] {
            let answer = ask(&format!("200 OK\r\nContent-Type: {kind}"), body);
            let text = answer.text();
            assert!(text.contains("bad_answer") && !text.contains("secret"), "{kind}: {answer:?}");
        }
        let switched = ask("101 Switching Protocols\r\nUpgrade: other", "");
        assert!(switched.status == 200 && switched.text().contains("bad_answer"), "{switched:?}");
        let plain = ask("200 OK\r\nContent-Type: application/json; charset=utf-8", &tools(1).to_string());
        assert_eq!(plain.json(), seen_tools(1));
    });
}

/// A policy by which these agents may open, and nobody may be asked for a sample but those of `sampled`.
fn policy(agents: &[&str], sampled: &[&str]) -> String {
    let entries: Vec<String> =
        agents.iter().map(|name| format!("{name}: {{client_id: {name}-client}}")).collect();
    format!(
        "agents: {{{}}}\n\
         intents: {{demo.open: [{{server: demo, tool: open}}], demo.ask: [{{server: demo, server_request: 'sampling/*'}}]}}\n\
         policies:\n  - {{intent: demo.open, agents: {agents:?}, decision: allow}}\n{}",
        entries.join(", "),
        if sampled.is_empty() {
            String::new()
        } else {
            format!("  - {{intent: demo.ask, agents: {sampled:?}, decision: allow}}\n")
        }
    )
}

fn enforce(tenants: &Tenants, policy: &str) {
    tenants.daemon.write_policy("policy.yaml", policy).unwrap();
    tenants.daemon.reload().unwrap();
}

/// A stream of the server's own on the session `id`.
fn listen(tenants: &Tenants, agent: &Credential, id: &str) -> (Line, Heard) {
    tenants.open(agent, id).unwrap();
    let mut line = tenants.https.line().unwrap();
    line.send(&Request::bare("GET").by(agent).with("Mcp-Session-Id", id).bytes()).unwrap();
    let mut heard = tenants.puppet.hear().unwrap();
    heard.stream().unwrap();
    line.head().unwrap();
    (line, heard)
}

#[test]
fn what_comes_on_an_open_stream_is_judged_by_the_policy_in_force() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (mut line, mut heard) = listen(&tenants, &tenants.bob, "one");
        let asks =
            |id: u64| json!({"jsonrpc": "2.0", "id": id, "method": "sampling/createMessage", "params": {}});
        let list = |id: u64| {
            let tools = ["open", "report", "once"].map(|name| json!({"name": name}));
            json!({"jsonrpc": "2.0", "id": id, "result": {"tools": tools}})
        };
        heard.event(&asks(1)).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("sampling"));
        heard.event(&list(1)).unwrap();
        assert!(line.chunks_until("\n\n").unwrap().contains("report"));
        enforce(&tenants, &policy(&["alice", "bob"], &["alice"]));
        heard.event(&asks(2)).unwrap();
        assert!(tenants.puppet.hear().unwrap().message()["error"]["code"] == 40300);
        heard.event(&list(2)).unwrap();
        let seen = line.chunks_until("\n\n").unwrap();
        assert!(seen.contains("open") && !seen.contains("report") && !seen.contains("once"), "{seen}");
    });
}

#[test]
fn whoever_would_not_be_let_in_any_more_has_no_open_stream_either() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (mut revoked, mut heard) = listen(&tenants, &tenants.alice, "one");
        let mut called = tenants.https.line().unwrap();
        called.send(&on("one", &call(2, "open"), &tenants.alice).bytes()).unwrap();
        let mut answering = tenants.puppet.hear().unwrap();
        answering.stream().unwrap();
        called.head().unwrap();
        let mut waiting = tenants.https.line().unwrap();
        waiting.send(&on("one", &call(3, "open"), &tenants.alice).bytes()).unwrap();
        let mut silent = tenants.puppet.hear().unwrap();
        let (mut other, mut others) = listen(&tenants, &tenants.bob, "two");

        let credentials = tenants.daemon.json("tokens list", &[]).unwrap();
        let of_alice = credentials.as_array().unwrap().iter().find(|one| one["agent"] == "alice").unwrap();
        let id = of_alice["id"].as_str().unwrap();
        tenants.daemon.output("tokens revoke", &[id]).unwrap();
        tenants.daemon.reload().unwrap();
        let event = called.chunks_until("\n\n").unwrap();
        assert!(
            event.contains("access_withdrawn") && event.contains("\"id\":2"),
            "who waits is told: {event}"
        );
        for line in [&mut revoked, &mut called] {
            assert_eq!(line.chunk().unwrap(), None);
        }
        let refused = waiting.answer().unwrap().json();
        let decision = &refused["result"]["_meta"]["mcp-guard/decision"];
        assert_eq!(decision["reason"], "access_withdrawn", "{refused}");
        for heard in [&mut heard, &mut answering, &mut silent] {
            heard.other_side_leaves().unwrap();
        }
        // The GET, the stream of call 2, and call 3, which had no answer yet.
        for (id, result) in [(None, "cut_off"), (Some("2"), "cut_off"), (Some("3"), "abandoned")] {
            let told = eventually(START_LIMIT, || {
                let ledger = tenants.daemon.ledger()?;
                let is_it = |call: &&Value| {
                    call["agent"] == "alice" && call["rpc_id"] == json!(id) && call["rpc_method"] != "initialize"
                };
                let call = ledger.of_kind("call").find(is_it).expect("it was recorded");
                let outcome = ledger.outcome_of(call);
                Ok(outcome.map(|outcome| (outcome["result"].clone(), outcome["reason"].clone())))
            });
            assert_eq!(told.unwrap().unwrap(), (json!(result), json!("access_withdrawn")), "{id:?}");
        }
        others.event(&progress(1)).unwrap();
        assert!(other.chunks_until("\n\n").unwrap().contains("progress"), "nobody else's has ended");

        enforce(&tenants, &policy(&["alice"], &[]));
        assert_eq!(other.chunk().unwrap(), None);
        others.other_side_leaves().unwrap();
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
            assert_eq!(guard_tests::tenants::reason(&refused), "unknown_task", "{task}");
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
        let task = json!({"jsonrpc": "2.0", "id": 2, "result": {"task": {"taskId": "t-1", "status": "working"}}});
        heard.event(&task).unwrap();
        line.chunks_until("\n\n").unwrap();
        let ask = json!({"jsonrpc": "2.0", "id": 9, "method": "tasks/get", "params": {"taskId": "t-1"}});
        let refused = tenants.refused(&Request::post(&ask).by(&tenants.alice)).unwrap();
        assert_eq!(guard_tests::tenants::reason(&refused), "unknown_task");
    });
}
