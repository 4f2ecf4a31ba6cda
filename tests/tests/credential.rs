//! Servers that want a credential of the guard, which no agent has.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use guard_tests::client::{Client, Endpoint, Era, said};
use guard_tests::daemon::Daemon;
use guard_tests::https::Request;
use guard_tests::process::{Fixture, eventually};
use guard_tests::scene::{ADDRESS, PORT, Scene, apart, call, done, guard};
use mcp_guard::config::Credential;
use serde_json::{Value, json};

const POLICY: &str = "
agents:
  desk: {client_id: desk}
intents:
  crm.read: [{server: customer-ops, tool: read_customer}]
policies:
  - {intent: crm.read, agents: [desk], decision: allow}
";

const PATIENCE: Duration = Duration::from_secs(20);

/// The whole file at once, as whoever rotates a secret should.
fn put(file: &Path, secret: &str) {
    let beside = file.with_extension("new");
    fs::write(&beside, secret).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, file).unwrap();
}

fn credential(value: &Value) -> Credential {
    serde_json::from_value(value.clone()).unwrap()
}

/// The file with the guard's secret for its server, beside guard.yaml.
fn given(daemon: &mut Daemon, secret: &str, more: &Value) -> PathBuf {
    let file = daemon.config_file().with_file_name("server.secret");
    put(&file, secret);
    let mut value = json!({"file": "server.secret"});
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    daemon.config.servers[0].credential = Some(credential(&value));
    file
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

async fn reads(client: &Client) -> bool {
    match client.call("read_customer", json!({"customer_id": "C-1001"})).await {
        Ok(result) => result.is_error != Some(true) && said(&result).contains("C-1001"),
        Err(_refused) => false,
    }
}

#[test]
fn a_server_that_wants_a_credential_gets_the_guards_and_no_trace_of_it_is_left() {
    apart(|| {
        let secret = "s3cr3t-of-the-guard-4711";
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let demand = daemon.config_file().with_file_name("demand");
        fs::write(&demand, format!("Bearer {secret}\n")).unwrap();
        let _server =
            Fixture::start("customer-ops", None, ADDRESS, &["--demand", demand.to_str().unwrap()]).unwrap();
        runtime().block_on(async {
            let direct = Endpoint::plain(format!("http://{ADDRESS}/mcp"));
            assert!(Client::connect(&direct, Era::Legacy).await.is_err(), "the server lets nobody in");
        });
        given(&mut daemon, &format!("{secret}\n"), &json!({}));
        let issued = daemon.issue("desk").unwrap();
        daemon.start().unwrap();
        let endpoint = daemon.endpoint(PORT, &issued);
        let runtime = runtime();
        let _open = [Era::Modern, Era::Legacy].map(|era| {
            runtime.block_on(async {
                let client = Client::connect(&endpoint, era).await.unwrap();
                assert!(reads(&client).await);
                client
            })
        });
        // What the guard itself asks of the server needs the credential, too: the end of a session.
        daemon.json("sessions end", &["--all"]).unwrap();
        let told = || {
            let ledger = daemon.ledger()?;
            let end = ledger.of_kind("call").find(|record| record["http_method"] == "DELETE");
            Ok(end.and_then(|end| ledger.outcome_of(end)).map(|outcome| outcome["status"].clone()))
        };
        let status = eventually(PATIENCE, told).unwrap().expect("the server is told");
        assert!([200, 202, 204].map(Value::from).contains(&status), "{status}");
        let status = daemon.status().unwrap();
        assert_eq!(status["credentials"][0]["problem"], Value::Null, "{status}");
        assert_eq!(status["credentials"][0]["server"], "customer-ops");
        for segment in fs::read_dir(daemon.config.audit_dir()).unwrap() {
            // A file on its way to its name may be gone by now.
            let Ok(bytes) = fs::read(segment.unwrap().path()) else { continue };
            assert!(!String::from_utf8_lossy(&bytes).contains(secret));
        }
        assert!(!daemon.log().unwrap().contains(secret));
        assert!(!status.to_string().contains(secret));
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_new_credential_is_taken_up_under_load_and_no_call_is_lost() {
    apart(|| {
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let demand = daemon.config_file().with_file_name("demand");
        let taken = |lines: &[&str]| {
            let beside = demand.with_extension("new");
            fs::write(&beside, format!("Bearer {}\n", lines.join("\nBearer "))).unwrap();
            fs::rename(&beside, &demand).unwrap();
        };
        taken(&["one"]);
        let _server =
            Fixture::start("customer-ops", None, ADDRESS, &["--demand", demand.to_str().unwrap()]).unwrap();
        let file = given(&mut daemon, "one", &json!({}));
        let issued = daemon.issue("desk").unwrap();
        daemon.start().unwrap();
        let endpoint = daemon.endpoint(PORT, &issued);
        let (done, calls, lost) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            let load = scope.spawn(|| {
                runtime().block_on(async {
                    let client = Client::connect(&endpoint, Era::Modern).await.unwrap();
                    while !done.load(Ordering::SeqCst) {
                        if !reads(&client).await {
                            lost.fetch_add(1, Ordering::SeqCst);
                        }
                        calls.fetch_add(1, Ordering::SeqCst);
                    }
                });
            });
            let some_calls = || {
                let from = calls.load(Ordering::SeqCst);
                eventually(PATIENCE, || Ok((calls.load(Ordering::SeqCst) > from + 20).then_some(())))
                    .unwrap()
                    .unwrap();
            };
            some_calls();
            for (before, next) in [("one", "two"), ("two", "three"), ("three", "four")] {
                taken(&[before, next]);
                put(&file, next);
                // The guard has it within a moment; then the old one is worth nothing any more.
                thread::sleep(Duration::from_secs(2));
                taken(&[next]);
                some_calls();
            }
            done.store(true, Ordering::SeqCst);
            load.join().unwrap();
        });
        assert_eq!(lost.load(Ordering::SeqCst), 0, "of {}", calls.load(Ordering::SeqCst));
        println!("{} calls over three changes", calls.load(Ordering::SeqCst));
    });
}

#[test]
fn without_its_credential_nothing_goes_to_the_server_until_it_is_back() {
    apart(|| {
        let mut file = PathBuf::new();
        let scene = Scene::with(&json!({}), |daemon| {
            file = given(daemon, "one", &json!({"header": "X-API-Key"}));
            Ok(())
        })
        .unwrap();
        let request =
            scene.post(&call(1, "open")).with("X-API-Key", "of-the-agent").with("X_Api_Key", "of-the-agent");
        let seen = || {
            thread::scope(|scope| {
                let answer = scope.spawn(|| scene.https.ask(&request).unwrap());
                let heard = scene.puppet.hear().unwrap();
                let asked = heard.head.to_lowercase();
                heard.answer(&done(1)).unwrap();
                assert_eq!(answer.join().unwrap().status, 200);
                asked
            })
        };
        let asked = seen();
        assert_eq!(asked.matches("x-api-key: one\r\n").count(), 1, "{asked}");
        assert!(!asked.contains("of-the-agent") && !asked.contains("authorization"), "{asked}");

        fs::remove_file(&file).unwrap();
        let answer = scene.https.ask(&request).unwrap();
        assert!(scene.puppet.heard().is_none(), "it reached the server");
        assert!(answer.text().contains("upstream_credential"), "{answer:?}");
        let closed = || {
            let ledger = scene.daemon.ledger()?;
            let mut outcomes = ledger.of_kind("outcome");
            Ok(outcomes.any(|outcome| outcome["reason"] == "upstream_credential").then_some(()))
        };
        eventually(PATIENCE, closed).unwrap().expect("its record is closed");
        let status = scene.daemon.status().unwrap();
        assert!(
            status["credentials"][0]["problem"]["what"].as_str().unwrap().contains("cannot be read"),
            "{status}"
        );
        let shown = scene.daemon.output("status", &[]).unwrap();
        assert!(String::from_utf8_lossy(&shown.stdout).contains("NO CREDENTIAL   demo: no call goes to it"));

        put(&file, "two");
        let is_back = |(): &()| scene.daemon.status().unwrap()["credentials"][0]["problem"].is_null();
        eventually(PATIENCE, || Ok(Some(()).filter(is_back))).unwrap().expect("it is taken up by itself");
        assert!(seen().contains("x-api-key: two\r\n"));

        // One that the server does not take is the operator's to mend, not the agent's.
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(|| scene.https.ask(&request).unwrap());
            let mut heard = scene.puppet.hear().unwrap();
            heard
                .write("HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Bearer\r\nContent-Length: 0\r\n\r\n")
                .unwrap();
            answer.join().unwrap()
        });
        assert_eq!((answer.status, answer.header("www-authenticate")), (200, None));
        assert!(answer.text().contains("upstream_credential"), "{answer:?}");
        let stream = Request::bare("GET").by(&scene.credential);
        let answer = thread::scope(|scope| {
            let answer = scope.spawn(|| scene.https.ask(&stream).unwrap());
            let mut heard = scene.puppet.hear().unwrap();
            assert_eq!(heard.header("x-api-key"), Some("two"));
            heard.write("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").unwrap();
            answer.join().unwrap()
        });
        assert_eq!(answer.status, 502, "{answer:?}");
    });
}

