//! The guard as a server's OAuth 2.1 resource server.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Stdio;
use std::thread;

use guard_tests::authorization_server::{AuthorizationServer, Wish};
use guard_tests::ca::TestCa;
use guard_tests::client::{Client, Endpoint, Era, said};
use guard_tests::daemon::Daemon;
use guard_tests::https::{Answer, Https, Request};
use guard_tests::idp::{AUDIENCE, ISSUER, Idp, claims, publish};
use guard_tests::peers;
use guard_tests::process::Fixture;
use guard_tests::puppet::Puppet;
use guard_tests::scene::{ADDRESS, PORT, apart, call, done_for, guard};
use mcp_guard::config::Server;
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  billing: {client_id: billing, needs: [token], token: {issuer: corp, subject: "billing@corp"}}
  desk: {client_id: desk}
intents:
  demo.open: [{server: demo, tool: open}, {server: demo, tool: read_customer}]
policies:
  - {intent: demo.open, agents: [billing, desk], decision: allow}
"#;

const RESOURCE: &str = "https://localhost:3001/mcp";
const METADATA: &str = "/.well-known/oauth-protected-resource/mcp";

/// What tokens for the server `files` are for.
const FILES: &str = "https://localhost:3002/mcp";

fn files_address() -> SocketAddr {
    SocketAddr::new(ADDRESS.ip(), 3002)
}

/// A second server that takes tokens for itself, of these issuers; of none: of all.
fn files(issuers: &[&str]) -> Server {
    let authorize = json!({"resource": FILES, "issuers": issuers, "scopes": ["files:use"]});
    serde_json::from_value(json!({"name": "files", "port": 3002, "authorize": authorize})).unwrap()
}

fn protecting(authorize: bool) -> (Daemon, Idp) {
    protecting_with(authorize, POLICY)
}

fn protecting_with(authorize: bool, policy: &str) -> (Daemon, Idp) {
    let mut daemon = guard("demo", &[("policy.yaml", policy)]).unwrap();
    let idp = Idp::new("key-1").unwrap();
    publish(&daemon.config_file().with_file_name("jwks.json"), &[&idp]).unwrap();
    let issuer =
        json!({"name": "corp", "issuer": ISSUER, "audience": AUDIENCE, "keys": {"jwks_file": "jwks.json"}});
    daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
    if authorize {
        let entry = json!({"resource": RESOURCE, "scopes": ["demo:use", "demo:read"]});
        daemon.config.servers[0].authorize = serde_json::from_value(entry).unwrap();
    }
    (daemon, idp)
}

fn token(idp: &Idp, audience: &Value, scopes: &Value) -> String {
    idp.sign(&with_audience(audience, scopes)).unwrap()
}

fn with_audience(audience: &Value, scopes: &Value) -> Value {
    let mut claims = claims("billing@corp", 600);
    claims["aud"] = audience.clone();
    if !scopes.is_null() {
        claims["scope"] = scopes.clone();
    }
    claims
}

fn bearer(token: &str) -> Request {
    Request::post(&call(1, "open")).with("Authorization", &format!("Bearer {token}"))
}

fn get(path: &str) -> Request {
    Request { path: path.into(), ..Request::bare("GET") }
}

fn last(daemon: &Daemon) -> Value {
    daemon.ledger().unwrap().of_kind("call").last().expect("a call").clone()
}

fn challenge(answer: &Answer) -> &str {
    answer.header("www-authenticate").unwrap_or_else(|| panic!("no challenge: {answer:?}"))
}

