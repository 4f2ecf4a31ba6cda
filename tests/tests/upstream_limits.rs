//! The bounds on the guard's connections to a server, and on clients that do not take their answers.

use std::io::ErrorKind;
use std::sync::mpsc;
use std::thread;

use guard_tests::https::{Https, Line, Request};
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, POLICY, Scene, apart, call, done, guard};
use serde_json::json;
use socket2::{Domain, Socket, Type};

fn ask(scene: &Scene) -> (Line, Heard) {
    let mut line = scene.https.line().unwrap();
    line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
    (line, scene.puppet.hear().unwrap())
}

#[test]
fn an_idle_connection_to_the_server_is_used_again_and_kept_so_long() {
    apart(|| {
        let scene = Scene::new(&json!({"upstream_idle_seconds": 3})).unwrap();
        let (mut line, mut heard) = ask(&scene);
        heard.answer_and_stay(&done(1)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(1));
        heard.other_side_leaves().unwrap();
    });
}

#[test]
fn a_connection_that_the_server_closed_while_it_was_idle_costs_no_call() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        for _ in 0..20 {
            let (mut line, mut heard) = ask(&scene);
            heard.answer_and_stay(&done(1)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(1));
            // And it closes.
        }
    });
}

#[test]
fn so_many_idle_connections_to_the_server_are_kept() {
    apart(|| {
        let limits = json!({"upstream_idle_connections_max": 1, "upstream_idle_seconds": 3600});
        let scene = Scene::new(&limits).unwrap();
        let ((mut line, mut first), (mut other, mut second)) = (ask(&scene), ask(&scene));
        for (line, heard) in [(&mut line, &mut first), (&mut other, &mut second)] {
            heard.answer_and_stay(&done(1)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(1));
        }
        second.other_side_leaves().unwrap();
        line.send(&scene.post(&call(2, "open")).bytes()).unwrap();
        first.hear_again().unwrap();
        assert_eq!(first.message()["id"], 2);
        first.answer_and_stay(&done(2)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(2));
        assert!(scene.puppet.heard().is_none(), "no third connection");
    });
}

#[test]
fn connecting_to_the_server_may_take_so_long() {
    apart(|| {
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
        daemon.config.limits = serde_json::from_value(json!({"upstream_connect_seconds": 1})).unwrap();
        let credential = daemon.issue("tester").unwrap();
        daemon.start().unwrap();
        // It accepts nothing, and has no room for more than one or two that wait.
        let server = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        server.set_reuse_address(true).unwrap();
        server.bind(&ADDRESS.into()).unwrap();
        server.listen(0).unwrap();

        let pinned = || {
            let pinned = &daemon.status()?["kernel"]["namespaces"][0]["ports"]["3001"]["pinned"];
            Ok(pinned.as_array().is_some_and(|list| !list.is_empty()).then_some(()))
        };
        eventually(START_LIMIT, pinned).unwrap().expect("the server is pinned");

        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let request = Request::post(&call(1, "open")).by(&credential).bytes();
        let (tell, answers) = mpsc::channel();
        thread::scope(|scope| {
            for _ in 0..4 {
                let mut line = https.line().unwrap();
                line.send(&request).unwrap();
                let tell = tell.clone();
                // Those that found room wait until the guard is gone.
                scope.spawn(move || tell.send(line.answer().map(|answer| answer.json().to_string())));
            }
            let answer = answers.recv().unwrap().unwrap();
            for words in ["server_unreachable", "not within upstream_connect_seconds", "was not run"] {
                assert!(answer.contains(words), "{words} is not in: {answer}");
            }
            daemon.kill().unwrap();
        });
    });
}

#[test]
fn a_client_that_takes_nothing_is_given_up() {
    apart(|| {
        let scene = Scene::new(&json!({"stall_seconds": 2})).unwrap();
        let (line, mut heard) = ask(&scene);
        heard.stream().unwrap();
        let event =
            json!({"jsonrpc": "2.0", "method": "notifications/message", "params": "x".repeat(1 << 16)});
        // Until every buffer on the way is full, and then until the guard gives up.
        let end = loop {
            if let Err(error) = heard.event(&event) {
                break error;
            }
        };
        assert!(matches!(end.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset), "{end}");
        drop(line);
        let ended = || Ok(scene.daemon.ledger()?.of_kind("outcome").next().cloned());
        let outcome = eventually(START_LIMIT, ended).unwrap();
        assert_eq!(outcome.expect("a closing record")["result"], "client_gone");
    });
}
