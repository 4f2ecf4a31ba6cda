//! What a profile leaves of calls by their risk, and how much of them.

use super::super::*;
use super::policy;
use crate::rpc::Target;

const POLICY: &str = "
agents:
  a: {client_id: a, profiles: [default, careful]}
  b: {client_id: b, profiles: [careful]}
intents:
  read: [{server: customer-ops, tool: read, class: read}]
  pay: [{server: customer-ops, tool: pay, risk: {base: 60}}]
  ask: [{server: customer-ops, server_request: elicitation/create, risk: {base: 70}}]
policies:
  - {intent: read, agents: [a, b], decision: allow}
  - {intent: ask, agents: [a, b], decision: allow}
  - {intent: pay, agents: [a, b], decision: escalate}
profiles:
  careful:
    max_risk: 59
    limits:
      - {name: of-all, window: 60s, max_calls: 5, exceeded_action: deny}
      - {name: of-pay, intent: pay, window: 60s, max_calls: 1, exceeded_action: deny}
velocity_rules:
  - {name: in-default, profile: default, agent: a, window: 60s, max_calls: 7, exceeded_action: deny}
  - {name: in-all, window: 60s, max_calls: 9, exceeded_action: deny}
";

fn ask(policy: &Policy, agent: &str, profile: Option<&str>, tool: &str, risk: Option<u8>) -> Decision {
    let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse("customer-ops").unwrap());
    let profile = profile.map(|name| ProfileName::parse(name).unwrap());
    policy.decide(&Question {
        agent: &agent,
        profile: profile.as_ref(),
        server: &server,
        method: "tools/call",
        target: Target::Tool(tool),
        arguments: None,
        around: Circumstances { risk, ..Circumstances::default() },
    })
}

fn denied(decision: Decision) -> (DenyCode, String) {
    let Decision::Deny(deny) = decision else { panic!("{decision:?}") };
    (deny.code(), deny.reason().to_owned())
}

#[test]
fn a_call_above_the_ceiling_is_refused_in_its_profile_alone() {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap_or_else(|problems| panic!("{problems}"));
    assert!(policy.speaks_of_risk(), "a ceiling needs scores");
    for (risk, is_within) in [(0, true), (59, true), (60, false), (100, false)] {
        let decision = ask(&policy, "a", Some("careful"), "read", Some(risk));
        assert_eq!(matches!(decision, Decision::Allow(_)), is_within, "{risk}: {decision:?}");
        let decision = ask(&policy, "a", Some("default"), "read", Some(risk));
        assert!(matches!(decision, Decision::Allow(_)), "{risk}: {decision:?}");
    }
    let above = denied(ask(&policy, "a", Some("careful"), "read", Some(72)));
    let words = "the profile careful admits a risk of 59 at most, and this call has 72";
    assert_eq!(above, (DenyCode::ProfileDenies, words.to_owned()));
}

#[test]
fn a_ceiling_refuses_what_nobody_has_scored_and_what_a_person_would_have_decided() {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap();
    let (code, reason) = denied(ask(&policy, "a", Some("careful"), "read", None));
    assert_eq!(code, DenyCode::ProfileDenies);
    assert!(reason.ends_with("that of this call is not known"), "{reason}");
    assert!(matches!(ask(&policy, "a", Some("default"), "pay", Some(60)), Decision::Hold(_)));
    assert_eq!(denied(ask(&policy, "a", Some("careful"), "pay", Some(60))).0, DenyCode::ProfileDenies);
    // The rules' own denial is told first, and a list shows what some call of it may be.
    assert_eq!(denied(ask(&policy, "a", Some("careful"), "none", Some(99))).0, DenyCode::NoIntent);
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let careful = ProfileName::parse("careful").unwrap();
    assert!(policy.may_see(&agent, Some(&careful), &server, Target::Tool("pay")));
    // What a server asks has a score, too.
    let around = Circumstances::default();
    let asks = |profile| policy.may_ask((&agent, profile), &server, "elicitation/create", around, None);
    assert!(asks(None) && !asks(Some(&careful)));
}

#[test]
fn a_limit_counts_the_calls_of_its_profile_by_each_agent() {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap();
    let counted = |agent: &str, profile, tool: &str| {
        let decision = ask(&policy, agent, profile, tool, Some(0));
        let meters = match &decision {
            Decision::Allow(allow) => allow.velocity(),
            Decision::Hold(hold) => hold.velocity(),
            Decision::Deny(_) => panic!("{decision:?}"),
        };
        meters.iter().map(|meter| meter.rule.name.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(counted("a", Some("default"), "read"), ["in-all", "in-default"]);
    assert_eq!(counted("a", Some("careful"), "read"), ["in-all", "of-all"]);
    assert_eq!(counted("a", Some("careful"), "pay"), ["in-all", "of-all", "of-pay"]);
    assert_eq!(counted("b", Some("careful"), "read"), ["in-all", "of-all"]);
    assert_eq!(counted("a", None, "read"), ["in-all"]);
}

#[test]
fn a_profile_is_a_part_of_its_windows_name_and_of_no_others() {
    let scope = |text: &str| {
        let text = format!(
            "{POLICY}  - {{name: looked-at, window: 5m, max_calls: 9, exceeded_action: deny{text}}}\n"
        );
        let policy = policy(&[("p.yaml", &text)]).unwrap_or_else(|problems| panic!("{problems}"));
        policy.velocity().iter().find(|rule| rule.name.as_str() == "looked-at").unwrap().scope().to_string()
    };
    let names = [scope(""), scope(", profile: careful"), scope(", profile: default"), scope(", tool: pay")];
    let each: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(each.len(), names.len(), "{names:?}");
    // As releases without profiles in velocity rules named it: a snapshot of theirs goes on counting.
    assert_eq!(names[0], "d8c668e81a57439e");
}

#[test]
fn as_many_counts_as_one_call_can_have_are_those_of_one_profile() {
    let limits = |name: &str, count: usize| {
        let limit = |n| format!("{{window: {n}s, max_calls: 5, exceeded_action: deny}}");
        format!("  {name}: {{limits: [{}]}}\n", (1..=count).map(limit).collect::<Vec<_>>().join(", "))
    };
    let with = |counts: [usize; 2]| {
        let rest = "agents: {a: {client_id: a, profiles: [p, q]}}\nintents: {read: [{server: customer-ops, tool: read}]}\n\
                    policies: [{intent: read, agents: [a], decision: allow}]\nprofiles:\n";
        policy(&[("p.yaml", &format!("{rest}{}{}", limits("p", counts[0]), limits("q", counts[1])))])
    };
    assert!(with([VELOCITY_METERS_MAX, VELOCITY_METERS_MAX]).is_ok());
    let problems = with([1, VELOCITY_METERS_MAX + 1]).unwrap_err().to_string();
    assert!(problems.contains("count one call of a 33 times"), "{problems}");
}
