//! Conditions in whole rules: which decision they make, and on what.

use super::*;
use crate::kernel::Evidence;
use crate::kernel::process::Place;
use crate::types::LocalProcess;

pub(super) const HEAD: &str = "
agents: {a: {client_id: a}}
intents:
  pay:
    - server: customer-ops
      tool: pay
      facts: {amount: {number: amount}, payees: {domains: to}, currency: {text: currency}}
  mail: [{server: customer-ops, tool: mail, facts: {files: {path: files}}}]
policies:
";

fn load(rules: &str) -> Policy {
    policy(&[("rules.yaml", &format!("{HEAD}{rules}"))]).unwrap_or_else(|problems| panic!("{problems}"))
}

fn json(text: &str) -> Json {
    crate::rpc::json::parse(text.as_bytes(), 8).unwrap()
}

pub(super) fn word(decision: &Decision) -> &'static str {
    match decision {
        Decision::Allow(_) => "allow",
        Decision::Hold(_) => "hold",
        Decision::Deny(deny) => deny.code().as_str(),
    }
}

fn decide(policy: &Policy, tool: &str, arguments: &str) -> &'static str {
    word(&ask(policy, "a", Target::Tool(tool), Some(&json(arguments))))
}

#[test]
fn a_deny_rule_denies_what_meets_it_and_what_cannot_be_judged() {
    let policy = load(
        "
  - {intent: pay, agents: [a], decision: allow}
  - {intent: pay, agents: [a], decision: deny, reason: Too much, conditions: {above_amount: 1000}}
  - {intent: mail, agents: [a], decision: deny, conditions: {files_in: [/etc]}}
",
    );
    for (arguments, decided) in [
        (r#"{"amount": 1000}"#, "allow"),
        (r#"{"amount": -1}"#, "allow"),
        (r#"{"amount": 1000.5}"#, "denied_by_rule"),
        (r#"{"amount": "1"}"#, "condition_failed"),
        (r#"{"amount": 9007199254740993}"#, "condition_failed"),
        (r#"{"Amount": 1}"#, "condition_failed"),
        (r#"{"amount": 1, "AMOUNT": 2000}"#, "condition_failed"),
        ("{}", "condition_failed"),
    ] {
        assert_eq!(decide(&policy, "pay", arguments), decided, "{arguments}");
    }
    let deny = denied(ask(&policy, "a", Target::Tool("pay"), Some(&json(r#"{"amount": 2000}"#))));
    assert_eq!((deny.reason(), deny.rule().unwrap().as_str()), ("Too much", "rules.yaml:12"));
    let deny = denied(ask(&policy, "a", Target::Tool("pay"), None));
    assert_eq!(deny.reason(), "condition cannot be judged: amount is missing (argument amount)");
    // One that is not met allows nothing by itself.
    for (arguments, decided) in [
        (r#"{"files": "/srv/x"}"#, "default_deny"),
        (r#"{"files": ["/srv/x", "/etc/passwd"]}"#, "denied_by_rule"),
        (r#"{"files": ["/srv/x", "/srv/../etc/passwd"]}"#, "condition_failed"),
    ] {
        assert_eq!(decide(&policy, "mail", arguments), decided, "{arguments}");
    }
}

#[test]
fn what_a_deny_rule_may_leave_is_shown_and_what_it_never_leaves_is_not() {
    let seen = |rules: &str| {
        let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
        load(rules).may_see(&agent, None, &server, Target::Tool("pay"))
    };
    let allow = "  - {intent: pay, agents: [a], decision: allow}\n";
    assert!(seen(&format!(
        "{allow}  - {{intent: pay, agents: [a], decision: deny, conditions: {{above_amount: 1}}}}"
    )));
    assert!(!seen(&format!("{allow}  - {{intent: pay, agents: [a], decision: deny}}")));
    assert!(!seen("  - {intent: pay, agents: [a], decision: deny, conditions: {above_amount: 1}}"));
}

#[test]
fn money_goes_to_known_payees_a_person_decides_on_others_and_unclear_ones_get_none() {
    let policy = load(
        "
  - {intent: pay, agents: [a], decision: allow, conditions: {payees_in: [good.example], currency_in: [EUR], max_amount: 10}}
  - {intent: pay, agents: [a], decision: escalate, conditions: {payees_not_in: [good.example]}}
",
    );
    let pay = |to: &str, currency: &str| {
        let arguments = format!(r#"{{"amount": 1, "to": {to}, "currency": "{currency}"}}"#);
        decide(&policy, "pay", &arguments)
    };
    assert_eq!(pay(r#""a@good.example""#, "EUR"), "allow");
    assert_eq!(pay(r#"["a@good.example", "b@GOOD.example"]"#, "EUR"), "allow");
    assert_eq!(pay(r#""a@good.example""#, "USD"), "condition_failed");
    assert_eq!(pay(r#""a@good.example""#, "eur"), "condition_failed");
    assert_eq!(pay(r#"["a@good.example", "b@other.example"]"#, "EUR"), "hold");
    for unclear in
        [r#""a@other.example@good.example""#, r#""\"a@good.example\" <b@other.example>""#, "[]", "7"]
    {
        assert_eq!(pay(unclear, "EUR"), "condition_failed", "{unclear}");
    }
}

#[test]
fn times_and_sources_come_with_the_question() {
    let policy = load(
        "
  - intent: mail
    agents: [a]
    decision: allow
    conditions:
      time_of_day: {from: '08:00', to: '18:00'}
      weekdays: [mon, tue, wed, thu, fri]
      zone: '+01:00'
      source: {uid: [1000, 1001], unit: [agent.service], remote: false}
  - {intent: pay, agents: [a], decision: allow}
  - {intent: pay, agents: [a], decision: deny, conditions: {source: {remote: true}}}
  - {intent: pay, agents: [a], decision: deny, conditions: {source: {unit: [banned.service]}}}
  - {intent: pay, agents: [a], decision: deny, conditions: {source: {uid: [1999]}}}
",
    );
    let decide = |tool, moment: Option<&str>, client: Option<&Client>| {
        let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
        let around = Circumstances {
            moment: moment.map(|moment| moment.parse().unwrap()),
            client,
            ..Circumstances::default()
        };
        let (method, target) = ("tools/call", Target::Tool(tool));
        word(&policy.decide(&Question {
            agent: &agent,
            profile: None,
            server: &server,
            method,
            target,
            arguments: None,
            around,
        }))
    };
    let process = |uid: u32, path: &str| Evidence {
        process: LocalProcess {
            pid: 7,
            uid,
            gid: 0,
            cgroup: 1,
            comm: "agent".into(),
            cookie: 5,
            connected_at: 6,
        },
        cgroup_path: Some(path.into()),
        place: Place::of(path),
        running: None,
    };
    let (unit, monday) = ("/system.slice/agent.service", "2026-11-23T07:00:00Z");
    let agent = Client::Process(process(1000, unit));
    assert_eq!(decide("mail", Some(monday), Some(&agent)), "allow");
    for (moment, client) in [
        (Some("2026-11-23T06:59:59Z"), Some(&agent)),
        (Some("2026-11-22T07:00:00Z"), Some(&agent)),
        (None, Some(&agent)),
        (Some(monday), None),
        (Some(monday), Some(&Client::Remote)),
        (Some(monday), Some(&Client::UnknownLocal)),
        (Some(monday), Some(&Client::Relay { name: "socat", evidence: process(1000, unit) })),
        (Some(monday), Some(&Client::Neighbour { relay: None, evidence: process(1000, unit) })),
        (Some(monday), Some(&Client::Process(process(1002, unit)))),
        (Some(monday), Some(&Client::Process(process(1000, "/system.slice/other.service")))),
        (
            Some(monday),
            Some(&Client::Process(process(
                1000,
                "/system.slice/docker-0123456789ab0123456789ab0123456789ab0123456789ab0123456789abcdef.scope",
            ))),
        ),
    ] {
        assert_eq!(decide("mail", moment, client), "condition_failed", "{moment:?} {client:?}");
    }
    // A deny rule about other hosts takes in who may be on one.
    assert_eq!(decide("pay", None, Some(&agent)), "allow");
    assert_eq!(decide("pay", None, Some(&Client::Remote)), "denied_by_rule");
    // Whoever left a cgroup that is gone may have come from any.
    for banned in [process(1000, "/system.slice/banned.service"), process(1999, unit)] {
        assert_eq!(decide("pay", None, Some(&Client::Process(banned))), "denied_by_rule");
    }
    for gone in [
        Evidence { cgroup_path: None, place: Place::default(), ..process(1000, unit) },
        process(1000, "/../agent.service"),
    ] {
        assert_eq!(decide("pay", None, Some(&Client::Process(gone))), "condition_failed");
    }
    let relay = Client::Relay { name: "socat", evidence: process(0, "/") };
    for unknown in [None, Some(&Client::UnknownLocal), Some(&relay)] {
        assert_eq!(decide("pay", None, unknown), "condition_failed", "{unknown:?}");
    }
}

#[test]
fn a_list_of_a_condition_has_a_bound() {
    let rule = |count: usize| {
        let entries: Vec<_> = (0..count).map(|n| format!("c{n}")).collect();
        let conditions = format!("{{currency_in: [{}]}}", entries.join(", "));
        let text =
            format!("{HEAD}  - {{intent: pay, agents: [a], decision: allow, conditions: {conditions}}}");
        policy(&[("rules.yaml", &text)])
    };
    assert!(rule(CONDITION_ENTRIES_MAX).is_ok());
    let problems = rule(CONDITION_ENTRIES_MAX + 1).unwrap_err().to_string();
    assert!(problems.contains("currency_in has more than 10000 entries"), "{problems}");
}
