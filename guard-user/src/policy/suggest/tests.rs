//! What is suggested, on the shipped example.

use super::*;
use crate::policy::tests::server;

const AGENTS: &str = include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml");
const SEED: &str = include_str!("../../../../policies/examples/customer-ops/policies/seed.yaml");

fn present(more: &str) -> Present {
    let files = [("agents.yaml", AGENTS), ("more.yaml", more), ("seed.yaml", SEED)];
    let files = files.map(|(name, text)| (name.into(), text.into())).to_vec();
    Present::from_texts(files, &[server("customer-ops")]).unwrap()
}

fn tool(agent: &str, tool: &str) -> Use {
    Use {
        agent: AgentName::parse(agent).unwrap(),
        profile: None,
        server: ServerName::parse("customer-ops").unwrap(),
        what: What::Tool(tool.into()),
    }
}

fn used(calls: &[(&str, &str, Became, u64)]) -> Uses {
    let mut uses = Uses::default();
    for (agent, name, became, times) in calls {
        for at in 0..*times {
            uses.add(tool(agent, name), *became, None, &format!("2026-11-20T10:00:0{}.000000Z", at % 10));
        }
    }
    uses
}

fn proposed(suggestion: &Suggestion) -> Policy {
    Policy::from_texts(&[("p.yaml".into(), suggestion.yaml.clone())], &[server("customer-ops")])
        .unwrap_or_else(|problems| panic!("{problems}\n{}", suggestion.yaml))
}

fn effects(policy: &Policy) -> Vec<(String, String)> {
    let passed = policy.grants().into_iter().filter(|grant| grant.effect != Effect::Deny);
    passed.map(|grant| (grant.agent.to_string(), grant.tool)).collect()
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter().map(|(agent, tool)| ((*agent).to_owned(), (*tool).to_owned())).collect()
}

#[test]
fn rules_are_narrowed_to_what_was_used_and_the_rest_stays_as_written() {
    let present = present("");
    let uses = used(&[
        ("support-agent", "read_customer", Became::Allowed, 5),
        ("support-agent", "process_refund", Became::Held, 1),
        ("lookup-agent", "send_email", Became::Refused, 3),
    ]);
    let suggestion = present.suggest(&uses, None, &["because".into()]).unwrap();
    let policy = proposed(&suggestion);
    assert_eq!(
        effects(&policy),
        pairs(&[("support-agent", "process_refund"), ("support-agent", "read_customer")])
    );
    let yaml = &suggestion.yaml;
    assert!(yaml.starts_with("# because\n"), "{yaml}");
    assert!(
        yaml.contains("# support-agent: 5 calls, last 2026-11-20T10:00:04.000000Z; was seed.yaml:"),
        "{yaml}"
    );
    assert!(yaml.contains("# RARE: support-agent: 1 calls (1 held)"), "{yaml}");
    assert!(yaml.contains("left out, nobody used it: seed.yaml:"), "{yaml}");
    // Deny rules and velocity rules stay, for everybody.
    assert_eq!(yaml.matches("decision: deny").count(), SEED.matches("decision: deny").count());
    assert_eq!(yaml.matches("exceeded_action").count(), SEED.matches("exceeded_action").count());
    assert!(suggestion.whole.is_empty());
    assert!(suggestion.pairs.0 > suggestion.pairs.1 && suggestion.pairs.1 == 2, "{:?}", suggestion.pairs);
    let standing = |agent: &str, name: &str| {
        suggestion.rows.iter().find(|row| row.agent == agent && row.name == name).map(|row| row.standing)
    };
    assert_eq!(standing("support-agent", "read_customer"), Some(Standing::Used));
    assert_eq!(standing("support-agent", "process_refund"), Some(Standing::Rare));
    assert_eq!(standing("support-agent", "send_email"), Some(Standing::NeverUsed));
    assert_eq!(standing("lookup-agent", "send_email"), Some(Standing::Refused));
    assert_eq!(standing("lookup-agent", "read_customer"), Some(Standing::NeverUsed));
    assert_eq!(standing("lookup-agent", "process_refund"), None, "it is not granted");
}