#[test]
fn who_has_no_token_for_this_server_learns_where_to_get_one() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let (mut daemon, idp) = protecting(true);
        let credential = daemon.issue("desk").unwrap();
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        for path in [METADATA, "/.well-known/oauth-protected-resource"] {
            let answer = https.ask(&get(path)).unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            let expected = json!({
                "resource": RESOURCE, "authorization_servers": [ISSUER],
                "scopes_supported": ["demo:use", "demo:read"], "bearer_methods_supported": ["header"],
            });
            assert_eq!(answer.json(), expected);
            let record = last(&daemon);
            assert_eq!(
                (&record["decision"], &record["target"]),
                (&json!("tell"), &json!({"kind": "path", "name": path}))
            );
        }
        for path in ["/.well-known/oauth-authorization-server", "/.well-known/oauth-protected-resource/other"]
        {
            assert_eq!(https.ask(&get(path)).unwrap().status, 404, "{path}");
        }
        let where_to = format!("resource_metadata=\"https://localhost:3001{METADATA}\"");
        let answer = https.ask(&Request::post(&call(1, "open"))).unwrap();
        assert_eq!((answer.status, last(&daemon)["reason"].clone()), (401, json!("no_credential")));
        assert!(
            challenge(&answer).starts_with("Bearer ") && challenge(&answer).contains(&where_to),
            "{answer:?}"
        );
        assert!(!challenge(&answer).contains("error="), "{answer:?}");
        let all = json!("demo:read demo:use other");
        for (token, reason) in [
            (token(&idp, &json!(AUDIENCE), &all), "token_audience"),
            (token(&idp, &json!("https://localhost:3002/mcp"), &all), "token_audience"),
            (token(&idp, &json!("https://localhost:3001/mcp/"), &all), "token_audience"),
            (token(&idp, &json!(RESOURCE), &json!("demo:use  demo:read")), "token_malformed"),
            (token(&Idp::new("key-1").unwrap(), &json!(RESOURCE), &all), "token_signature"),
            ("opaque".to_owned(), "malformed_credential"),
        ] {
            let answer = https.ask(&bearer(&token)).unwrap();
            assert_eq!((answer.status, last(&daemon)["reason"].clone()), (401, json!(reason)), "{answer:?}");
            assert!(
                challenge(&answer).contains("error=\"invalid_token\"")
                    && challenge(&answer).contains(&where_to)
            );
        }
        for scopes in [Value::Null, json!(""), json!("demo:use"), json!("demo:use demo:reader DEMO:READ")] {
            let answer = https.ask(&bearer(&token(&idp, &json!(RESOURCE), &scopes))).unwrap();
            assert_eq!((answer.status, last(&daemon)["reason"].clone()), (403, json!("insufficient_scope")));
            let told = challenge(&answer);
            assert!(
                told.contains("error=\"insufficient_scope\"")
                    && told.contains("scope=\"demo:use demo:read\""),
                "{told}"
            );
        }
        assert!(puppet.heard().is_none(), "nothing of this goes to the server");
        puppet.answer_all(done_for);
        let good = token(&idp, &json!(["other", RESOURCE]), &all);
        assert!(https.ask(&bearer(&good)).unwrap().text().contains("done"));
        let by_secret = Request::post(&call(1, "open")).by(&credential);
        assert!(https.ask(&by_secret).unwrap().text().contains("done"), "scopes are of tokens");
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_token_for_one_server_is_worth_nothing_at_another() {
    apart(|| {
        let puppet = Puppet::at(ADDRESS).unwrap();
        let (mut daemon, idp) = protecting(false);
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let answer = https.ask(&bearer(&token(&idp, &json!(RESOURCE), &json!("demo:use")))).unwrap();
        assert!(answer.text().contains("token_audience"), "{answer:?}");
        assert_eq!((answer.status, answer.header("www-authenticate")), (200, None));
        assert_eq!(https.ask(&get(METADATA)).unwrap().status, 404);
        assert!(puppet.heard().is_none());
    });
}

