//! Scores by policies, and rules that look at them.

use super::super::tests::policy;
use super::super::*;
use crate::risk::{Known, Score};
use crate::rpc::{Json, Target};
use crate::types::{AgentName, ServerName};

const POLICY: &str = "
agents: {a: {client_id: a}}
risk:
  working_hours: {time_of_day: {from: '08:00', to: '18:00'}, zone: UTC}
intents:
  data.read: [{server: customer-ops, tool: read, class: read}]
  pay:
    - server: customer-ops
      tool: pay
      facts: {amount: {number: amount}, to: {domains: to}, draft: {flag: draft, absent: false}}
      class: write
      risk:
        add:
          - {above_amount: 100, points: 20}
          - {above_amount: 1000, points: 30}
          - {to_not_in: [ours.example], points: 10}
  pay.draft:
    - {server: customer-ops, tool: pay, facts: {draft: {flag: draft, absent: false}}, when: {draft_is: true}, class: read}
  purge: [{server: customer-ops, tool: purge, risk: {base: 90}}]
  docs: [{server: customer-ops, resource: 'docs://*'}]
  unknown: [{server: customer-ops, tool: unknown}]
policies:
  - {intent: '*', agents: [a], decision: allow}
  - {name: watched, intent: '*', agents: [a], decision: escalate, conditions: {min_risk: 60}}
";

fn json(text: &str) -> Json {
    crate::rpc::json::parse(text.as_bytes(), 8).unwrap()
}

/// The score and the decision.
fn judge(target: Target<'_>, arguments: Option<&Json>, known: Known, hour: i64) -> (Option<Score>, Decision) {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap_or_else(|problems| panic!("{problems}"));
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let moment = Some(Timestamp::from_second(hour * 3600).unwrap());
    let mut question = Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/call",
        target,
        arguments,
        around: Circumstances { moment, ..Circumstances::default() },
    };
    let score = policy.risk(&question, Some(known));
    question.around.risk = score.as_ref().map(|score| score.score);
    let decision = policy.decide(&question);
    (score, decision)
}

fn told(tool: &str, arguments: &str, known: Known) -> String {
    judge(Target::Tool(tool), Some(&json(arguments)), known, 9).0.unwrap().to_string()
}

