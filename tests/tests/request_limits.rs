//! Each bound on a connection, a request or an answer, set small, and reached.

use std::net::TcpStream;
use std::thread;
use std::time::Duration;

use guard_tests::https::{Request, plain};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done};
use guard_tests::tenants::{self, Tenants};
use serde_json::{Value, json};

/// Runs with these limits; one ordinary call works with them.
fn with(limits: &Value, body: impl FnOnce(&Scene) + Send) {
    apart(|| {
        let scene = Scene::new(limits).unwrap();
        assert_an_ordinary_call_works(&scene);
        body(&scene);
    });
}

fn assert_an_ordinary_call_works(scene: &Scene) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
    scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
    assert_eq!(line.answer().unwrap().json(), done(1));
}

/// The reason in a refusal, wherever it stands.
fn reason(message: &Value) -> &str {
    let places = ["/error/data", "/result/_meta"];
    let found =
        places.iter().find_map(|place| message.pointer(&format!("{place}/mcp-guard~1decision/reason")));
    found.and_then(Value::as_str).unwrap_or_else(|| panic!("no refusal: {message}"))
}

#[test]
fn a_head_may_be_so_long_so_slow_and_of_so_many_fields() {
    let limits = json!({"header_bytes_max": 2000, "header_seconds": 2, "headers_max": 16});
    with(&limits, |scene| {
        let request = scene.post(&call(1, "open"));
        let answer = scene.https.ask(&request.clone().with("X-Long", &"x".repeat(2000))).unwrap();
        assert_eq!((answer.status, reason(&answer.json())), (431, "head_too_large"));

        let many = (0..16).fold(request.clone(), |request, n| request.with(&format!("X-{n}"), "y"));
        assert_eq!(scene.https.ask(&many).unwrap().status, 431);

        let mut line = scene.https.line().unwrap();
        line.send(b"POST /mcp HTTP/1.1\r\nHost: local").unwrap();
        let answer = line.answer().unwrap();
        assert_eq!((answer.status, reason(&answer.json())), (408, "head_slow"));
        assert!(line.rest().unwrap().is_empty());
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn a_body_may_take_so_long_and_be_so_deep() {
    with(&json!({"body_seconds": 2, "json_depth_max": 4}), |scene| {
        let request = scene.post(&call(1, "open"));
        let bytes = request.bytes();
        let mut line = scene.https.line().unwrap();
        line.send(&bytes[..bytes.len() - 1]).unwrap();
        let answer = line.answer().unwrap();
        assert_eq!((answer.status, reason(&answer.json())), (408, "body_slow"));

        let mut deep = call(1, "open");
        deep["params"]["arguments"] = json!({"a": [[]]});
        let answer = scene.https.ask(&scene.post(&deep)).unwrap();
        assert_eq!((answer.status, reason(&answer.json())), (400, "json_too_deep"));
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn requests_together_may_hold_so_much() {
    with(&json!({"requests_bytes_max": 16_000}), |scene| {
        // Without a credential there is an eighth of it for all, and this one holds most of that.
        let unknown = Request::post(&call(1, "open"));
        let long = unknown.clone().with("X-Long", &"x".repeat(1000)).bytes();
        let mut held = None;
        let refused = eventually(START_LIMIT, || {
            // The two come at the same time, so the second one may be read first.
            let mut line = scene.https.line()?;
            line.send(&long[..long.len() - 1])?;
            held = Some(line);
            let answer = scene.https.ask(&unknown)?;
            Ok((answer.status == 503).then_some(answer))
        });
        let refused = refused.unwrap().expect("no memory is left for the second one");
        assert_eq!(reason(&refused.json()), "busy");
        assert_an_ordinary_call_works(scene);
        drop(held);
        let served = eventually(START_LIMIT, || Ok((scene.https.ask(&unknown)?.status != 503).then_some(())));
        served.unwrap().expect("it is given back");

        let mut large = call(1, "open");
        large["params"]["arguments"] = json!({"a": "x".repeat(16_000)});
        let answer = scene.https.ask(&scene.post(&large)).unwrap();
        assert_eq!((answer.status, reason(&answer.json())), (503, "busy"));
        assert_an_ordinary_call_works(scene);
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn a_list_may_be_so_long() {
    with(&json!({"list_bytes_max": 500}), |scene| {
        let list = |words: usize| {
            let tool = json!({"name": "open", "description": "Opens it. ".repeat(words)});
            json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool]}})
        };
        let request = scene.post(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        let ask = |answer: &Value| {
            let mut line = scene.https.line().unwrap();
            line.send(&request.bytes()).unwrap();
            scene.puppet.hear().unwrap().answer(answer).unwrap();
            line.answer().unwrap().json()
        };
        assert_eq!(ask(&list(2)), list(2));
        let refused = ask(&list(50));
        assert_eq!(reason(&refused), "bad_answer");
        assert!(refused["error"]["message"].as_str().unwrap().contains("limits.list_bytes_max"));
    });
}

#[test]
fn a_tools_definition_may_be_so_long() {
    with(&json!({"tool_definition_bytes_max": 300}), |scene| {
        let tool =
            |name: &str, words: usize| json!({"name": name, "description": "Opens it. ".repeat(words)});
        let list =
            json!({"jsonrpc": "2.0", "id": 1, "result": {"tools": [tool("open", 2), tool("vetted", 50)]}});
        let request = scene.post(&json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list"}));
        let mut line = scene.https.line().unwrap();
        line.send(&request.bytes()).unwrap();
        scene.puppet.hear().unwrap().answer(&list).unwrap();
        let answer = line.answer().unwrap().json();
        assert_eq!(answer["result"]["tools"], json!([tool("open", 2)]));
        let refused = scene.https.ask(&scene.post(&call(1, "vetted"))).unwrap().json();
        assert_eq!(reason(&refused), "tool_not_approved");
        let listed = scene.daemon.json("tools list", &[]).unwrap();
        let tools = &listed["servers"][0]["tools"];
        assert_eq!((&tools[1]["name"], &tools[1]["state"]), (&json!("vetted"), &json!("unreadable")));
    });
}

#[test]
fn an_agent_may_have_so_many_tasks() {
    apart(|| {
        let tenants = Tenants::new(&json!({"tasks_per_agent_max": 2})).unwrap();
        let (alice, bob) = (&tenants.alice, &tenants.bob);
        for (agent, id) in [(bob, "b-1"), (alice, "a-1"), (alice, "a-2"), (alice, "a-3")] {
            let made = json!({"task": {"taskId": id, "status": "working", "ttl": 60000}});
            tenants.served(&Request::post(&call(1, "report")).by(agent), &made).unwrap();
        }
        let get = |agent, id: &str| {
            let ask = json!({"jsonrpc": "2.0", "id": 2, "method": "tasks/get", "params": {"taskId": id}});
            Request::post(&ask).by(agent)
        };
        let forgotten = tenants.refused(&get(alice, "a-1")).unwrap();
        assert_eq!(tenants::reason(&forgotten), "unknown_task");
        for (agent, id) in [(alice, "a-2"), (alice, "a-3"), (bob, "b-1")] {
            tenants.served(&get(agent, id), &json!({})).unwrap();
        }
    });
}

#[test]
fn an_http2_connection_may_have_so_many_streams() {
    const SETTINGS: u8 = 4;
    const MAX_CONCURRENT_STREAMS: u8 = 3;
    with(&json!({"h2_streams_max": 7}), |scene| {
        let mut line = scene.https.clone().speaking("h2").line().unwrap();
        line.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").unwrap();
        let head = line.take(9).unwrap();
        assert_eq!(head[3], SETTINGS, "{head:?}");
        let settings = line.take(usize::from(head[2])).unwrap();
        let streams = settings.chunks(6).find(|setting| setting[..2] == [0, MAX_CONCURRENT_STREAMS]);
        assert_eq!(streams.map(|setting| &setting[2..]), Some(&[0, 0, 0, 7][..]), "{settings:?}");
    });
}

#[test]
fn who_says_nothing_is_closed() {
    with(&json!({"header_seconds": 2, "tls_handshake_seconds": 3}), |scene| {
        // No TLS handshake, then no request.
        assert!(plain(ADDRESS).unwrap().rest().unwrap().is_empty());
        let mut line = scene.https.line().unwrap();
        assert!(line.rest().unwrap().is_empty());
    });
    with(&json!({"idle_seconds": 3}), |scene| {
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "secret")).bytes()).unwrap();
        line.answer().unwrap();
        // No second request.
        assert!(line.rest().unwrap().is_empty());
    });
}

#[test]
fn one_connection_too_many_is_closed_and_the_others_go_on() {
    with(&json!({"connections_max": 1}), |scene| {
        // The ordinary call's connection is counted until the guard has seen it close.
        let held = eventually(START_LIMIT, || Ok(scene.https.line().ok())).unwrap();
        let mut held = held.expect("a place is free again");
        let tcp = TcpStream::connect(ADDRESS).unwrap();
        drop(tcp);
        assert!(scene.https.line().is_err());
        held.send(&scene.post(&call(2, "open")).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer(&done(2)).unwrap();
        assert_eq!(held.answer().unwrap().json(), done(2));
        let over = scene.daemon.status().unwrap()["kernel"]["counters"]["over_limit"].as_u64();
        assert!(over >= Some(2), "{over:?}");
    });
}

#[test]
fn there_is_room_for_the_files_of_all_connections() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};

    // What most programs start with.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 1024.min(hard), hard).unwrap();
    with(&json!({"connections_max": 3000}), |scene| {
        let limits =
            std::fs::read_to_string(format!("/proc/{}/limits", scene.daemon.pid().unwrap())).unwrap();
        let files = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        let soft: u64 = files.split_whitespace().next().unwrap().parse().unwrap();
        assert!(soft >= hard.min(2 * 3000), "{files}");
    });
}

#[test]
fn one_call_too_many_in_flight_is_refused() {
    // Without a call before it: its place is free only when its closing record is written.
    apart(|| {
        let scene = Scene::new(&json!({"calls_in_flight_max": 1})).unwrap();
        let mut first = scene.https.line().unwrap();
        first.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        let heard = scene.puppet.hear().unwrap();
        let answer = scene.https.ask(&scene.post(&call(2, "open"))).unwrap().json();
        assert_eq!(reason(&answer), "too_many_calls");
        heard.answer(&done(1)).unwrap();
        assert_eq!(first.answer().unwrap().json(), done(1));
        assert!(scene.puppet.heard().is_none());
    });
}

#[test]
fn no_agent_takes_the_place_of_all_others() {
    apart(|| {
        let tenants = Tenants::new(&json!({"calls_in_flight_per_agent_max": 1})).unwrap();
        let mut first = tenants.https.line().unwrap();
        first.send(&Request::post(&call(1, "open")).by(&tenants.alice).bytes()).unwrap();
        let heard = tenants.puppet.hear().unwrap();
        let refused = tenants.refused(&Request::post(&call(2, "open")).by(&tenants.alice)).unwrap();
        assert_eq!(reason(&refused.json()), "too_many_calls");
        tenants.served(&Request::post(&call(1, "open")).by(&tenants.bob), &json!({"content": []})).unwrap();
        heard.answer(&done(1)).unwrap();
        assert_eq!(first.answer().unwrap().json(), done(1));
        assert_eq!(tenants.daemon.ledger().unwrap().calls("deny", "open").count(), 1);
    });
}

#[test]
fn a_server_may_be_silent_so_long_and_its_events_so_large() {
    with(&json!({"upstream_head_seconds": 3, "event_bytes_max": 1000}), |scene| {
        let ask = || {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            (line, scene.puppet.hear().unwrap())
        };
        let (mut line, silent) = ask();
        assert_eq!(reason(&line.answer().unwrap().json()), "server_silent");
        drop(silent);

        // As long for the rest of an answer: whoever drips it holds a call no longer.
        let (mut line, mut heard) = ask();
        heard
            .write("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{")
            .unwrap();
        let answer = thread::scope(|scope| {
            // Until the guard has left.
            scope.spawn(|| {
                while heard.write(" ").is_ok() {
                    thread::sleep(Duration::from_millis(100));
                }
            });
            line.answer().unwrap().json()
        });
        assert_eq!(reason(&answer), "bad_answer");
        assert!(answer.to_string().contains("its end did not come within limits.upstream_head_seconds"));

        let mut long = done(1);
        long["result"]["content"][0]["text"] = "x".repeat(1000).into();
        let (mut line, heard) = ask();
        heard.answer(&long).unwrap();
        assert_eq!(reason(&line.answer().unwrap().json()), "bad_answer");

        let (mut line, mut heard) = ask();
        let whole = |heard: &mut Heard, message: &Value| heard.event(message).unwrap();
        heard.stream().unwrap();
        whole(&mut heard, &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {}}));
        line.head().unwrap();
        line.chunks_until("notifications/message").unwrap();
        whole(&mut heard, &long);
        let last = line.chunks_until("\n\n").unwrap();
        assert!(last.contains("limits.event_bytes_max") && !last.contains("xxx"), "{last}");
        assert_eq!(line.chunk().unwrap(), None);
    });
}

#[test]
fn an_event_may_take_so_long_to_its_end() {
    with(&json!({"event_seconds": 4}), |scene| {
        let begin = |id: u64| {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(id, "open")).bytes()).unwrap();
            let mut heard = scene.puppet.hear().unwrap();
            heard.stream().unwrap();
            line.head().unwrap();
            (line, heard)
        };
        // Between events a stream may be silent, and each event has its whole time.
        let (mut line, mut heard) = begin(2);
        for silence in [0, 4500, 0] {
            thread::sleep(Duration::from_millis(silence));
            heard.write("id: 1\n").unwrap();
            thread::sleep(Duration::from_millis(1500));
            heard.write("data: \n\n").unwrap();
            line.chunks_until("\n\n").unwrap();
        }
        drop((line, heard));
        let (mut line, mut heard) = begin(3);
        heard.write(": a comment\n\ndata: {\"jsonrpc\":").unwrap();
        line.chunks_until("\n\n").unwrap();
        let event = line.chunks_until("\n\n").unwrap();
        assert!(event.contains("bad_answer") && event.contains("limits.event_seconds"), "{event}");
        assert_eq!(line.chunk().unwrap(), None);
        heard.other_side_leaves().unwrap();
    });
}

