//! What is told of the shipped example. That what is told accounts for the decision is proven in `policy/tests/model.rs`.

use super::*;
use crate::policy::tests::server;
use crate::policy::{DenyCode, What};
use crate::rpc::{Json, json};
use crate::types::{AgentName, Within};

const AGENTS: &str = include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml");
const SEED: &str = include_str!("../../../../policies/examples/customer-ops/policies/seed.yaml");

fn written(more: &str) -> Written {
    let files = [("agents.yaml", AGENTS), ("seed.yaml", SEED), ("more.yaml", more)]
        .map(|(name, text)| (name.into(), text.into()));
    Written::from_texts(&files, &[server("customer-ops"), server("files")]).unwrap()
}

fn asked(agent: &str, server: &str, kind: &str, name: &str, arguments: &str) -> Asked {
    let parsed = |text: &str| -> Json { json::parse(text.as_bytes(), 64).unwrap() };
    Asked {
        agent: AgentName::parse(agent).unwrap(),
        profile: None,
        server: ServerName::parse(server).unwrap(),
        what: What::parse(kind, name).unwrap(),
        arguments: (!arguments.is_empty()).then(|| parsed(arguments)),
        moment: None,
        user: None,
        known: None,
        risk: None,
        read: Vec::new(),
        session: Within::Nothing,
    }
}

fn near(explained: &Explanation) -> Vec<(&str, Nearness)> {
    explained.near.iter().map(|near| (near.rule.as_str(), near.nearness)).collect()
}

#[test]
fn a_condition_that_is_not_met_is_told_with_its_rule() {
    let written = written("");
    let eleven = format!("{{\"to\": {:?}}}", ["a@b"; 11]);
    let explained = written.explain(&asked("support-agent", "customer-ops", "tool", "send_email", &eleven));
    let [rule] = &explained.rules[..] else { panic!("{explained:?}") };
    assert_eq!((rule.rule.as_str(), rule.effect, rule.decides), ("seed.yaml:20", Effect::Allow, true));
    assert_eq!(rule.conditions, ["max_recipients: 10"]);
    assert_eq!(rule.applies, Applies::No("recipients is 11, at most 10 are allowed".into()));
    assert_eq!(explained.is_listed, Some(true));
    assert_eq!(near(&explained), [("seed.yaml:26", Nearness::Agent)]);
    assert_eq!(explained.near[0].why, "it is for analytics-agent, lookup-agent");

    let one = asked("support-agent", "customer-ops", "tool", "send_email", "{\"to\": [\"a@b\"]}");
    let explained = written.explain(&one);
    assert_eq!(explained.rules[0].applies, Applies::Yes);
    assert!(matches!(explained.decision, Decision::Allow(_)));
    let none = asked("support-agent", "customer-ops", "tool", "send_email", "{}");
    assert!(
        matches!(&written.explain(&none).rules[0].applies, Applies::Unknown(why) if why.contains("missing"))
    );
}

#[test]
fn a_tool_that_no_intent_names_is_told_with_the_name_that_was_meant() {
    let written = written("intents: {files.read: [{server: files, tool: Read_File}]}");
    let ask = |server: &str, tool: &str| written.explain(&asked("support-agent", server, "tool", tool, ""));
    let hinted = |explained: &Explanation, words: &str| {
        assert!(
            explained.hints.iter().any(|hint| hint.contains(words)),
            "no {words:?} in {:?}",
            explained.hints
        );
    };
    for slip in ["Read_customer", "read-customer", "read_custmer"] {
        let explained = ask("customer-ops", slip);
        assert!(explained.rules.is_empty() && explained.intents.is_empty());
        assert!(matches!(&explained.decision, Decision::Deny(deny) if deny.code() == DenyCode::NoIntent));
        hinted(&explained, "did you mean \"read_customer\"?");
    }
    hinted(&ask("customer-ops", "Read_File"), "files.read names this tool on the server files");
    let prompt = written.explain(&asked("support-agent", "customer-ops", "prompt", "read_customer", ""));
    hinted(&prompt, "data.customer.read names the tool \"read_customer\", which is not the prompt");
}