#[test]
fn a_credential_that_cannot_be_used_keeps_the_guard_from_starting_and_says_why() {
    apart(|| {
        let mut daemon = guard("demo", &[("policy.yaml", guard_tests::scene::POLICY)]).unwrap();
        let file = given(&mut daemon, "one", &json!({}));
        for (text, mode, words) in [
            ("", 0o600, "holds no credential"),
            ("a\nb\n", 0o600, "more than one line"),
            ("mcpg_abc", 0o600, "a secret of the guard's own"),
            ("one", 0o644, "others than its owner may read this file"),
            ("one", 0o620, "may write this file"),
        ] {
            put(&file, text);
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let error = daemon.start().unwrap_err().to_string();
            assert!(error.contains(words), "{text:?} {mode:o}: {error}");
            let output = daemon.output("check", &["--json"]).unwrap();
            let checked: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!((checked["ok"].clone(), output.status.code()), (json!(false), Some(1)), "{checked}");
            assert!(checked["problems"][0]["what"].as_str().unwrap().contains(words), "{checked}");
            assert!(!checked.to_string().contains("abc"), "{checked}");
        }
        daemon.config.servers[0].credential = Some(credential(&json!({"systemd": "crm"})));
        let error = daemon.start().unwrap_err().to_string();
        assert!(error.contains("LoadCredential=crm:"), "{error}");
        daemon.write_config().unwrap();
        let checked = daemon.json("check", &[]).unwrap();
        assert_eq!(checked["ok"], true, "only the unit has it: {checked}");
        assert!(checked["warnings"].to_string().contains("not checked"), "{checked}");
        // As systemd hands it over.
        let directory = daemon.config_file().with_file_name("credentials");
        fs::create_dir(&directory).unwrap();
        fs::write(directory.join("crm"), "one").unwrap();
        fs::set_permissions(directory.join("crm"), fs::Permissions::from_mode(0o440)).unwrap();
        daemon.environment.insert("CREDENTIALS_DIRECTORY".into(), directory.to_str().unwrap().into());
        daemon.start().unwrap();
        assert_eq!(daemon.status().unwrap()["credentials"][0]["problem"], Value::Null);
    });
}
