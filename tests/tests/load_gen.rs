//! The benchmark's own parts: what the load generator counts is what happened.

use std::path::Path;
use std::process::Command;

use guard_tests::ca::TestCa;
use guard_tests::process::{Fixture, program};
use guard_tests::relay::Relay;
use guard_tests::{journal, tls};
use serde_json::Value;

const FREE_PORT: &str = "127.0.0.1:0";

fn load(url: &str, arguments: &[&str]) -> Value {
    let mut command = Command::new(program("load-gen").unwrap());
    let output = command.args(["--url", url, "--warm-up", "0"]).args(arguments).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_answer_is_counted_once() {
    let server = Fixture::start("static-upstream", None, FREE_PORT.parse().unwrap(), &[]).unwrap();
    let closed = load(&server.url(), &["-n", "500", "-c", "4"]);
    assert_eq!((&closed["requests"], &closed["errors"]), (&500.into(), &0.into()), "{closed}");
    assert!(closed["p50_us"].as_u64() <= closed["p99_us"].as_u64());
    let open = load(&server.url(), &["-n", "50", "-c", "2", "--rate", "1000"]);
    assert_eq!((&open["requests"], &open["errors"]), (&50.into(), &0.into()), "{open}");
    // Fifty requests at this rate are due over 49 ms, however fast the server is.
    assert!(open["seconds"].as_f64().unwrap() >= 0.049, "{open}");
}

#[test]
fn the_generators_calls_are_real_calls_to_a_real_server() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("calls");
    let arguments = ["--journal", file.to_str().unwrap()];
    let server = Fixture::start("customer-ops", None, FREE_PORT.parse().unwrap(), &arguments).unwrap();
    let headers = ["MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: read_customer"];
    let mut flags = vec!["-n", "20", "-c", "2"];
    flags.extend(headers.iter().flat_map(|header| ["--header", header]));
    let report = load(&server.url(), &flags);
    assert_eq!((&report["requests"], &report["errors"]), (&20.into(), &0.into()), "{report}");
    assert_eq!(journal::read(&file).unwrap().len(), 20);

    // The customer that this body names does not exist: the server says isError, with status 200.
    let body = dir.path().join("body");
    let unknown = r#"{"jsonrpc":"2.0","id":ID,"method":"tools/call","params":{"name":"read_customer",
        "arguments":{"customer_id":"C-9"},"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28",
        "io.modelcontextprotocol/clientCapabilities":{}}}}"#;
    std::fs::write(&body, unknown).unwrap();
    flags.extend(["--body", path(&body)]);
    let report = load(&server.url(), &flags);
    assert_eq!((&report["requests"], &report["errors"]), (&20.into(), &20.into()), "{report}");
    assert!(report["first_error"].as_str().unwrap().contains("there is no customer C-9"), "{report}");
}

#[tokio::test]
async fn tls_needs_the_ca_and_carries_every_call() {
    let server = Fixture::start("static-upstream", None, FREE_PORT.parse().unwrap(), &[]).unwrap();
    let ca = TestCa::new().unwrap();
    let tls = tls::server_config(&ca.certificate(), &ca.key()).unwrap();
    let relay = Relay::terminating(server.address, tls).await.unwrap();
    let url = format!("https://localhost:{}/mcp", relay.address.port());
    let file = ca.ca();
    let report = tokio::task::spawn_blocking(move || load(&url, &["-n", "100", "--ca", path(&file)]));
    let report = report.await.unwrap();
    assert_eq!((&report["requests"], &report["errors"]), (&100.into(), &0.into()), "{report}");
}

fn path(path: &Path) -> &str {
    path.to_str().unwrap()
}