#[test]
fn rules_of_others_and_patterns_that_nearly_match_are_named_with_what_keeps_them_away() {
    let written = written(
        "agents:
  narrow: {client_id: n, servers: [files]}
policies:
  - {name: below, intent: \"data.customer.update.*\", agents: [lookup-agent], decision: allow}
  - {name: above, intent: data.customer, agents: [lookup-agent], decision: allow}
  - {name: elsewhere, intent: data.customer.read, agents: [narrow], decision: allow}
intents:
  data.customer: [{server: files, tool: a}]
  data.customer.update.name: [{server: files, tool: b}]",
    );
    let update = written.explain(&asked("lookup-agent", "customer-ops", "tool", "update_account", ""));
    assert_eq!(near(&update), [("above", Nearness::Intent), ("below", Nearness::Intent)]);
    let why: Vec<&str> = update.near.iter().map(|near| &*near.why).collect();
    assert!(why[0].contains("data.customer.* would match it") && why[1].contains("what is below"), "{why:?}");
    assert_eq!(update.is_listed, Some(false));
    assert!(
        update.hints[0].contains("a rule that allows data.customer.update to lookup-agent"),
        "{update:?}"
    );

    let narrow = written.explain(&asked("narrow", "customer-ops", "tool", "read_customer", ""));
    assert_eq!(near(&narrow), [("elsewhere", Nearness::Server), ("seed.yaml:4", Nearness::Agent)]);
    assert!(narrow.hints[0].contains("`servers` in the entry of narrow"), "{narrow:?}");
}

#[test]
fn every_deny_rule_is_told_and_one_of_them_decides() {
    let written = written(
        "policies:\n  - {name: also, intent: \"*\", agents: [lookup-agent], decision: deny, reason: \"Not today\"}",
    );
    let explained = written.explain(&asked("lookup-agent", "customer-ops", "tool", "read_customer", ""));
    let told: Vec<_> =
        explained.rules.iter().map(|r| (r.rule.as_str(), r.effect, r.decides, &r.applies)).collect();
    let yes = &Applies::Yes;
    assert_eq!(told, [("also", Effect::Deny, true, yes), ("seed.yaml:4", Effect::Allow, false, yes)]);
    let refund = written.explain(&asked("lookup-agent", "customer-ops", "tool", "process_refund", ""));
    let names: Vec<_> = refund.rules.iter().map(|rule| rule.rule.as_str()).collect();
    assert_eq!(names, ["also", "seed.yaml:15"]);
    assert_eq!(refund.rules.iter().filter(|rule| rule.decides).count(), 1);
}

#[test]
fn a_rule_in_shadow_is_told_as_one() {
    let written = written(
        "policies:
  - {name: trial, intent: data.customer.*, agents: [lookup-agent], decision: deny, shadow: true}",
    );
    let told = |tool: &str| written.explain(&asked("lookup-agent", "customer-ops", "tool", tool, ""));
    // Beside a rule that binds it is judged, and decides nothing.
    let read = told("read_customer");
    assert!(matches!(read.decision, Decision::Allow(_)));
    let rules: Vec<_> =
        read.rules.iter().map(|rule| (rule.rule.as_str(), rule.is_shadow, rule.decides)).collect();
    assert_eq!(rules, [("seed.yaml:4", false, true), ("trial", true, false)]);
    assert_eq!((read.rules[1].effect, &read.rules[1].applies), (Effect::Deny, &Applies::Yes));
    // Alone it is no rule for the call.
    let update = told("update_account");
    assert!(update.rules.is_empty() && near(&update).contains(&("trial", Nearness::Shadow)), "{update:?}");
}

#[test]
fn a_method_of_the_protocol_is_open_without_a_rule() {
    let written = written("");
    let ping = written.explain(&asked("lookup-agent", "customer-ops", "method", "ping", ""));
    assert!(matches!(&ping.decision, Decision::Allow(allow) if allow.rule().as_str() == "protocol"));
    assert!(ping.rules.is_empty() && ping.near.is_empty() && ping.is_listed.is_none());
    assert!(ping.hints[0].contains("open wherever the agent has a grant"));
}

#[test]
fn a_name_that_the_files_do_not_have_is_told_with_what_was_meant() {
    let written = written("");
    let told = |agent: &str, server: &str, profile: Option<&str>| {
        let mut asked = asked(agent, server, "tool", "read_customer", "");
        asked.profile = profile.map(|profile| ProfileName::parse(profile).unwrap());
        written.unknown_name(&asked).map(|(key, _, hint)| (key, hint.unwrap_or_default()))
    };
    assert_eq!(told("lookup-agent", "customer-ops", Some("default")), None);
    assert_eq!(told("lookup-agnt", "x", None), Some(("agent", "did you mean \"lookup-agent\"?".into())));
    assert_eq!(
        told("lookup-agent", "customer_ops", None),
        Some(("server", "did you mean \"customer-ops\"?".into()))
    );
    assert_eq!(
        told("lookup-agent", "files", Some("Default")),
        Some(("profile", "did you mean \"default\"?".into()))
    );
}

#[test]
fn near_rules_are_bounded_and_the_rest_is_counted() {
    use std::fmt::Write as _;
    let mut more = String::from("policies:\n");
    for number in 0..NEAR_RULES_MAX + 7 {
        writeln!(
            more,
            "  - {{name: r{number}, intent: data.customer.update, agents: [support-agent], decision: allow}}"
        )
        .unwrap();
    }
    let explained =
        written(&more).explain(&asked("lookup-agent", "customer-ops", "tool", "update_account", ""));
    assert_eq!((explained.near.len(), explained.near_left_off), (NEAR_RULES_MAX, 7));
}

#[test]
fn a_rule_that_would_only_hold_what_none_allows_is_told_as_such() {
    let written = written(
        "policies: [{name: busy, intent: data.customer.update, agents: [lookup-agent], decision: escalate, conditions: {in_session: true}}]",
    );
    let mut update = asked("lookup-agent", "customer-ops", "tool", "update_account", "{}");
    let explained = written.explain(&update);
    assert!(matches!(&explained.decision, Decision::Deny(deny) if deny.code() == DenyCode::DefaultDeny));
    let hint = "busy would only hold it; no rule allows it";
    assert!(explained.hints.iter().any(|told| told == hint), "{:?}", explained.hints);
    update.session = Within::of(0, 0);
    assert!(matches!(written.explain(&update).decision, Decision::Hold(_)));
}
