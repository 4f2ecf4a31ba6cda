//! The shipped example means what its authors promise; the compiled policy agrees with a naive reading.

use std::path::PathBuf;

use super::target::NEEDED_METHODS;
use super::*;
use crate::config::Server;

mod conditions;
mod doubtful;
mod flow;
mod meaning;
mod model;
mod opened;
mod profiles;
mod server_asks;
mod uncounted;
mod users;

const AGENTS: &str = include_str!("../../../policies/examples/customer-ops/policies/agents.yaml");
const SEED: &str = include_str!("../../../policies/examples/customer-ops/policies/seed.yaml");

pub(super) fn server(name: &str) -> Server {
    Server {
        name: ServerName::parse(name).unwrap(),
        port: std::num::NonZeroU16::new(3001).unwrap(),
        place: crate::config::Place::Host,
        path: "/mcp".into(),
        sse_path: None,
        batches: crate::config::Batches::default(),
        plaintext: crate::config::Plaintext::Refuse,
        forward_authorization: false,
        oauth_paths: Vec::new(),
        authorize: None,
        credential: None,
        egress: None,
        other_ports: crate::config::OtherPorts::default(),
        tools: crate::config::ToolRules::default(),
    }
}

pub(super) fn policy(texts: &[(&str, &str)]) -> Result<Policy, crate::config::Problems> {
    let files: Vec<_> = texts.iter().map(|(name, text)| (PathBuf::from(name), (*text).to_owned())).collect();
    Policy::from_texts(&files, &[server("customer-ops"), server("files")])
}

fn seed() -> Policy {
    policy(&[("agents.yaml", AGENTS), ("seed.yaml", SEED)]).unwrap()
}

fn ask(policy: &Policy, agent: &str, target: Target<'_>, arguments: Option<&Json>) -> Decision {
    let method = match target {
        Target::Tool(_) => "tools/call",
        Target::Resource(_) => "resources/read",
        Target::Prompt(_) => "prompts/get",
        Target::Task(_) => "tasks/get",
        Target::ServerRequest(method) => method,
        Target::Method | Target::Unnamed => "completion/complete",
    };
    let agent = AgentName::parse(agent).unwrap();
    let server = ServerName::parse("customer-ops").unwrap();
    policy.decide(&Question {
        agent: &agent,
        profile: None,
        server: &server,
        method,
        target,
        arguments,
        around: Circumstances::default(),
    })
}

fn denied(decision: Decision) -> Deny {
    match decision {
        Decision::Deny(deny) => deny,
        other => panic!("must be denied: {other:?}"),
    }
}

fn email_to(count: usize) -> Json {
    let to = (0..count).map(|n| Json::String(format!("a{n}@example.com"))).collect();
    Json::Object(vec![("to".into(), Json::Array(to)), ("subject".into(), Json::String("x".into()))])
}

#[test]
fn every_seed_agent_reads_customers_and_analytics_within_its_window() {
    let policy = seed();
    for agent in ["lookup-agent", "support-agent", "analytics-agent"] {
        let Decision::Allow(allow) = ask(&policy, agent, Target::Tool("read_customer"), None) else {
            panic!("{agent} must read")
        };
        assert_eq!(allow.intents()[0].as_str(), "data.customer.read");
        assert_eq!(allow.rule().as_str(), "seed.yaml:4");
        let rules = allow.velocity();
        assert_eq!(rules.len(), usize::from(agent == "analytics-agent"));
        for rule in rules.iter().map(|meter| &meter.rule) {
            assert_eq!((rule.window_milliseconds, rule.max), (60_000, 100));
            assert_eq!(rule.action, ExceededAction::Deny);
            assert_eq!(rule.reason.as_deref(), Some("Rate limit exceeded -- possible data enumeration"));
        }
    }
}

