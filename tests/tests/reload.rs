//! A reload changes the rules between two calls, never within one, and a bad one changes nothing.

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use guard_tests::daemon::Daemon;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::scene::{Scene, apart, call, done, done_for};
use mcp_guard::admin::{self, Ask};
use rustix::process::Signal;
use serde_json::json;

const RELOADS: usize = 100;

fn policy(decision: &str) -> String {
    // Pretty: rules are named by their lines.
    format!(
        "{:#}",
        json!({
            "agents": {"tester": {"client_id": "test-client"}},
            "intents": {"demo.open": [{"server": "demo", "tool": "open"}], "demo.more": [{"server": "demo", "tool": "more"}]},
            "policies": [
                {"intent": "demo.open", "agents": ["tester"], "decision": decision},
                {"intent": "demo.more", "agents": ["tester"], "decision": "allow"},
            ],
        })
    )
}

fn reload(scene: &Scene) -> String {
    let answer = admin::ask(&scene.daemon.config.admin_socket(), &Ask::Reload).unwrap();
    answer["policy"].as_str().unwrap().to_owned()
}

#[test]
fn each_call_under_a_hundred_reloads_is_judged_by_the_version_that_its_record_names() {
    apart(|| {
        let Scene { daemon, puppet, credential, https } = Scene::new(&json!({})).unwrap();
        let reached = puppet.answer_all(done_for);
        let socket = daemon.config.admin_socket();
        let policies = [policy("allow"), policy("deny")];
        let digests = policies.clone().map(|policy| {
            daemon.write_policy("policy.yaml", &policy).unwrap();
            admin::ask(&socket, &Ask::Reload).unwrap()["policy"].clone()
        });
        assert_ne!(digests[0], digests[1]);

        let over = AtomicBool::new(false);
        let [allowed, denied] = [AtomicUsize::new(0), AtomicUsize::new(0)];
        thread::scope(|scope| {
            let caller = || {
                let mut line = https.line().unwrap();
                let request = guard_tests::https::Request::post(&call(1, "open")).by(&credential).bytes();
                while !over.load(Ordering::Relaxed) {
                    line.send(&request).unwrap();
                    let answer = line.answer().unwrap().json();
                    let count = if answer == done(1) { &allowed } else { &denied };
                    assert!(answer == done(1) || answer["result"]["isError"] == true, "{answer}");
                    count.fetch_add(1, Ordering::Relaxed);
                }
            };
            let callers = [scope.spawn(caller), scope.spawn(caller)];
            let mut round = 0;
            // Until both verdicts have been given often, however slow the machine is.
            while round < RELOADS || allowed.load(Ordering::Relaxed).min(denied.load(Ordering::Relaxed)) < 20
            {
                if callers.iter().any(thread::ScopedJoinHandle::is_finished) {
                    break;
                }
                daemon.write_policy("policy.yaml", &policies[round % 2]).unwrap();
                let answer = admin::ask(&socket, &Ask::Reload).unwrap();
                assert_eq!(answer["policy"], digests[round % 2]);
                round += 1;
            }
            over.store(true, Ordering::Relaxed);
        });

        let ledger = daemon.ledger().unwrap();
        let records: Vec<_> =
            ["allow", "deny"].into_iter().flat_map(|decision| ledger.calls(decision, "open")).collect();
        for record in &records {
            let expected = if record["decision"] == "allow" { &digests[0] } else { &digests[1] };
            assert_eq!(record["policy"], *expected, "{record}");
        }
        let count = |decision| ledger.calls(decision, "open").count();
        assert_eq!(count("allow"), allowed.load(Ordering::Relaxed));
        assert_eq!(count("deny"), denied.load(Ordering::Relaxed));
        assert_eq!(reached.load(Ordering::SeqCst), count("allow"));
        let events = ledger.of_kind("policy").filter(|event| digests.contains(&event["digest"])).count();
        assert!(events >= RELOADS, "{events} records of policies");
    });
}

