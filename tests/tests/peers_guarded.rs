//! Real clients and servers with the guard between them: each sees what it sees without one, less what it may not do.

use guard_tests::client::{Endpoint, Era};
use guard_tests::daemon::{Credential, Daemon};
use guard_tests::peers::{Driver, Everything, Scenario, Step, Table, drive};
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::{Value, json};

const DENIED: &str = "Not for this agent";

/// A policy under which the agent may do all of the scenario and call nothing else; `denied` is refused with a reason.
fn policy(tools: &[&str], resource: &str, denied: &str) -> String {
    let mut matchers: Vec<_> = tools.iter().map(|tool| json!({"server": "peer", "tool": tool})).collect();
    matchers.push(json!({"server": "peer", "resource": resource}));
    // Pretty: rules are named by their lines.
    format!(
        "{:#}",
        json!({
            "agents": {"tester": {"client_id": "test-client"}},
            "intents": {"peer.use": matchers, "peer.break": [{"server": "peer", "tool": denied}]},
            "policies": [
                {"intent": "peer.use", "agents": ["tester"], "decision": "allow"},
                {"intent": "peer.break", "agents": ["tester"], "decision": "deny", "reason": DENIED},
            ],
        })
    )
}

fn start(tools: &[&str], resource: &str, denied: &str) -> (Daemon, Credential) {
    let mut daemon = guard("peer", &[("policy.yaml", &policy(tools, resource, denied))]).unwrap();
    let credential = daemon.issue("tester").unwrap();
    daemon.start().unwrap();
    (daemon, credential)
}

/// Times and ids differ from run to run.
fn without_digits(step: &Step) -> Value {
    let text = Value::Object(step.seen.clone()).to_string();
    Value::String(text.replace(|c: char| c.is_ascii_digit(), "#"))
}

/// Runs the scenarios as they are, then through a guard, and compares.
fn compare(runs: &[(Driver, Scenario)], tools: &[&str], resource: &str, denied: &str) {
    let direct = Endpoint::plain(format!("http://{ADDRESS}/mcp"));
    let before: Vec<_> =
        runs.iter().map(|(driver, scenario)| drive(*driver, &direct, scenario).unwrap()).collect();

    let (daemon, credential) = start(tools, resource, denied);
    let guarded = daemon.endpoint(PORT, &credential);
    for ((driver, scenario), before) in runs.iter().zip(before) {
        let mut scenario = scenario.clone();
        scenario.denied = Some(json!({"tool": denied, "arguments": {}}));
        let after = drive(*driver, &guarded, &scenario).unwrap();
        assert_eq!(after.len(), before.len());
        for (before, after) in before.iter().zip(&after) {
            let what = format!("{driver:?}, {:?}, step {}", scenario.era, after.step);
            match after.step.as_str() {
                "list" => {
                    let all = before.seen["tools"].as_array().unwrap();
                    let may: Vec<_> =
                        all.iter().filter(|tool| tools.contains(&tool.as_str().unwrap())).collect();
                    let seen: Vec<_> = after.seen["tools"].as_array().unwrap().iter().collect();
                    assert_eq!(seen, may, "{what}");
                    assert!(may.len() < all.len(), "{what}: nothing is hidden");
                }
                "denied" => {
                    assert!(
                        after.seen["text"].as_str().unwrap().contains(DENIED),
                        "{what}: {:?}",
                        after.seen
                    );
                }
                _ => assert_eq!(without_digits(after), without_digits(before), "{what}"),
            }
        }
    }
    let ledger = daemon.ledger().unwrap();
    assert_eq!(ledger.calls("deny", denied).count(), runs.len());
    assert_eq!(ledger.calls("allow", denied).count(), 0);
}

#[test]
fn sessions_with_the_npm_server_are_as_without_a_guard() {
    apart(|| {
        let _server = Everything::start(Some(PORT)).unwrap();
        let runs = [Driver::TypeScript, Driver::Python, Driver::Rust]
            .map(|driver| (driver, Scenario::all(Table::Everything, Era::Legacy)));
        let tools = [
            "echo",
            "trigger-long-running-operation",
            "trigger-sampling-request",
            "trigger-elicitation-request",
        ];
        compare(&runs, &tools, "demo://resource/*", "get-env");
    });
}

#[test]
fn both_eras_with_the_rust_server_are_as_without_a_guard() {
    apart(|| {
        let null = ["--journal", "/dev/null"];
        let _server = Fixture::start("conformance-server", None, ADDRESS, &null).unwrap();
        let sessions = |driver| (driver, Scenario::all(Table::Conformance, Era::Legacy));
        let stateless = |driver, era| (driver, Scenario::all(Table::ConformanceStateless, era));
        let runs = [
            sessions(Driver::TypeScript),
            sessions(Driver::Python),
            sessions(Driver::Rust),
            stateless(Driver::Python, Era::Auto),
            stateless(Driver::Rust, Era::Modern),
        ];
        let tools = [
            "test_simple_text",
            "test_tool_with_progress",
            "test_sampling",
            "test_elicitation",
            "test_input_required_result_sampling",
            "test_input_required_result_elicitation",
        ];
        compare(&runs, &tools, "test://static-text", "test_error_handling");
    });
}