#[test]
fn classes_arguments_and_the_past_make_the_score() {
    let known = Known::default();
    assert_eq!(told("read", "{}", known), "5: class 5");
    assert_eq!(told("unknown", "{}", known), "40: class 40");
    assert_eq!(told("purge", "{}", known), "90: base 90");
    let ours = |amount: &str| format!(r#"{{"amount": {amount}, "to": "x@ours.example"}}"#);
    assert_eq!(told("pay", &ours("100"), known), "25: class 25");
    assert_eq!(told("pay", &ours("101"), known), "45: class 25, argument 20");
    assert_eq!(told("pay", &ours("1001"), known), "75: class 25, argument 20, argument 30");
    // What cannot be told weighs as if it were so.
    assert_eq!(told("pay", &ours("\"1\""), known), "75: class 25, argument 20, argument 30");
    assert_eq!(told("pay", r#"{"amount": 1}"#, known), "35: class 25, argument 10");
    let (score, _) = judge(Target::Resource("docs://x"), None, Known { is_new: true, ..known }, 9);
    assert_eq!(score.unwrap().to_string(), "20: class 5, new_tool 15");
    let (score, _) = judge(Target::Tool("read"), None, known, 20);
    let score = score.unwrap();
    assert_eq!(score.to_string(), "15: class 5, off_hours 10");
    assert!(score.terms[1].why.contains("08:00"), "{:?}", score.terms);
    // What no intent names has no score, and neither have the protocol's own methods.
    assert_eq!(judge(Target::Tool("nothing"), None, known, 9).0, None);
    assert_eq!(judge(Target::Method, None, known, 9).0, None);
}

#[test]
fn of_several_intents_the_riskiest_counts() {
    // A draft is a read, and is a payment all the same.
    let known = Known::default();
    assert_eq!(told("pay", r#"{"amount": 1, "to": "x@ours.example", "draft": true}"#, known), "25: class 25");
}

#[test]
fn a_rule_on_the_score_holds_what_is_risky_and_lets_the_rest_pass() {
    let known = Known::default();
    let decide = |tool, known| judge(Target::Tool(tool), None, known, 9).1;
    assert!(matches!(decide("read", known), Decision::Allow(_)));
    let Decision::Hold(hold) = decide("purge", known) else { panic!("must be held") };
    assert_eq!(hold.rule().as_str(), "watched");
    // The same call after many refusals.
    assert!(matches!(decide("unknown", known), Decision::Allow(_)));
    assert!(matches!(decide("unknown", Known { refused: 40, ..known }), Decision::Hold(_)));
}

#[test]
fn a_score_that_nobody_knows_refuses_what_a_rule_asks_it_of() {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let decision = policy.decide(&Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/call",
        target: Target::Tool("read"),
        arguments: None,
        around: Circumstances::default(),
    });
    let Decision::Deny(deny) = decision else { panic!("{decision:?}") };
    assert_eq!(deny.code(), DenyCode::ConditionFailed);
    assert!(deny.reason().contains("the risk of this call is not known"), "{}", deny.reason());
}

#[test]
fn a_policy_that_does_not_speak_of_risk_scores_nothing() {
    let text = "
agents: {a: {client_id: a}}
intents: {data.read: [{server: customer-ops, tool: read}]}
policies: [{intent: data.read, agents: [a], decision: allow}]
";
    let policy = policy(&[("p.yaml", text)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let question = Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "tools/call",
        target: Target::Tool("read"),
        arguments: None,
        around: Circumstances::default(),
    };
    assert_eq!(policy.risk(&question, Some(Known::default())), None);
    assert_eq!(policy.counted_as(&question).as_deref(), Some("tool:read"));
}

#[test]
fn there_is_one_risk_section() {
    let more = ("more.yaml", "risk: {new_tool: 5}\n");
    let problems = policy(&[("p.yaml", POLICY), more]).unwrap_err().to_string();
    assert!(problems.contains("p.yaml:4:3: there is another `risk` already; see more.yaml:1"), "{problems}");
}

#[test]
fn the_riskiest_of_what_a_call_means_counts_and_an_unknown_moment_is_outside_of_the_working_hours() {
    let policy = policy(&[(
        "p.yaml",
        "
agents: {a: {client_id: a}}
risk:
  working_hours: {time_of_day: {from: '08:00', to: '18:00'}, zone: UTC}
intents:
  a.look: [{server: customer-ops, tool: sync, facts: {all: {flag: all, absent: false}}, class: read}]
  b.wipe: [{server: customer-ops, tool: sync, facts: {all: {flag: all, absent: false}}, when: {all_is: true}, class: destructive}]
policies:
  - {intent: '*', agents: [a], decision: allow}
",
    )])
    .unwrap_or_else(|problems| panic!("{problems}"));
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let told = |arguments: &str, moment: Option<i64>| {
        let moment = moment.map(|hour| Timestamp::from_second(hour * 3600).unwrap());
        let question = Question {
            agent: &agent,
            profile: None,
            server: &server,
            method: "tools/call",
            target: Target::Tool("sync"),
            arguments: Some(&json(arguments)),
            around: Circumstances { moment, ..Circumstances::default() },
        };
        policy.risk(&question, None).unwrap().to_string()
    };
    assert_eq!(told(r#"{"all": true}"#, Some(9)), "50: class 50");
    assert_eq!(told(r#"{"all": false}"#, Some(9)), "5: class 5", "it does not mean to wipe");
    assert_eq!(told("{}", None), "15: class 5, off_hours 10");
}