#[test]
fn a_condition_goes_on_to_bind() {
    let suggestion =
        present("").suggest(&used(&[("support-agent", "send_email", Became::Allowed, 9)]), None, &[]);
    let suggestion = suggestion.unwrap();
    assert!(suggestion.yaml.contains("max_recipients: 10"), "{}", suggestion.yaml);
}

#[test]
fn who_only_lists_keeps_something_to_list() {
    let present = present("");
    let mut uses = Uses::default();
    let list = Use { what: What::Method("tools/list".into()), ..tool("lookup-agent", "") };
    uses.add(list.clone(), Became::Allowed, None, "2026-11-20T10:00:00.000000Z");
    let suggestion = present.suggest(&uses, None, &[]).unwrap();
    assert_eq!(effect(&proposed(&suggestion), &list), Effect::Allow, "{}", suggestion.yaml);
    assert!(suggestion.yaml.contains("no call of it; kept since"), "{}", suggestion.yaml);
}

#[test]
fn one_agent_is_narrowed_and_the_others_stay_if_one_is_asked_for() {
    let present = present("");
    let asked = AgentName::parse("lookup-agent").unwrap();
    let suggestion = present.suggest(&Uses::default(), Some(&asked), &[]).unwrap();
    let before = effects(present.policy());
    let kept: Vec<_> = before.into_iter().filter(|(agent, _)| agent != "lookup-agent").collect();
    assert_eq!(effects(&proposed(&suggestion)), kept);
    assert!(suggestion.rows.iter().all(|row| row.agent == "lookup-agent"));
}

#[test]
fn what_was_let_through_and_is_denied_now_is_not_opened_again() {
    let uses = used(&[
        ("lookup-agent", "process_refund", Became::Allowed, 7),
        ("nobody-now", "read_customer", Became::Allowed, 7),
    ]);
    let suggestion = present("").suggest(&uses, None, &[]).unwrap();
    assert_eq!(effects(&proposed(&suggestion)), []);
    assert!(
        suggestion
            .rows
            .iter()
            .filter(|row| row.count.allowed > 0)
            .all(|row| row.standing == Standing::DeniedNow)
    );
}

#[test]
fn a_pattern_becomes_the_intents_that_were_used_and_names_stay_apart() {
    let more = "policies:\n  - {name: all data, intent: data.*, agents: [support-agent], decision: allow}\n";
    let uses = used(&[
        ("support-agent", "read_customer", Became::Allowed, 3),
        ("support-agent", "update_account", Became::Allowed, 3),
    ]);
    let suggestion = present(more).suggest(&uses, None, &[]).unwrap();
    let yaml = &suggestion.yaml;
    assert!(yaml.contains("name: \"all data (data.customer.read)\""), "{yaml}");
    assert!(yaml.contains("name: \"all data (data.customer.update)\""), "{yaml}");
    assert!(!yaml.contains("intent: \"data.*\""), "{yaml}");
}

#[test]
fn an_agent_keeps_the_servers_that_it_used() {
    let agents = "agents:\n  a: {client_id: a}\nintents:\n  x: [{server: one, tool: t}, {server: two, tool: t}]\n\
                  policies:\n  - {intent: x, agents: [a], decision: allow}\n";
    let servers = [server("one"), server("two")];
    let present = Present::from_texts(vec![("a.yaml".into(), agents.into())], &servers).unwrap();
    let mut uses = Uses::default();
    let on = |name: &str| Use { server: ServerName::parse(name).unwrap(), ..tool("a", "t") };
    uses.add(on("one"), Became::Allowed, None, "2026-11-20T10:00:00.000000Z");
    let suggestion = present.suggest(&uses, None, &[]).unwrap();
    let policy = Policy::from_texts(&[("p.yaml".into(), suggestion.yaml.clone())], &servers).unwrap();
    assert_eq!(effect(&policy, &on("one")), Effect::Allow);
    assert_eq!(effect(&policy, &on("two")), Effect::Deny, "{}", suggestion.yaml);
}