#[test]
fn a_refund_waits_for_a_support_lead_and_is_denied_to_others_with_the_reason() {
    let policy = seed();
    let Decision::Hold(hold) = ask(&policy, "support-agent", Target::Tool("process_refund"), None) else {
        panic!("must be held")
    };
    assert_eq!(hold.reviewers(), ["role:support-lead"]);
    assert_eq!(hold.intent().as_str(), "financial.refund.process");
    assert_eq!(hold.reason(), "financial.refund.process needs the approval of role:support-lead");
    let [Meter { rule, .. }] = hold.velocity() else { panic!("{hold:?}") };
    assert_eq!((rule.window_milliseconds, rule.max, rule.action), (3_600_000, 50, ExceededAction::Escalate));
    for agent in ["analytics-agent", "lookup-agent"] {
        let deny = denied(ask(&policy, agent, Target::Tool("process_refund"), None));
        assert_eq!(
            (deny.code(), deny.reason()),
            (DenyCode::DeniedByRule, "Only support agents can process refunds")
        );
        assert_eq!(deny.rule().unwrap().as_str(), "seed.yaml:15");
        assert!(!deny.is_hidden());
    }
}

#[test]
fn support_sends_e_mail_to_ten_recipients_and_not_to_eleven() {
    let policy = seed();
    let send = |agent, arguments: Option<&Json>| ask(&policy, agent, Target::Tool("send_email"), arguments);
    assert!(matches!(send("support-agent", Some(&email_to(10))), Decision::Allow(_)));
    let deny = denied(send("support-agent", Some(&email_to(11))));
    assert_eq!(deny.code(), DenyCode::ConditionFailed);
    assert_eq!(deny.reason(), "condition not met: recipients is 11, at most 10 are allowed");
    let deny = denied(send("support-agent", None));
    assert_eq!(deny.reason(), "condition cannot be judged: recipients is missing (argument to)");
    let deny = denied(send("lookup-agent", Some(&email_to(1))));
    assert_eq!(
        (deny.code(), deny.reason()),
        (DenyCode::DeniedByRule, "a rule denies comms.email.send to lookup-agent")
    );
}

#[test]
fn rules_that_begin_on_one_line_have_names_of_their_own() {
    let text = r"
agents: {a: {client_id: a}}
intents: {one: [{server: customer-ops, tool: one}], two: [{server: customer-ops, tool: two}]}
policies: [{intent: one, agents: [a], decision: allow}, {intent: two, agents: [a], decision: allow}]
";
    let policy = policy(&[("line.yaml", text)]).unwrap();
    let names = ["one", "two"].map(|tool| {
        let Decision::Allow(allow) = ask(&policy, "a", Target::Tool(tool), None) else {
            panic!("{tool} is allowed")
        };
        allow.rule().to_string()
    });
    assert_eq!(names, ["line.yaml:4:12", "line.yaml:4:57"]);
}

#[test]
fn what_no_rule_names_is_denied_and_hidden() {
    let policy = seed();
    let deny = denied(ask(&policy, "support-agent", Target::Tool("update_account"), None));
    assert_eq!(deny.code(), DenyCode::DefaultDeny);
    assert_eq!(deny.reason(), "no rule allows data.customer.update to support-agent");
    assert_eq!(deny.intent().unwrap().as_str(), "data.customer.update");
    assert!(deny.is_hidden());
    for target in
        [Target::Tool("drop_tables"), Target::Resource("x://y"), Target::Prompt("p"), Target::Method]
    {
        let deny = denied(ask(&policy, "support-agent", target, None));
        assert_eq!(deny.code(), DenyCode::NoIntent);
        assert!(deny.is_hidden());
    }
}

#[test]
fn lists_show_each_agent_just_the_tools_that_it_may_call() {
    let policy = seed();
    let seen = |agent: &str| {
        let agent = AgentName::parse(agent).unwrap();
        let server = ServerName::parse("customer-ops").unwrap();
        let tools = ["read_customer", "update_account", "process_refund", "send_email"];
        tools
            .into_iter()
            .filter(|tool| policy.may_see(&agent, None, &server, Target::Tool(tool)))
            .collect::<Vec<_>>()
    };
    assert_eq!(seen("lookup-agent"), ["read_customer"]);
    assert_eq!(seen("support-agent"), ["read_customer", "process_refund", "send_email"]);
    assert_eq!(seen("analytics-agent"), ["read_customer"]);
    assert_eq!(seen("nobody"), [""; 0]);
}

