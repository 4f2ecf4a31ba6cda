//! What a profile leaves out, what answers must not hold, and what an agent has read.

use std::fs;

use guard_tests::process::Fixture;
use guard_tests::scene::apart;
use guard_tests::session::{PEERS, Task};
use serde_json::{Value, json};

use super::reasons;
use super::{BEHIND, Door, Expected, Matrix, agent, policy};

/// Allowed by a rule, and left out by the profile.
const LEFT_OUT: &str = "failing_job";

/// Says back what it was told.
const ECHO: (&str, &str) = ("greet", "name");

const ADDRESS: &str = "ada@mail.example";

/// Allowed up to a bound on an argument that nobody gives.
const BOUND: &str = "slow_compute";

/// What an intent names, and no rule.
const NOBODYS: &str = "multi_input";

/// What the rows of this file need of the policy.
pub(super) fn also(mut policy: Value, agents: &[String]) -> Value {
    let at = |kind: &str, name: &str| json!({"server": "peer", kind: name});
    let intents = json!({
        "peer.left-out": [at("tool", LEFT_OUT), at("prompt", "test_prompt_with_embedded_resource")],
        "peer.echo": [at("tool", ECHO.0), at("resource", "test://template/*")],
        "peer.bound": [{"server": "peer", "tool": BOUND, "facts": {"seconds": {"number": "seconds"}}}],
        "peer.nobodys": [at("tool", NOBODYS)],
    });
    let allowed = ["peer.left-out", "peer.echo", "peer.bound"];
    let rules = allowed.map(|intent| {
        let mut rule = json!({"intent": intent, "agents": agents, "decision": "allow"});
        if intent == "peer.bound" {
            rule["conditions"] = json!({"max_seconds": 1});
        }
        rule
    });
    for (key, more) in intents.as_object().unwrap() {
        policy["intents"][key] = more.clone();
    }
    policy["policies"].as_array_mut().unwrap().extend(rules);
    let left = ["open", "closed", "limited", "vetted", "echo", "bound", "nobodys"];
    policy["profiles"] = json!({"default": {"intents": left.map(|intent| format!("peer.{intent}"))}});
    policy["inspect"] =
        json!([{"name": "no-addresses", "intent": "peer.echo", "detect": ["email"], "action": "refuse"}]);
    policy
}

pub(super) fn rows(matrix: &mut Matrix) {
    let words = "the profile default does not admit peer.left-out here";
    matrix.row("left out", Task::Tool(LEFT_OUT), |_| Expected::Result(words));
    matrix.row("left out prompt", Task::Prompt("test_prompt_with_embedded_resource"), |_| {
        Expected::Error(40300, words)
    });
    let words = "the answer holds what the rule no-addresses keeps back";
    let echo = |text| Task::ToolWith(ECHO.0, (ECHO.1, text));
    matrix.row("answer kept back", echo(ADDRESS), |_| Expected::Result(words));
    let uri = format!("test://template/{ADDRESS}/data");
    matrix.row("resource kept back", Task::Resource(&uri), |_| Expected::Error(40304, words));
    matrix.row("condition", Task::Tool(BOUND), |_| Expected::Result("condition cannot be judged: "));
    matrix.row("nobody's tool", Task::Tool(NOBODYS), |_| Expected::Error(-32602, "Unknown tool: "));
}

/// The same with flow rules: all is public but one tool, and sent nowhere but by another.
fn with_marks() -> String {
    let mut policy: Value = serde_json::from_str(&policy()).unwrap();
    let at = |tool: &str| json!({"server": "peer", "tool": tool});
    let (mut read, mut send) = (at("test_image_content"), at("test_logging_tool"));
    (read["label"], send["sink"]) = (json!("confidential"), json!("external"));
    policy["intents"]["peer.marked"] = json!([read, send]);
    let agents: Vec<_> = (0..PEERS.len()).map(agent).collect();
    let rule = json!({"intent": "peer.marked", "agents": agents, "decision": "allow"});
    policy["policies"].as_array_mut().unwrap().push(rule);
    policy["profiles"] = json!({});
    (policy["default_label"], policy["default_sink"]) = (json!("public"), json!("internal"));
    let words = "It stays in the house";
    policy["flow_rules"] =
        json!([{"after": "confidential", "sink": "external", "decision": "deny", "reason": words}]);
    format!("{policy:#}")
}

#[test]
fn every_client_reports_what_its_agent_has_read_and_its_next_call_works() {
    apart(|| {
        let _server =
            Fixture::start("conformance-server", None, BEHIND, &["--journal", "/dev/null"]).unwrap();
        let _door = Door::to(BEHIND);
        // The file of what was read cannot be replaced by one with more in it.
        let mut in_the_way = None;
        let mut matrix = Matrix::with(|daemon| {
            daemon.write_policy("policy.yaml", &with_marks()).unwrap();
            let folder = daemon.config.state_dir.join("contexts.next");
            fs::create_dir_all(&folder).unwrap();
            in_the_way = Some(folder);
        });
        let words = "what this agent is about to read could not be written down";
        matrix.refused("no mark", Task::Tool("test_simple_text"), |_| Expected::Result(words));
        matrix.refused("no mark", Task::Prompt("test_simple_prompt"), |_| Expected::Error(50300, words));
        fs::remove_dir(in_the_way.unwrap()).unwrap();
        matrix.go_on("no mark");
        for column in &mut matrix.columns {
            let told = column.session.ask(Task::Tool("test_logging_tool")).unwrap();
            assert!(!format!("{told:?}").contains("mcp-guard"), "before: {told:?}");
            column.session.ask(Task::Tool("test_image_content")).unwrap();
        }
        let sends = Task::Tool("test_logging_tool");
        matrix.row("must not leave", sends, |_| Expected::Result("It stays in the house"));
        reasons::all_recorded(&matrix, reasons::TRIED_WITH_MARKS);
        assert!(matrix.wrong.is_empty(), "\n{}", matrix.wrong.join("\n"));
    });
}
