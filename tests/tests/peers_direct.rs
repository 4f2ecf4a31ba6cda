//! The drivers against the servers without a guard between them. What fails here is a fault of the fixtures.

use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use guard_tests::ca::TestCa;
use guard_tests::client::{Endpoint, Era};
use guard_tests::peers::{Driver, Everything, Scenario, Step, Table, drive};
use guard_tests::process::Fixture;
use guard_tests::relay::{Relay, exchange};
use guard_tests::{journal, tls};
use serde_json::json;

const FREE_PORT: &str = "127.0.0.1:0";

fn conformance_server() -> Fixture {
    let null = ["--journal", "/dev/null"];
    Fixture::start("conformance-server", None, FREE_PORT.parse().unwrap(), &null).unwrap()
}

/// All steps of the table went well, and there were as many as the table has.
fn complete(driver: Driver, endpoint: &Endpoint, scenario: &Scenario) {
    let steps = drive(driver, endpoint, scenario).unwrap();
    let names: Vec<_> = steps.iter().map(|step: &Step| step.step.as_str()).collect();
    assert_eq!(
        names,
        ["initialize", "list", "call", "progress", "sampling", "elicitation", "read", "denied"]
    );
}

#[test]
fn every_driver_completes_the_scenario_with_the_npm_server() {
    let server = Everything::start(None).unwrap();
    let endpoint = Endpoint::plain(server.url());
    for driver in [Driver::TypeScript, Driver::Python, Driver::Rust] {
        complete(driver, &endpoint, &Scenario::all(Table::Everything, Era::Legacy));
    }
}

#[test]
fn every_driver_completes_the_scenario_with_the_fixture_in_sessions() {
    let server = conformance_server();
    let endpoint = Endpoint::plain(server.url());
    for driver in [Driver::TypeScript, Driver::Python, Driver::Rust] {
        complete(driver, &endpoint, &Scenario::all(Table::Conformance, Era::Legacy));
    }
}

#[test]
fn the_dual_era_drivers_complete_the_scenario_without_sessions() {
    let server = conformance_server();
    let endpoint = Endpoint::plain(server.url());
    complete(Driver::Python, &endpoint, &Scenario::all(Table::ConformanceStateless, Era::Auto));
    complete(Driver::Rust, &endpoint, &Scenario::all(Table::ConformanceStateless, Era::Modern));
    complete(Driver::Rust, &endpoint, &Scenario::all(Table::ConformanceStateless, Era::Auto));
}

#[tokio::test]
async fn every_driver_trusts_the_private_ca_and_no_other() {
    let server = conformance_server();
    let ca = TestCa::new().unwrap();
    let tls = tls::server_config(&ca.certificate(), &ca.key()).unwrap();
    let relay = Relay::terminating(server.address, tls).await.unwrap();
    let endpoint = Endpoint::plain(format!("https://localhost:{}/mcp", relay.address.port())).identified(
        "claude-assistant",
        "developer-readonly",
        "a-secret",
    );
    let trusting = endpoint.clone().trusting(&ca.ca());
    tokio::task::spawn_blocking(move || {
        for driver in [Driver::TypeScript, Driver::Python, Driver::Rust] {
            let scenario = Scenario::all(Table::Conformance, Era::Legacy);
            complete(driver, &trusting, &scenario);
            assert!(drive(driver, &endpoint, &scenario).is_err(), "{driver:?} trusts an unknown CA");
        }
    })
    .await
    .unwrap();
}

#[test]
fn every_driver_sends_the_agents_headers() {
    for driver in [Driver::TypeScript, Driver::Python, Driver::Rust] {
        // Reads one request's head and hangs up.
        let listener = TcpListener::bind(FREE_PORT).unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        let head = thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let lines = BufReader::new(stream).lines().map(Result::unwrap);
            lines.take_while(|line| !line.is_empty()).collect::<Vec<_>>()
        });
        let endpoint = Endpoint::plain(url).identified("claude-assistant", "developer-readonly", "a-secret");
        drive(driver, &endpoint, &Scenario::all(Table::Conformance, Era::Legacy)).unwrap_err();
        let head = head.join().unwrap();
        for (name, value) in &endpoint.headers {
            let line = format!("{}: {value}", name.to_lowercase());
            let sent = head.iter().filter_map(|line| line.split_once(": "));
            let sent = sent.map(|(name, value)| format!("{}: {value}", name.to_lowercase()));
            assert!(sent.into_iter().any(|sent| sent == line), "{driver:?} did not send {line}: {head:?}");
        }
    }
}

#[test]
fn the_sample_server_journals_what_it_executed_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calls");
    let arguments = ["--journal", file.to_str().unwrap()];
    let server = Fixture::start("customer-ops", None, FREE_PORT.parse().unwrap(), &arguments).unwrap();
    let endpoint = Endpoint::plain(server.url());
    let mut scenario = Scenario::all(Table::CustomerOps, Era::Legacy);
    scenario.steps = vec!["initialize", "list", "call"];
    for driver in [Driver::TypeScript, Driver::Python, Driver::Rust] {
        let steps = drive(driver, &endpoint, &scenario).unwrap();
        assert_eq!(
            steps[1].seen["tools"],
            json!(["process_refund", "read_customer", "send_email", "update_account"])
        );
    }
    let calls = journal::read(&file).unwrap();
    let read = journal::Entry { tool: "read_customer".into(), arguments: json!({"customer_id": "C-1001"}) };
    assert_eq!(calls, [read.clone(), read.clone(), read]);
}

#[tokio::test]
async fn a_duplicate_tool_name_passes_a_plain_relay_and_runs() {
    let server = Everything::start(None).unwrap();
    let relay = Relay::plain(server.address).await.unwrap();
    let address = relay.address;
    let reply = tokio::task::spawn_blocking(move || {
        let post = |session: &str, body: &str| {
            let head = format!(
                "POST /mcp HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n\
                 Accept: application/json, text/event-stream\r\n{session}Content-Length: {}\r\n\r\n{body}",
                body.len()
            );
            let reply = exchange(address, head.as_bytes(), Duration::from_secs(10)).unwrap();
            String::from_utf8(reply).unwrap()
        };
        let opening = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "raw", "version": "1"}}});
        let opened = post("", &opening.to_string());
        let session = opened.lines().find(|line| line.to_lowercase().starts_with("mcp-session-id:")).unwrap();
        let twice = r#"{"jsonrpc":"2.0","id":2,"method":"tools/call",
            "params":{"name":"get-env","name":"echo","arguments":{"message":"last wins"}}}"#;
        post(&format!("{session}\r\n"), twice)
    })
    .await
    .unwrap();
    assert!(reply.contains("Echo: last wins"), "{reply}");
}
