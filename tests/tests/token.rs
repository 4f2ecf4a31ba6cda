//! Agents known by tokens that another issuer signed.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;

use guard_tests::client::{Client, Endpoint, Era, said};
use guard_tests::daemon::Daemon;
use guard_tests::https::{Answer, Https, Request};
use guard_tests::idp::{AUDIENCE, ISSUER, Idp, claims, publish};
use guard_tests::process::{Fixture, copy_program, program};
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, PORT, apart, call, done_for, guard};
use guard_tests::world::NOBODY;
use serde_json::{Value, json};

/// Tests run as root, who is the process of `bound`.
const POLICY: &str = r#"
agents:
  billing: {client_id: billing, profiles: [default, night], needs: [token], token: {issuer: corp, subject: "billing@corp"}}
  bound: {client_id: bound, needs: [token, process], token: {issuer: corp, subject: "bound@corp"}, process: {uid: 0}}
intents:
  demo.open: [{server: demo, tool: open}, {server: demo, method: "tools/list"}]
policies:
  - {intent: demo.open, agents: [billing, bound], decision: allow}
"#;

/// The same with an agent that shows nothing: whoever is root.
const LOCAL: &str = r#"
agents:
  billing: {client_id: billing, needs: [token], token: {issuer: corp, subject: "billing@corp"}}
  local: {client_id: local, needs: [process], process: {uid: 0}}
intents:
  demo.open: [{server: demo, tool: open}]
policies:
  - {intent: demo.open, agents: [billing, local], decision: allow}
"#;

struct Stage {
    daemon: Daemon,
    puppet: Puppet,
    https: Https,
    idp: Idp,
    keys: PathBuf,
}

/// The head of what reached the server.
struct Seen(String);

impl Seen {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.0.lines().filter_map(|line| line.split_once(": "));
        lines.find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// A guard that knows the issuer whose keys are in the file.
fn knowing(mut daemon: Daemon, idp: &Idp) -> (Daemon, PathBuf) {
    let keys = daemon.config_file().with_file_name("jwks.json");
    publish(&keys, &[idp]).unwrap();
    // Paths count from the directory of guard.yaml.
    let issuer = json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_file": "jwks.json"}, "leeway_seconds": 0});
    daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
    (daemon, keys)
}

impl Stage {
    fn new(policy: &str, forwards: bool) -> Self {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let idp = Idp::new("key-1").unwrap();
        let (mut daemon, keys) = knowing(guard("demo", &[("policy.yaml", policy)]).unwrap(), &idp);
        daemon.config.servers[0].forward_authorization = forwards;
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        Self { daemon, puppet, https, idp, keys }
    }

    fn token(&self, subject: &str) -> String {
        self.idp.token(subject).unwrap()
    }

    /// What comes back when the server answers, and what it was asked.
    fn served(&self, request: &Request, headers: &str) -> (Answer, Seen) {
        thread::scope(|scope| {
            let https = &self.https;
            let answer = scope.spawn(move || https.ask(request).unwrap());
            let heard = self.puppet.hear().unwrap();
            let seen = Seen(heard.head.clone());
            let answers = match serde_json::from_slice(&heard.body) {
                Ok(message) => done_for(&message),
                Err(_no_message) => json!({"resource": "demo"}),
            };
            heard.answer_with(headers, &answers).unwrap();
            let answer = answer.join().unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            (answer, seen)
        })
    }

    fn refused(&self, request: &Request) -> Value {
        let answer = self.https.ask(request).unwrap();
        assert!(self.puppet.heard().is_none(), "it reached the server: {request:?}");
        let record = self.record();
        assert_eq!(record["decision"], "deny", "{record}");
        let told = answer.text();
        assert!(told.contains(record["reason"].as_str().unwrap()), "{told}: {record}");
        record
    }