#[test]
fn the_protocols_own_methods_are_open_just_where_something_is_granted() {
    let policy = seed();
    let decide = |agent: &str, server: &str, method: &str| {
        let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse(server).unwrap());
        policy.decide(&Question {
            agent: &agent,
            profile: None,
            server: &server,
            method,
            target: Target::Method,
            arguments: None,
            around: Circumstances::default(),
        })
    };
    for (method, _) in PROTOCOL_METHODS {
        let Decision::Allow(allow) = decide("lookup-agent", "customer-ops", method) else {
            panic!("{method}")
        };
        assert_eq!((allow.rule().as_str(), allow.intents().len()), ("protocol", 0));
        assert_eq!(denied(decide("lookup-agent", "files", method)).code(), DenyCode::ServerNotGranted);
        assert_eq!(denied(decide("nobody", "customer-ops", method)).code(), DenyCode::UnknownAgent);
    }
    assert_eq!(denied(decide("lookup-agent", "customer-ops", "skills/list")).code(), DenyCode::NoIntent);
}

#[test]
fn an_intent_closes_a_method_of_the_protocol_to_whom_no_rule_allows_it() {
    let rules = "
intents:
  session.log: [{server: customer-ops, method: logging/*}]
  session.listen: [{server: customer-ops, method: subscriptions/listen}]
  session.told: [{server: customer-ops, method: notifications/*}, {server: customer-ops, method: pi*}, {server: customer-ops, method: prompts/list}]
policies:
  - {intent: session.told, agents: [support-agent, lookup-agent, analytics-agent], decision: deny}
  - {intent: session.log, agents: [support-agent], decision: deny, reason: No logs}
  - {intent: session.log, agents: [lookup-agent], decision: allow}
velocity_rules:
  - {agent: lookup-agent, intent: session.log, window: 1m, max_calls: 1, exceeded_action: deny}
";
    let policy = policy(&[("agents.yaml", AGENTS), ("seed.yaml", SEED), ("rules.yaml", rules)]).unwrap();
    let decide = |agent: &str, method: &str| {
        let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse("customer-ops").unwrap());
        policy.decide(&Question {
            agent: &agent,
            profile: None,
            server: &server,
            method,
            target: Target::Method,
            arguments: None,
            around: Circumstances::default(),
        })
    };
    let deny = denied(decide("support-agent", "logging/setLevel"));
    assert_eq!((deny.code(), deny.reason()), (DenyCode::DeniedByRule, "No logs"));
    let Decision::Allow(allow) = decide("lookup-agent", "logging/setLevel") else { panic!("is allowed") };
    assert_eq!((allow.intents()[0].as_str(), allow.velocity().len()), ("session.log", 1));
    let deny = denied(decide("analytics-agent", "logging/setLevel"));
    assert_eq!((deny.code(), deny.is_hidden()), (DenyCode::DefaultDeny, true));
    for agent in ["support-agent", "lookup-agent", "analytics-agent"] {
        assert_eq!(denied(decide(agent, "subscriptions/listen")).code(), DenyCode::DefaultDeny);
        for method in ["notifications/progress", "prompts/list"] {
            assert_eq!(denied(decide(agent, method)).code(), DenyCode::DeniedByRule, "{method}");
        }
        for method in NEEDED_METHODS.iter().chain(&["tools/list", "tasks/list"]) {
            let Decision::Allow(allow) = decide(agent, method) else { panic!("{agent}: {method}") };
            assert_eq!(allow.rule().as_str(), "protocol");
        }
    }
}

#[test]
fn mistakes_are_told_as_in_the_golden_file() {
    let said =
        |text: &str| policy(&[("agents.yaml", AGENTS), ("case.yaml", text)]).expect_err(text).to_string();
    assert!(crate::config::golden::compare("src/policy/testdata/mistakes.txt", said) >= 60);
}

#[test]
fn a_file_of_comments_alone_is_a_file_without_rules() {
    for empty in ["", "# nothing yet\n", "policies:\n", "policies: []\nvelocity_rules: []\n"] {
        let policy = policy(&[("agents.yaml", AGENTS), ("empty.yaml", empty)]).unwrap();
        assert_eq!(policy.rule_count(), 0, "{empty:?}");
    }
}

#[test]
fn the_digest_names_contents_and_names_and_not_the_order() {
    let digest = |texts: &[(&str, &str)]| policy(texts).unwrap().digest().to_string();
    let first = digest(&[("a.yaml", AGENTS), ("b.yaml", SEED)]);
    assert_eq!(first.len(), 64);
    assert_eq!(first, digest(&[("b.yaml", SEED), ("a.yaml", AGENTS)]));
    assert_ne!(first, digest(&[("b.yaml", AGENTS), ("a.yaml", SEED)]));
    assert_ne!(first, digest(&[("a.yaml", AGENTS), ("b.yaml", &format!("{SEED}#"))]));
}

#[test]
fn an_agents_server_list_bounds_its_rules() {
    let bounded =
        AGENTS.replace("client_id: support-assistant", "client_id: support-assistant\n    servers: [files]");
    let policy = policy(&[("agents.yaml", &bounded), ("seed.yaml", SEED)]).unwrap();
    let deny = denied(ask(&policy, "support-agent", Target::Tool("read_customer"), None));
    assert_eq!(deny.code(), DenyCode::ServerNotGranted);
    assert!(matches!(ask(&policy, "lookup-agent", Target::Tool("read_customer"), None), Decision::Allow(_)));
}

#[test]
fn an_agent_with_deny_rules_alone_cannot_connect_and_still_hears_the_reason() {
    let rules =
        "policies:\n  - {intent: data.customer.read, agents: [lookup-agent], decision: deny, reason: no}";
    let policy = policy(&[("agents.yaml", AGENTS), ("rules.yaml", rules)]).unwrap();
    let (agent, server) =
        (AgentName::parse("lookup-agent").unwrap(), ServerName::parse("customer-ops").unwrap());
    assert!(!policy.may_connect(&agent, None, &server));
    let deny = denied(ask(&policy, "lookup-agent", Target::Tool("read_customer"), None));
    assert_eq!((deny.code(), deny.reason(), deny.is_hidden()), (DenyCode::DeniedByRule, "no", false));
    let question = Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/list",
        target: Target::Method,
        arguments: None,
        around: Circumstances::default(),
    };
    assert_eq!(denied(policy.decide(&question)).code(), DenyCode::ServerNotGranted);
}

#[test]
fn a_deny_on_a_narrower_prefix_holds_inside_a_wider_allow() {
    let text = "
agents: {a: {client_id: c}}
intents:
  files.read: [{server: customer-ops, resource: 'file:///data/*'}]
  files.secret: [{server: customer-ops, resource: 'file:///data/secret/*'}, {server: customer-ops, resource: 'file:///data/key'}]
  tasks: [{server: customer-ops, method: skills/*}]
policies:
  - {intent: files.read, agents: [a], decision: allow}
  - {intent: files.secret, agents: [a], decision: deny, reason: secret}
  - {intent: tasks, agents: [a], decision: allow}
";
    let policy = policy(&[("p.yaml", text)]).unwrap();
    let read = |uri| ask(&policy, "a", Target::Resource(uri), None);
    assert!(matches!(read("file:///data/x"), Decision::Allow(_)));
    for uri in ["file:///data/secret/x", "file:///data/key", "file:///data/key?x", "file:///data/key#"] {
        let deny = denied(read(uri));
        assert_eq!((deny.code(), deny.reason(), deny.intents().len()), (DenyCode::DeniedByRule, "secret", 2));
    }
    for other_spelling in ["file:///data/./secret/x", "file:///data//secret/x", "file:///data/%73ecret/x"] {
        assert_eq!(denied(read(other_spelling)).code(), DenyCode::NoIntent, "{other_spelling}");
    }
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let call = |method| {
        policy.decide(&Question {
            agent: &agent,
            profile: None,
            server: &server,
            method,
            target: Target::Method,
            arguments: None,
            around: Circumstances::default(),
        })
    };
    assert!(matches!(call("skills/get"), Decision::Allow(_)));
    assert_eq!(denied(call("completion/complete")).code(), DenyCode::NoIntent);
}