#[test]
fn answers_together_may_hold_so_much() {
    with(&json!({"answers_bytes_max": 3_000_000}), |scene| {
        let large = |bytes: usize| {
            let mut message = done(1);
            message["result"]["content"][0]["text"] = "x".repeat(bytes).into();
            message
        };
        let ask = || {
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            (line, scene.puppet.hear().unwrap())
        };
        let (mut line, heard) = ask();
        heard.answer(&large(2_000_000)).unwrap();
        assert_eq!(line.answer().unwrap().json(), large(2_000_000), "in pieces, and whole in the end");

        // An event that does not end holds most of it, until its client goes away.
        let (mut open, mut endless) = ask();
        endless.stream().unwrap();
        open.head().unwrap();
        endless.write([b"data: ".as_slice(), &vec![b'x'; 2_500_000]].concat()).unwrap();
        let refused = eventually(START_LIMIT, || {
            let (mut line, heard) = ask();
            // The guard does not read on what it refuses.
            let _broken_off = heard.answer(&large(1_000_000));
            let answer = line.answer()?.json();
            Ok((answer != large(1_000_000)).then_some(answer))
        });
        let refused = refused.unwrap().expect("no memory is left");
        assert_eq!(reason(&refused), "bad_answer");
        assert!(refused.to_string().contains("limits.answers_bytes_max"), "{refused}");
        assert_an_ordinary_call_works(scene);
        drop(open);
        let passed = eventually(START_LIMIT, || {
            let (mut line, heard) = ask();
            let _broken_off = heard.answer(&large(1_000_000));
            Ok((line.answer()?.json() == large(1_000_000)).then_some(()))
        });
        passed.unwrap().expect("it is given back");
    });
}

