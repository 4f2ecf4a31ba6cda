//! Streams of events through the guard: as they come, judged one by one, and ended in order. The server is played by
//! the test, which sends the next event only when the client has the one before.

use std::thread;
use std::time::Duration;

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
                    call["agent"] == "alice"
                        && call["rpc_id"] == json!(id)
                        && call["rpc_method"] != "initialize"
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

#[test]
fn a_stream_ends_when_a_new_rule_asks_for_another_process() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let (mut line, mut heard) = listen(&tenants, &tenants.alice, "one");
        let (mut other, mut others) = listen(&tenants, &tenants.bob, "two");
        let bound = policy(&["alice", "bob"], &[])
            .replace("client_id: alice-client", "client_id: alice-client, process: {uid: 12345}");
        enforce(&tenants, &bound);
        assert_eq!(line.chunk().unwrap(), None);
        heard.other_side_leaves().unwrap();
        let refused = tenants.refused(&on("one", &call(2, "open"), &tenants.alice)).unwrap();
        assert_eq!(guard_tests::tenants::reason(&refused), "wrong_process");
        // A rule that his process keeps ends nobody's.
        enforce(
            &tenants,
            &bound.replace("client_id: bob-client", "client_id: bob-client, process: {uid: 0}"),
        );
        others.event(&progress(1)).unwrap();
        assert!(other.chunks_until("\n\n").unwrap().contains("progress"));
    });
}

#[test]
fn a_url_that_a_client_may_not_be_sent_to_reaches_it_with_no_status() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        enforce(&tenants, &policy(&["alice", "bob"], &["bob"]).replace("sampling/*", "elicitation/create"));
        let sent = |id: u64| {
            json!({"jsonrpc": "2.0", "id": id, "error": {"code": -32042, "message": "go there",
                "data": {"elicitations": [{"mode": "url", "url": "https://x.example/"}]}}})
            .to_string()
        };
        for (status, kind) in [(200, "application/json"), (400, "application/json"), (403, "text/plain")] {
            for (agent, passes) in [(&tenants.alice, false), (&tenants.bob, true)] {
                let mut line = tenants.https.line().unwrap();
                line.send(&Request::post(&call(5, "open")).by(agent).bytes()).unwrap();
                let mut heard = tenants.puppet.hear().unwrap();
                let body = sent(5);
                let top = format!("HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nConnection: close\r\n");
                heard.write(format!("{top}Content-Length: {}\r\n\r\n{body}", body.len())).unwrap();
                let answer = line.answer().unwrap();
                let what = format!("{status} {kind}: {answer:?}");
                assert_eq!(answer.text().contains("x.example"), passes, "{what}");
                assert_eq!(answer.text().contains("bad_answer"), !passes, "{what}");
            }
        }
    });
}

#[test]
fn a_request_is_judged_by_the_rules_that_are_in_force_when_its_body_is_there() {
    apart(|| {
        let tenants = Tenants::new(&json!({})).unwrap();
        let request = Request::post(&call(2, "report")).by(&tenants.bob).bytes();
        let mut line = tenants.https.line().unwrap();
        line.send(&request[..request.len() - 10]).unwrap();
        // Time to read the head. The verdict is the same on a machine that takes longer.
        thread::sleep(Duration::from_millis(500));
        enforce(&tenants, &policy(&["alice", "bob"], &[]));
        line.send(&request[request.len() - 10..]).unwrap();
        let answer = line.answer().unwrap();
        assert_eq!(answer.json()["error"]["code"], -32602, "{answer:?}");
        let digest = tenants.daemon.status().unwrap()["policy"].clone();
        let ledger = tenants.daemon.ledger().unwrap();
        let refused = ledger.calls("deny", "report").next().unwrap();
        assert_eq!((&refused["reason"], &refused["policy"]), (&json!("no_intent"), &digest));
        assert!(tenants.puppet.heard().is_none());

        // Nor does a credential work that was revoked meanwhile.
        let request = Request::post(&call(3, "open")).by(&tenants.alice).bytes();
        let mut line = tenants.https.line().unwrap();
        line.send(&request[..request.len() - 10]).unwrap();
        thread::sleep(Duration::from_millis(500));
        let credentials = tenants.daemon.json("tokens list", &[]).unwrap();
        let of_alice = credentials.as_array().unwrap().iter().find(|one| one["agent"] == "alice").unwrap();
        tenants.daemon.output("tokens revoke", &[of_alice["id"].as_str().unwrap()]).unwrap();
        tenants.daemon.reload().unwrap();
        line.send(&request[request.len() - 10..]).unwrap();
        let refused = line.answer().unwrap();
        assert_eq!(guard_tests::tenants::reason(&refused), "unknown_credential");
        assert!(tenants.puppet.heard().is_none());
    });
}