    fn record(&self) -> Value {
        self.daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
    }
}

fn bearer(message: &Value, token: &str) -> Request {
    Request::post(message).with("Authorization", &format!("Bearer {token}"))
}

fn is_served(record: &Value, agent: &str, evidence: &str) {
    assert_eq!(
        (&record["decision"], &record["agent"], &record["evidence"]),
        (&json!("allow"), &json!(agent), &json!(evidence)),
        "{record}"
    );
    let id = record["credential"].as_str().unwrap();
    assert!(id.starts_with("t-") && id.len() == 14, "{id}");
}

#[test]
fn a_client_with_a_signed_token_is_its_agent_in_both_eras() {
    const POLICY: &str = r#"
agents:
  billing: {client_id: billing, needs: [token], token: {issuer: corp, subject: "billing@corp"}}
intents:
  crm.read: [{server: customer-ops, tool: read_customer}]
policies:
  - {intent: crm.read, agents: [billing], decision: allow}
"#;
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let idp = Idp::new("key-1").unwrap();
        let (mut daemon, _keys) = knowing(guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap(), &idp);
        daemon.start().unwrap();
        let token = idp.token("billing@corp").unwrap();
        let endpoint = Endpoint {
            headers: vec![("Authorization".into(), format!("Bearer {token}"))],
            ..Endpoint::plain(format!("https://localhost:{PORT}/mcp")).trusting(&daemon.ca())
        };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            for era in [Era::Legacy, Era::Modern] {
                let client = Client::connect(&endpoint, era).await.unwrap();
                let result = client.call("read_customer", json!({"customer_id": "C-1001"})).await.unwrap();
                assert_ne!(result.is_error, Some(true), "{}", said(&result));
            }
        });
        let ledger = daemon.ledger().unwrap();
        let served: Vec<_> = ledger.calls("allow", "read_customer").collect();
        assert_eq!(served.len(), 2);
        for record in served {
            is_served(record, "billing", "token");
        }
        // Neither the trail nor the log has what could be shown again.
        let signature = token.rsplit_once('.').unwrap().1;
        for segment in fs::read_dir(daemon.config.audit_dir()).unwrap() {
            // A file on its way to its name may be gone by now.
            let Ok(bytes) = fs::read(segment.unwrap().path()) else { continue };
            assert!(!String::from_utf8_lossy(&bytes).contains(signature));
        }
        assert!(!daemon.log().unwrap().contains(signature));
        assert_eq!(daemon.verify().unwrap().code, Some(0));
        assert_eq!(daemon.json("check", &[]).unwrap()["warnings"], json!([]));
    });
}

#[test]
fn what_proves_nothing_is_refused_with_its_own_word() {
    apart(|| {
        let stage = Stage::new(POLICY, false);
        let with = |name: &str, value: Value| {
            let mut claims = claims("billing@corp", 600);
            claims[name] = value;
            stage.idp.sign(&claims).unwrap()
        };
        let good = stage.token("billing@corp");
        let (body, _) = good.rsplit_once('.').unwrap();
        let stranger = Idp::new("key-1").unwrap().token("billing@corp").unwrap();
        let unknown = Idp::new("key-2").unwrap().token("billing@corp").unwrap();
        let none = "eyJhbGciOiJub25lIiwia2lkIjoia2V5LTEifQ";
        let claims_part = body.split_once('.').unwrap().1;
        for (token, reason) in [
            (stage.idp.sign(&claims("billing@corp", -5)).unwrap(), "token_expired"),
            (with("aud", json!("other")), "token_audience"),
            (with("iss", json!("https://other.example")), "token_issuer"),
            (with("nbf", json!(9_999_999_999_u64)), "token_not_yet"),
            (with("exp", Value::Null), "token_malformed"),
            (stranger, "token_signature"),
            (unknown, "token_unknown_key"),
            (format!("{none}.{claims_part}."), "token_algorithm"),
            (format!("{body}."), "token_signature"),
            (body.to_owned(), "token_malformed"),
            (format!("{good}.{}", "x".repeat(8 * 1024)), "token_malformed"),
            (stage.token("nobody@corp"), "unknown_subject"),
            ("not-a-token".to_owned(), "malformed_credential"),
        ] {
            let record = stage.refused(&bearer(&call(1, "open"), &token));
            assert_eq!((&record["reason"], &record["agent"]), (&json!(reason), &Value::Null), "{token}");
        }
        let misled = bearer(&call(1, "open"), &good).with("X-Client-ID", "bound");
        assert_eq!(stage.refused(&misled)["reason"], "wrong_client_or_profile");
        let twice = bearer(&call(1, "open"), &good).with("Authorization", "Bearer x");
        assert_eq!(stage.refused(&twice)["reason"], "repeated_header");
        let night =
            bearer(&call(1, "open"), &good).with("X-Client-ID", "billing").with("X-Profile-ID", "night");
        stage.served(&night, "");
        assert_eq!(stage.record()["profile"], "night");
    });
}