#[test]
fn a_stopping_guard_waits_so_long_for_calls_under_way() {
    apart(|| {
        let Scene { mut daemon, puppet, credential, https } =
            Scene::new(&json!({"drain_seconds": 6})).unwrap();
        let request = Request::post(&call(1, "open")).by(&credential).bytes();
        let mut answered = https.line().unwrap();
        answered.send(&request).unwrap();
        let heard = puppet.hear().unwrap();
        let mut open = https.line().unwrap();
        open.send(&request).unwrap();
        let mut endless = puppet.hear().unwrap();
        endless.stream().unwrap();
        open.head().unwrap();

        daemon.signal(rustix::process::Signal::TERM).unwrap();
        let stopping =
            eventually(START_LIMIT, || Ok(daemon.log()?.contains("the ports stay closed").then_some(())));
        stopping.unwrap().expect("the guard says that it stops");
        heard.answer(&done(1)).unwrap();
        assert_eq!(answered.answer().unwrap().json(), done(1));
        daemon.stop().unwrap();
        assert!(open.chunk().is_err(), "cut off, not ended in order");

        let ledger = daemon.ledger().unwrap();
        let results: Vec<_> =
            ledger.of_kind("outcome").map(|outcome| outcome["result"].as_str().unwrap()).collect();
        assert_eq!(results, ["ok", "client_gone"]);
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}