#[test]
fn a_bad_policy_is_refused_with_file_line_and_hint_and_the_last_good_one_stays() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let digest = scene.daemon.status().unwrap()["policy"].clone();
        let bad = "agents:\n  tester: {client_id: test-client}\nintents:\n  demo.open: [{server: dmo, tool: open}]\n";
        scene.daemon.write_policy("policy.yaml", bad).unwrap();
        let said = scene.daemon.reload().unwrap_err().to_string();
        for words in ["policy.yaml:4", "dmo", "did you mean \"demo\"?"] {
            assert!(said.contains(words), "{words} is not in: {said}");
        }
        // Whoever reloads by a signal reads it in the log.
        scene.daemon.signal(Signal::HUP).unwrap();
        let told = eventually(START_LIMIT, || {
            Ok((scene.daemon.log()?.matches("the last good policy stays in force").count() >= 2)
                .then_some(()))
        });
        told.unwrap().expect("the log tells of both");
        assert_eq!(scene.daemon.status().unwrap()["policy"], digest);
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(1));
    });
}

#[test]
fn a_certificate_that_cannot_be_loaded_keeps_the_policy_too() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let digest = scene.daemon.status().unwrap()["policy"].clone();
        let ca = fs::read(scene.daemon.ca()).unwrap();
        fs::write(scene.daemon.ca(), "not a certificate").unwrap();
        scene.daemon.write_policy("policy.yaml", &policy("deny")).unwrap();
        fs::write(scene.daemon.config.policy_dir.join("credentials.yaml"), "credentals: []").unwrap();
        let said = scene.daemon.reload().unwrap_err().to_string();
        // All of it in one go.
        for words in ["ca.pem: it holds no certificate", "credentials.yaml:1:1"] {
            assert!(said.contains(words), "{words} is not in: {said}");
        }
        fs::write(scene.daemon.config.policy_dir.join("credentials.yaml"), "credentials: []").unwrap();
        let said = scene.daemon.reload().unwrap_err().to_string();
        assert!(said.contains("ca.pem"), "{said}");
        assert_eq!(scene.daemon.status().unwrap()["policy"], digest);
        let records = |daemon: &Daemon| daemon.ledger().unwrap().of_kind("policy").count();
        assert_eq!(records(&scene.daemon), 1, "the trail tells of no policy that was not in force");
        // The credential that was issued is known still.
        let mut line = scene.https.line().unwrap();
        line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
        scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
        assert_eq!(line.answer().unwrap().json(), done(1));

        fs::write(scene.daemon.ca(), ca).unwrap();
        scene.daemon.reload().unwrap();
        assert_ne!(scene.daemon.status().unwrap()["policy"], digest);
        assert_eq!(records(&scene.daemon), 2);
    });
}

#[test]
fn a_hangup_signal_reloads() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let digest = scene.daemon.status().unwrap()["policy"].clone();
        scene.daemon.write_policy("policy.yaml", &policy("deny")).unwrap();
        scene.daemon.signal(Signal::HUP).unwrap();
        let changed =
            eventually(START_LIMIT, || Ok((scene.daemon.status()?["policy"] != digest).then_some(())));
        changed.unwrap().expect("another policy is in force");
        let answer = scene.https.ask(&scene.post(&call(1, "open"))).unwrap();
        assert_eq!(answer.json()["result"]["isError"], true);
    });
}

#[test]
fn a_new_certificate_is_for_new_connections_and_old_ones_go_on() {
    apart(|| {
        let scene = Scene::new(&json!({})).unwrap();
        let mut old = scene.https.line().unwrap();
        let serve = |line: &mut guard_tests::https::Line| {
            line.send(&scene.post(&call(1, "open")).bytes()).unwrap();
            scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(1));
        };
        serve(&mut old);
        reload(&scene);
        let mut new = scene.https.line().unwrap();
        assert_ne!(old.certificate, new.certificate);
        serve(&mut new);
        serve(&mut old);
    });
}
