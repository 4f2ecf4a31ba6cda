//! What a server asks of its client: what `explain` and `policy test` tell of it is what becomes of it.

use super::*;
use crate::policy::{Asked, What, Written};
use crate::risk::Known;

const RULES: &str = "
agents: {a: {client_id: c}, b: {client_id: c}}
intents:
  read: [{server: customer-ops, tool: read, label: confidential, sink: external}]
  ask: [{server: customer-ops, server_request: elicitation/create}]
  pings: [{server: customer-ops, server_request: ping, sink: external}]
  risky: [{server: customer-ops, server_request: sampling/createMessage, risk: {base: 40}}]
policies:
  - {intent: '*', agents: [a], decision: allow}
  - {intent: read, agents: [b], decision: allow}
  - {name: by-a-person, intent: ask, agents: [a], decision: escalate, reason: 'Ask first', escalation: {type: single, reviewers: ['role:x']}}
  - {name: too-risky, intent: risky, agents: [a], decision: deny, conditions: {min_risk: 45}}
flow_rules:
  - {name: no-leak, after: confidential, sink: external, decision: deny}
";

fn asked(agent: &str, what: What, known: Option<Known>, read: &str) -> Asked {
    Asked {
        agent: AgentName::parse(agent).unwrap(),
        profile: None,
        server: ServerName::parse("customer-ops").unwrap(),
        what,
        arguments: None,
        moment: None,
        user: None,
        known,
        risk: None,
        read: vec![LabelName::parse(read).unwrap()],
        session: Within::Nothing,
    }
}

#[test]
fn what_explain_tells_of_a_servers_request_is_what_becomes_of_it() {
    let files = [("p.yaml".into(), RULES.to_owned())];
    let written = Written::from_texts(&files, &[server("customer-ops"), server("files")]).unwrap();
    let known = Known { is_new: true, today: 0, refused: 50, changed: Some(1) };
    let mut passed = Vec::new();
    for agent in ["a", "b"] {
        for method in ["ping", "roots/list", "elicitation/create", "sampling/createMessage", "tasks/get"] {
            for (known, read) in [(None, "public"), (Some(known), "public"), (None, "restricted")] {
                let asked = asked(agent, What::ServerRequest(method.into()), known, read);
                let explained = written.explain(&asked).decision;
                let around = Circumstances { read: Some(&asked.read), ..Circumstances::default() };
                let (server, policy) = (&asked.server, written.policy());
                let may = policy.may_ask((&asked.agent, None), server, method, around, None);
                assert_eq!(matches!(explained, Decision::Allow(_)), may, "{agent} {method} {known:?} {read}");
                assert!(!matches!(explained, Decision::Hold(_)), "{method}: nobody waits for a person");
                passed.extend(may.then_some((agent, method, known.is_some(), read)));
            }
        }
    }
    // It is not all the same.
    assert!(
        passed.contains(&("b", "ping", false, "public")) == passed.contains(&("b", "ping", true, "public"))
    );
    assert!(passed.contains(&("a", "sampling/createMessage", true, "public")), "{passed:?}");
    assert!(!passed.contains(&("a", "roots/list", false, "restricted")), "{passed:?}");
    assert!(passed.contains(&("a", "roots/list", false, "public")), "{passed:?}");
    assert!(!passed.iter().any(|(_, method, ..)| *method == "elicitation/create"), "{passed:?}");
}

#[test]
fn a_servers_request_that_needs_an_approval_is_told_as_refused() {
    let files = [("p.yaml".into(), RULES.to_owned())];
    let written = Written::from_texts(&files, &[server("customer-ops"), server("files")]).unwrap();
    let explained =
        written.explain(&asked("a", What::ServerRequest("elicitation/create".into()), None, "public"));
    let Decision::Deny(deny) = &explained.decision else { panic!("{explained:?}") };
    assert_eq!(
        (deny.code(), deny.rule().map(RuleName::as_str)),
        (DenyCode::DeniedByRule, Some("by-a-person"))
    );
    assert!(
        deny.reason().contains("Ask first; what a server asks of its client cannot wait"),
        "{}",
        deny.reason()
    );
    assert!(explained.rules.iter().any(|rule| rule.decides && rule.rule.as_str() == "by-a-person"));
    // The score of an agent's own call knows what was before.
    let known = Known { is_new: true, today: 0, refused: 50, changed: Some(1) };
    let [risky, calm] = [Some(known), None]
        .map(|known| written.explain(&asked("a", What::Tool("read".into()), known, "public")));
    assert_ne!(risky.risk, calm.risk);
}
