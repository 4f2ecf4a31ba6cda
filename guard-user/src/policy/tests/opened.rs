//! What opens a target to an agent, and what only restricts it.

use super::conditions::word;
use super::*;

const HEAD: &str = "
agents: {a: {client_id: a}}
intents:
  pay: [{server: customer-ops, tool: pay, facts: {amount: {number: amount}}}]
  look: [{server: files, tool: look}]
policies:
";

fn load(rules: &str) -> Policy {
    policy(&[("rules.yaml", &format!("{HEAD}{rules}"))]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn pay(policy: &Policy, amount: u64) -> Decision {
    let arguments = Json::Object(vec![("amount".into(), Json::Number(amount.into()))]);
    ask(policy, "a", Target::Tool("pay"), Some(&arguments))
}

#[test]
fn a_deny_rule_denies_what_is_at_least_its_bound() {
    let policy = load(
        "
  - {intent: pay, agents: [a], decision: allow}
  - {intent: pay, agents: [a], decision: deny, conditions: {min_amount: 50}}
",
    );
    let told = [49, 50, 51].map(|amount| word(&pay(&policy, amount)));
    assert_eq!(told, ["allow", "denied_by_rule", "denied_by_rule"]);
    let policy = load(
        "
  - {intent: pay, agents: [a], decision: allow}
  - {name: risky, intent: pay, agents: [a], decision: deny, conditions: {min_risk: 50}}
  - {name: late, intent: pay, agents: [a], decision: deny, conditions: {min_session_calls: 3}}
",
    );
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    for (risk, calls, rule) in [(49, 1, None), (50, 1, Some("risky")), (49, 2, Some("late"))] {
        let around =
            Circumstances { risk: Some(risk), session: Within::of(calls, 0), ..Circumstances::default() };
        let (method, target) = ("tools/call", Target::Tool("pay"));
        let (agent, server) = (&agent, &server);
        let question = Question { agent, profile: None, server, method, target, arguments: None, around };
        let decision = policy.decide(&question);
        let told =
            if let Decision::Deny(deny) = &decision { deny.rule().map(RuleName::as_str) } else { None };
        assert_eq!(told, rule, "{risk} {calls}");
    }
}

#[test]
fn a_denial_is_never_told_of_an_escalate_rule_that_is_not_met() {
    let watched = "
  - {name: watched, intent: '*', agents: [a], decision: escalate, conditions: {min_risk: 60}}
";
    let at = |policy: &Policy, amount: u64| {
        let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
        let arguments = Json::Object(vec![("amount".into(), Json::Number(amount.into()))]);
        let around = Circumstances { risk: Some(10), ..Circumstances::default() };
        denied(policy.decide(&Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target: Target::Tool("pay"),
            arguments: Some(&arguments),
            around,
        }))
    };
    let deny = at(&load(watched), 1);
    assert_eq!(
        (deny.code(), deny.rule(), deny.reason()),
        (DenyCode::DefaultDeny, None, "no rule allows pay to a")
    );
    let small = "  - {name: small, intent: pay, agents: [a], decision: allow, conditions: {max_amount: 5}}\n";
    let deny = at(&load(&format!("{watched}{small}")), 6);
    assert_eq!(deny.code(), DenyCode::ConditionFailed);
    assert_eq!(deny.rule().unwrap().as_str(), "small");
}

#[test]
fn an_escalate_rule_with_conditions_opens_no_server_and_shows_no_tool() {
    let watched = "  - {intent: '*', agents: [a], decision: escalate, conditions: {above_risk: 60}}\n";
    let (agent, pays) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let looks = ServerName::parse("files").unwrap();
    let alone = load(watched);
    assert!(
        !alone.may_connect(&agent, None, &pays) && !alone.may_see(&agent, None, &pays, Target::Tool("pay"))
    );
    for opening in ["decision: allow", "decision: escalate", "decision: allow, conditions: {max_amount: 5}"] {
        let policy = load(&format!("{watched}  - {{intent: pay, agents: [a], {opening}}}\n"));
        assert!(policy.may_connect(&agent, None, &pays), "{opening}");
        assert!(policy.may_see(&agent, None, &pays, Target::Tool("pay")), "{opening}");
        assert!(!policy.may_connect(&agent, None, &looks), "{opening}");
    }
}

#[test]
fn a_table_tells_what_depends_on_conditions() {
    let cell = |rules: &str| {
        let grants = load(rules).grants();
        let pay = grants.into_iter().find(|grant| grant.tool == "pay").unwrap();
        assert_eq!(pay.conditional, pay.cell().ends_with('*'));
        pay.cell()
    };
    let (allow, escalate, deny) = ("decision: allow", "decision: escalate", "decision: deny");
    let (small, large) = (", conditions: {max_amount: 5}", ", conditions: {above_amount: 5}");
    for (rules, told) in [
        (vec![allow.to_owned()], "allow"),
        (vec![format!("{allow}{small}")], "allow*"),
        (vec![allow.to_owned(), format!("{deny}{large}")], "allow*"),
        (vec![allow.to_owned(), format!("{allow}{small}")], "allow"),
        (vec![escalate.to_owned()], "escalate"),
        (vec![escalate.to_owned(), format!("{allow}{small}")], "escalate"),
        (vec![escalate.to_owned(), format!("{deny}{large}")], "escalate*"),
        (vec![allow.to_owned(), format!("{escalate}{large}")], "allow/escalate*"),
        (vec![format!("{escalate}{large}")], "deny*"),
        (vec![allow.to_owned(), deny.to_owned()], "deny"),
    ] {
        let rules: Vec<_> =
            rules.iter().map(|rule| format!("  - {{intent: pay, agents: [a], {rule}}}\n")).collect();
        assert_eq!(cell(&rules.concat()), told, "{rules:?}");
    }
}