#[test]
fn a_token_of_one_process_is_worthless_in_another() {
    apart(|| {
        let stage = Stage::new(POLICY, false);
        let request = bearer(&call(1, "open"), &stage.token("bound@corp"));
        stage.served(&request, "");
        is_served(&stage.record(), "bound", "token+process");
        let dir = tempfile::tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (asker, ca) = (dir.path().join("https-ask"), dir.path().join("ca.pem"));
        copy_program(&program("https-ask").unwrap(), &asker).unwrap();
        fs::copy(stage.daemon.ca(), &ca).unwrap();
        let stolen = ask_as(NOBODY, &asker, &ca, &request);
        assert_eq!(stolen["result"]["_meta"]["mcp-guard/decision"]["reason"], "wrong_process", "{stolen}");
        let record = stage.record();
        assert_eq!(
            (&record["agent"], &record["evidence"], &record["local"]["uid"]),
            (&json!("bound"), &json!("token"), &json!(NOBODY))
        );
        assert!(record["credential"].as_str().unwrap().starts_with("t-"));
        // The process alone is no proof either.
        assert_eq!(stage.refused(&Request::post(&call(1, "open")))["reason"], "no_credential");
    });
}

fn ask_as(uid: u32, asker: &Path, ca: &Path, request: &Request) -> Value {
    let mut command = Command::new(asker);
    command.arg(ADDRESS.to_string()).arg(ca).uid(uid).gid(uid);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&request.bytes()).unwrap();
    serde_json::from_slice(&child.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn a_session_goes_on_with_the_next_token_of_its_agent_and_with_no_others() {
    apart(|| {
        let stage = Stage::new(POLICY, false);
        let hello = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        stage.served(&bearer(&hello, &stage.token("billing@corp")), "Mcp-Session-Id: s-1\r\n");
        let next = stage.idp.sign(&claims("billing@corp", 1200)).unwrap();
        let on = |token: &str| bearer(&call(2, "open"), token).with("Mcp-Session-Id", "s-1");
        let (_, heard) = stage.served(&on(&next), "");
        assert_eq!(heard.header("mcp-session-id"), Some("s-1"));
        assert_eq!(stage.refused(&on(&stage.token("bound@corp")))["reason"], "unknown_session");
    });
}

#[test]
fn a_token_that_expires_ends_what_is_open() {
    apart(|| {
        let stage = Stage::new(POLICY, false);
        let short = stage.idp.sign(&claims("billing@corp", 15)).unwrap();
        let mut line = stage.https.line().unwrap();
        line.send(&bearer(&call(1, "open"), &short).bytes()).unwrap();
        let mut server = stage.puppet.hear().unwrap();
        server.stream().unwrap();
        server
            .event(&json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"data": "a"}}))
            .unwrap();
        let answer = line.answer().unwrap().text();
        assert!(answer.contains("notifications/message") && answer.contains("access_withdrawn"), "{answer}");
        server.other_side_leaves().unwrap();
        assert_eq!(stage.refused(&bearer(&call(2, "open"), &short))["reason"], "token_expired");
    });
}

