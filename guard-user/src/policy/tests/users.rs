//! Conditions on the user for whom an agent works.

use super::conditions::{HEAD, word};
use super::*;
use crate::types::UserName;

fn decide(rules: &str, user: Option<&str>) -> &'static str {
    let text = format!("{HEAD}{rules}");
    let policy = policy(&[("rules.yaml", &text)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let user = user.map(|user| UserName::parse(user).unwrap());
    word(&policy.decide(&Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/call",
        target: Target::Tool("mail"),
        arguments: None,
        around: Circumstances { user: user.as_ref(), ..Circumstances::default() },
    }))
}

#[test]
fn a_rule_for_some_users_allows_those_and_says_nothing_of_a_call_for_nobody() {
    let rules = "  - {intent: mail, agents: [a], decision: allow, conditions: {source: {user_in: [alice@corp, bob@corp]}}}\n";
    for user in ["alice@corp", "bob@corp"] {
        assert_eq!(decide(rules, Some(user)), "allow");
    }
    for other in [
        None,
        Some("mallory@corp"),
        Some("alice@corp.evil"),
        Some("xalice@corp"),
        Some("Alice@corp"),
        Some("alice@corp,bob@corp"),
    ] {
        assert_eq!(decide(rules, other), "condition_failed", "{other:?}");
    }
    let beside = format!(
        "{rules}  - {{intent: mail, agents: [a], decision: allow, conditions: {{source: {{user_in: [carol@corp]}}}}}}\n"
    );
    assert_eq!(decide(&beside, Some("carol@corp")), "allow", "one of two allow rules is enough");
    let open = format!("{rules}  - {{intent: mail, agents: [a], decision: allow}}\n");
    assert_eq!(decide(&open, None), "allow", "a rule for some users takes nothing from others");
}

#[test]
fn all_but_some_users_are_users() {
    let rules = "  - {intent: mail, agents: [a], decision: allow, conditions: {source: {user_not_in: [mallory@corp]}}}\n";
    assert_eq!(decide(rules, Some("alice@corp")), "allow");
    for other in [None, Some("mallory@corp"), Some("MALLORY@corp")] {
        assert_eq!(decide(rules, other), "condition_failed", "{other:?}");
    }
}

#[test]
fn a_rule_that_denies_some_users_denies_whoever_names_none() {
    for decision in ["deny", "escalate"] {
        let rules = format!(
            "  - {{intent: mail, agents: [a], decision: allow}}\n  - {{intent: mail, agents: [a], decision: {decision}, conditions: {{source: {{user_in: [mallory@corp]}}}}}}\n"
        );
        let restricted = if decision == "deny" { "denied_by_rule" } else { "hold" };
        assert_eq!(decide(&rules, Some("alice@corp")), "allow");
        assert_eq!(decide(&rules, Some("mallory@corp")), restricted);
        assert_eq!(decide(&rules, Some("Mallory@corp")), "condition_failed", "another spelling");
        assert_eq!(decide(&rules, None), "condition_failed", "whoever leaves his name out");
    }
}

#[test]
fn the_process_and_the_user_must_both_hold() {
    let rules = "  - {intent: mail, agents: [a], decision: allow}
  - {intent: mail, agents: [a], decision: deny, conditions: {source: {uid: [1000], user_in: [mallory@corp]}}}\n";
    // Where the call comes from is not known here.
    for user in [None, Some("alice@corp"), Some("mallory@corp")] {
        assert_eq!(decide(rules, user), "condition_failed", "{user:?}");
    }
}