#[test]
fn a_token_for_one_of_two_servers_never_reaches_the_other() {
    apart(|| {
        let other = files_address();
        let (crm, second) = (Puppet::at(ADDRESS).unwrap(), Puppet::at(other).unwrap());
        let policy = POLICY
            .replace("  demo.open:", "  files.open: [{server: files, tool: open}]\n  demo.open:")
            .replace(
                "policies:\n",
                "policies:\n  - {intent: files.open, agents: [billing], decision: allow}\n",
            );
        let (mut daemon, idp) = protecting_with(true, &policy);
        daemon.config.servers.push(files(&[]));
        daemon.start().unwrap();
        let at = |address| Https::new(address, &daemon.ca()).unwrap();
        let scopes = json!("demo:use demo:read files:use");
        let token = |audience: &str| token(&idp, &json!(audience), &scopes);
        let (for_crm, for_files) = (token(RESOURCE), token(FILES));
        for (address, token) in [(ADDRESS, &for_files), (other, &for_crm)] {
            let answer = at(address).ask(&bearer(token)).unwrap();
            assert_eq!((answer.status, last(&daemon)["reason"].clone()), (401, json!("token_audience")));
            let port = address.port();
            let scope = if port == PORT { "demo:use demo:read" } else { "files:use" };
            let expected = format!(
                "Bearer error=\"invalid_token\", scope=\"{scope}\", resource_metadata=\"https://localhost:{port}{METADATA}\""
            );
            assert_eq!(challenge(&answer), expected);
        }
        assert!(crm.heard().is_none() && second.heard().is_none(), "neither reached the other");
        crm.answer_all(done_for);
        second.answer_all(done_for);
        let both = idp.sign(&with_audience(&json!([RESOURCE, FILES]), &scopes)).unwrap();
        for (address, token) in [(ADDRESS, &for_crm), (other, &for_files), (ADDRESS, &both), (other, &both)] {
            assert!(at(address).ask(&bearer(token)).unwrap().text().contains("done"), "{address}");
        }
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_token_for_another_server_never_goes_on_with_a_request_that_is_known_otherwise() {
    const POLICY: &str = r#"
agents:
  local: {client_id: local, needs: [process], process: {uid: 0}}
  reader: {client_id: reader, needs: [token], token: {issuer: corp, subject: "reader@corp"}}
intents:
  demo.open: [{server: demo, tool: open}]
  files.open: [{server: files, tool: open}]
policies:
  - {intent: demo.open, agents: [local], decision: allow}
  - {intent: files.open, agents: [reader], decision: allow}
"#;
    apart(|| {
        let demo = Puppet::at(ADDRESS).unwrap();
        let (mut daemon, idp) = protecting_with(false, POLICY);
        daemon.config.servers[0].forward_authorization = true;
        daemon.config.servers.push(files(&[]));
        daemon.start().unwrap();
        let https = Https::new(ADDRESS, &daemon.ca()).unwrap();
        let metadata = get("/.well-known/oauth-protected-resource");
        // What the server is shown of a request that is served.
        let seen = |request: Request| {
            thread::scope(|scope| {
                let answer = scope.spawn(|| https.ask(&request).unwrap());
                let heard = demo.hear().unwrap();
                let shown = heard.header("authorization").map(str::to_owned);
                let body = serde_json::from_slice(&heard.body)
                    .map_or(json!({"resource": "demo"}), |it| done_for(&it));
                heard.answer(&body).unwrap();
                let answer = answer.join().unwrap();
                assert_eq!(answer.status, 200, "{answer:?}");
                assert_eq!(last(&daemon)["agent"], "local", "it is known by its process");
                shown
            })
        };
        let for_files = |audience: Value| token(&idp, &audience, &json!("files:use"));
        let stranger = token(&Idp::new("key-9").unwrap(), &json!(FILES), &json!("files:use"));
        for guarded in [for_files(json!(FILES)), for_files(json!(["demo", FILES])), stranger] {
            for value in [format!("Bearer {guarded}"), format!("Token {guarded}")] {
                for request in [Request::post(&call(1, "open")), metadata.clone()] {
                    assert_eq!(seen(request.with("Authorization", &value)), None, "{value}");
                }
            }
        }
        // One for this server itself does, or nothing of the above says anything.
        let own = format!("Bearer {}", for_files(json!("demo")));
        for request in [Request::post(&call(1, "open")), metadata] {
            assert_eq!(seen(request.with("Authorization", &own)), Some(own.clone()));
        }
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_server_takes_tokens_of_the_issuers_in_its_entry_alone() {
    const POLICY: &str = r#"
agents:
  billing: {client_id: billing, needs: [token], token: {issuer: corp, subject: "billing@corp"}}
  guest: {client_id: guest, needs: [token], token: {issuer: partner, subject: "billing@corp"}}
intents:
  demo.open: [{server: demo, tool: open}]
  files.open: [{server: files, tool: open}]
policies:
  - {intent: demo.open, agents: [billing, guest], decision: allow}
  - {intent: files.open, agents: [billing, guest], decision: allow}
"#;
    const PARTNER: &str = "https://partner.example";
    apart(|| {
        let (demo, other) = (Puppet::at(ADDRESS).unwrap(), Puppet::at(files_address()).unwrap());
        let (mut daemon, corp) = protecting_with(true, POLICY);
        let partner = Idp::new("key-1").unwrap();
        publish(&daemon.config_file().with_file_name("partner.json"), &[&partner]).unwrap();
        let second = json!({"name": "partner", "issuer": PARTNER, "audience": AUDIENCE, "keys": {"jwks_file": "partner.json"}});
        daemon.config.issuers.push(serde_json::from_value(second).unwrap());
        let authorize = json!({"resource": RESOURCE, "issuers": ["corp"], "scopes": ["demo:use"]});
        daemon.config.servers[0].authorize = serde_json::from_value(authorize).unwrap();
        daemon.config.servers.push(files(&["corp", "partner"]));
        daemon.start().unwrap();
        let at = |address| Https::new(address, &daemon.ca()).unwrap();
        // Good at both, but for the issuer.
        let mut claims = with_audience(&json!([RESOURCE, FILES]), &json!("demo:use files:use"));
        let of_corp = corp.sign(&claims).unwrap();
        claims["iss"] = json!(PARTNER);
        let of_partner = partner.sign(&claims).unwrap();

        let answer = at(ADDRESS).ask(&bearer(&of_partner)).unwrap();
        let record = last(&daemon);
        assert_eq!(
            (answer.status, &record["reason"], &record["agent"]),
            (401, &json!("token_issuer"), &Value::Null)
        );
        assert!(challenge(&answer).contains("error=\"invalid_token\""), "{answer:?}");
        assert!(demo.heard().is_none(), "it reached the server");
        for (address, path, listed) in
            [(ADDRESS, METADATA, json!([ISSUER])), (files_address(), METADATA, json!([ISSUER, PARTNER]))]
        {
            assert_eq!(at(address).ask(&get(path)).unwrap().json()["authorization_servers"], listed);
        }
        demo.answer_all(done_for);
        other.answer_all(done_for);
        for (address, token, agent) in [
            (ADDRESS, &of_corp, "billing"),
            (files_address(), &of_corp, "billing"),
            (files_address(), &of_partner, "guest"),
        ] {
            assert!(at(address).ask(&bearer(token)).unwrap().text().contains("done"), "{address} {agent}");
            let ledger = daemon.ledger().unwrap();
            assert_eq!(ledger.calls("allow", "open").last().unwrap()["agent"], agent);
        }
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

/// What the driver `script` says of its calls, each one line.
fn calls(script: &str, era: &str, ca: &Path, calls: &[Value]) -> Vec<Value> {
    let mut command = peers::script(script).unwrap();
    command.arg(format!("https://localhost:{PORT}/mcp")).args(calls.iter().map(Value::to_string));
    command.env("MCP_ERA", era).env("NODE_EXTRA_CA_CERTS", ca).env("SSL_CERT_FILE", ca);
    let output = command.stdin(Stdio::null()).output().unwrap();
    let (told, complaint) =
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{script} {era}: {told}{complaint}");
    told.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_client_of_an_sdk_gets_its_token_by_what_the_guard_tells_and_asks_for_more_when_it_must() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let ca = TestCa::new().unwrap();
        let online = AuthorizationServer::start(SocketAddr::new(ADDRESS.ip(), 8443), &ca).unwrap();
        let (mut daemon, _idp) = protecting(true);
        let keys = json!({"jwks_url": {"url": online.jwks_url(), "ca_file": ca.ca()}});
        let issuer = json!({"name": "corp", "issuer": online.issuer(), "audience": AUDIENCE, "keys": keys});
        daemon.config.issuers = serde_json::from_value(json!([issuer])).unwrap();
        daemon.start().unwrap();
        let trusted = ca.ca().with_file_name("both.pem");
        let both = [fs::read(daemon.ca()).unwrap(), fs::read(ca.ca()).unwrap()].concat();
        fs::write(&trusted, both).unwrap();
        let read = json!({"name": "read_customer", "arguments": {"customer_id": "C-1001"}});
        println!("\nclient         era     asked for");
        for script in ["authorized.mjs", "authorized.py"] {
            for era in ["legacy", "auto"] {
                let (wishes, asked, recorded) = (
                    online.wishes().len(),
                    online.asked().len(),
                    daemon.ledger().unwrap().of_kind("call").count(),
                );
                let told = calls(script, era, &trusted, std::slice::from_ref(&read));
                assert!(
                    !told[0]["is_error"].as_bool().unwrap() && told[0]["text"].to_string().contains("C-1001"),
                    "{told:?}"
                );
                let wish = Wish { scope: "demo:use demo:read".into(), resource: RESOURCE.into() };
                assert_eq!(online.wishes()[wishes..], [wish], "it asked for what the challenge named");
                let asked = online.asked()[asked..].to_vec();
                for path in ["/.well-known/oauth-authorization-server", "/register", "/authorize", "/token"] {
                    assert!(asked.iter().any(|one| one == path), "{path}: {asked:?}");
                }
                // The guard told it where, without a token.
                let ledger = daemon.ledger().unwrap();
                let records: Vec<_> = ledger.of_kind("call").skip(recorded).collect();
                assert_eq!(records[0]["reason"], "no_credential", "{records:?}");
                assert!(records.iter().any(|record| record["target"]["name"] == METADATA), "{records:?}");

                // A user who allows less than was asked for, the first time. The Python SDK answers one challenge a request.
                if script == "authorized.py" {
                    println!("{script:<14} {era:<7}");
                    continue;
                }
                let (wishes, recorded) = (online.wishes().len(), ledger.of_kind("call").count());
                online.narrow_next_token();
                let told = calls(script, era, &trusted, std::slice::from_ref(&read));
                assert!(!told[0]["is_error"].as_bool().unwrap(), "{told:?}");
                let ledger = daemon.ledger().unwrap();
                let mut records = ledger.of_kind("call").skip(recorded);
                assert!(records.any(|record| record["reason"] == "insufficient_scope"));
                let scopes: Vec<_> =
                    online.wishes()[wishes..].iter().map(|wish| wish.scope.clone()).collect();
                println!("{script:<14} {era:<7} {scopes:?}");
                assert_eq!(scopes.len(), 2, "{scopes:?}");
            }
        }
        assert_eq!(daemon.verify().unwrap().code, Some(0));
    });
}

#[test]
fn a_client_with_a_token_for_the_server_works_in_both_eras() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let (mut daemon, idp) = protecting(true);
        daemon.start().unwrap();
        let good = token(&idp, &json!(RESOURCE), &json!("demo:use demo:read"));
        let endpoint = Endpoint {
            headers: vec![("Authorization".into(), format!("Bearer {good}"))],
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
    });
}