#[test]
fn keys_change_over_by_a_reload() {
    apart(|| {
        let stage = Stage::new(POLICY, false);
        let (old, new) = (&stage.idp, Idp::new("key-2").unwrap());
        let by = |idp: &Idp| bearer(&call(1, "open"), &idp.token("billing@corp").unwrap());
        assert_eq!(stage.refused(&by(&new))["reason"], "token_unknown_key");
        publish(&stage.keys, &[old, &new]).unwrap();
        stage.daemon.reload().unwrap();
        stage.served(&by(old), "");
        stage.served(&by(&new), "");
        // Of a stream whose token the old key signed.
        let mut line = stage.https.line().unwrap();
        line.send(&by(old).bytes()).unwrap();
        let mut server = stage.puppet.hear().unwrap();
        server.stream().unwrap();
        // A file that is not sound changes nothing.
        fs::write(&stage.keys, r#"{"keys": [{"kty": "oct", "k": "AA"}]}"#).unwrap();
        let told = stage.daemon.reload().unwrap_err().to_string();
        assert!(told.contains("jwks.json") && told.contains("private key material"), "{told}");
        stage.served(&by(old), "");
        publish(&stage.keys, &[&new]).unwrap();
        stage.daemon.reload().unwrap();
        assert!(line.answer().unwrap().text().contains("access_withdrawn"));
        server.other_side_leaves().unwrap();
        assert_eq!(stage.refused(&by(old))["reason"], "token_unknown_key");
        stage.served(&by(&new), "");
    });
}

#[test]
fn a_token_for_the_guard_goes_to_no_server_and_one_for_the_server_does() {
    apart(|| {
        let stage = Stage::new(LOCAL, true);
        let mut foreign = claims("billing@corp", 600);
        foreign["aud"] = json!("demo");
        let foreign = stage.idp.sign(&foreign).unwrap();
        let (_, heard) = stage.served(&bearer(&call(1, "open"), &foreign), "");
        assert_eq!(heard.header("authorization"), Some(format!("Bearer {foreign}").as_str()));
        assert_eq!(stage.record()["agent"], "local");
        let (_, heard) = stage.served(&bearer(&call(2, "open"), &stage.token("billing@corp")), "");
        assert_eq!(heard.header("authorization"), None, "{}", heard.0);
        is_served(&stage.record(), "billing", "token");
        // One that is for the guard and not good is nobody's, also from a process that is an agent.
        let late = stage.idp.sign(&claims("billing@corp", -5)).unwrap();
        assert_eq!(stage.refused(&bearer(&call(3, "open"), &late))["reason"], "token_expired");
        let metadata =
            Request { path: "/.well-known/oauth-protected-resource".into(), ..Request::bare("GET") };
        let metadata = metadata.with("Authorization", &format!("Bearer {}", stage.token("billing@corp")));
        let (_, heard) = stage.served(&metadata, "");
        assert_eq!(heard.header("authorization"), None, "{}", heard.0);
    });
}

#[test]
fn an_issuer_that_guard_yaml_does_not_have_keeps_the_guard_from_starting() {
    let idp = Idp::new("key-1").unwrap();
    let policy = POLICY.replace("issuer: corp", "issuer: crop");
    let (daemon, keys) = knowing(guard("demo", &[("policy.yaml", &policy)]).unwrap(), &idp);
    daemon.write_config().unwrap();
    let said = |daemon: &Daemon| {
        let output = daemon.output("check", &[]).unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    let told = said(&daemon);
    assert!(
        told.contains("policy.yaml:3:93: guard.yaml has no issuer crop; did you mean \"corp\"?"),
        "{told}"
    );
    fs::remove_file(keys).unwrap();
    let told = said(&daemon);
    assert!(
        told.contains("crop") && told.contains("the issuer's keys cannot be read"),
        "both at once: {told}"
    );
}
