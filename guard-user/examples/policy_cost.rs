//! What a decision and a velocity check cost, in nanoseconds, with few rules and with many.
//!
//! ```text
//! cargo run --release --example policy_cost
//! ```

use std::fmt::Write;
use std::hint::black_box;
use std::time::Instant;

use mcp_guard::config::Server;
use mcp_guard::policy::{Circumstances, Decision, Policy, Question};
use mcp_guard::rpc::{Json, Target};
use mcp_guard::types::{AgentName, ServerName};
use mcp_guard::velocity::{Admission, Call, Room, Velocity};

const ROUNDS: usize = 7;
const CALLS: u64 = 200_000;

fn main() {
    for (agents, intents) in [(2, 5), (10, 100), (100, 100)] {
        let policy = policy(agents, intents);
        let rules = agents * intents;
        let (agent, server) = (AgentName::parse("agent-1").unwrap(), ServerName::parse("s").unwrap());
        let to = Json::Array(vec![Json::String("a@example.com".into()); 3]);
        let arguments = Json::Object(vec![("to".into(), to)]);
        let ask = |tool| Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target: Target::Tool(tool),
            arguments: Some(&arguments),
            around: Circumstances::default(),
        };
        let cost = measure(|_| {
            let _ = black_box(policy.decide(black_box(&ask("tool-1"))));
        });
        println!("decide, {rules} rules, allowed with a condition: {cost} ns");
        let cost = measure(|_| {
            let _ = black_box(policy.decide(black_box(&ask("tool-x"))));
        });
        println!("decide, {rules} rules, unknown tool: {cost} ns");
    }
    for keys in [1, 1_000_000] {
        let policy = policy(1, 1);
        let (agent, server) = (AgentName::parse("agent-0").unwrap(), ServerName::parse("s").unwrap());
        let question = Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target: Target::Tool("tool-0"),
            arguments: Some(&Json::Object(vec![("to".into(), Json::Array(Vec::new()))])),
            around: Circumstances::default(),
        };
        let Decision::Allow(allow) = policy.decide(&question) else { panic!("must be allowed") };
        let velocity = Velocity::new(Room { all: usize::MAX, each: usize::MAX, kept: 0 });
        let agents: Vec<_> = (0..keys).map(|n| AgentName::parse(&format!("agent-{n}")).unwrap()).collect();
        let call = |agent| Call { agent, user: None, session: None, server: &server, tool: Some("tool-0") };
        for agent in &agents {
            assert!(matches!(velocity.admit(0, &call(agent), allow.velocity()), Admission::Within(_)));
        }
        let mut next = 0;
        // One call each 2 ms: the window holds 30,000 of them at most, and slides.
        let cost = measure(|now| {
            next = (next + 7919) % agents.len();
            let _ = black_box(velocity.admit(now * 2, &call(&agents[next]), allow.velocity()));
        });
        println!("velocity, {keys} keys: {cost} ns");
    }
}

/// The median of some rounds, after one for warming up.
fn measure(mut call: impl FnMut(u64)) -> u64 {
    let mut now = 0;
    let mut costs: Vec<_> = (0..=ROUNDS)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..CALLS {
                now += 1;
                call(now);
            }
            start.elapsed().as_nanos() / u128::from(CALLS)
        })
        .skip(1)
        .collect();
    costs.sort_unstable();
    u64::try_from(costs[ROUNDS / 2]).unwrap_or(u64::MAX)
}

fn policy(agents: usize, intents: usize) -> Policy {
    let mut text = String::from("agents:\n");
    for agent in 0..agents {
        writeln!(text, "  agent-{agent}: {{client_id: c}}").unwrap();
    }
    text += "intents:\n";
    for intent in 0..intents {
        let facts = "{recipients: {count: to}}";
        writeln!(text, "  i.{intent}: [{{server: s, tool: tool-{intent}, facts: {facts}}}]").unwrap();
    }
    text += "policies:\n";
    for (agent, intent) in (0..agents).flat_map(|agent| (0..intents).map(move |intent| (agent, intent))) {
        let rule = "decision: allow, conditions: {max_recipients: 10}";
        writeln!(text, "  - {{intent: i.{intent}, agents: [agent-{agent}], {rule}}}").unwrap();
    }
    text += "velocity_rules:\n";
    text += "  - {agent: agent-0, intent: i.0, window: 60s, max_calls: 100000, exceeded_action: deny}\n";
    let server = serde_json::json!({"name": "s", "port": 1});
    let server: Server = serde_json::from_value(server).unwrap();
    let start = Instant::now();
    let policy = Policy::from_texts(&[("p.yaml".into(), text)], &[server]).unwrap();
    println!("load, {} rules: {} ms", policy.rule_count(), start.elapsed().as_millis());
    policy
}
