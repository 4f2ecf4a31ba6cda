//! Flow rules, the mark as a condition, and what answers go through.

use super::*;
use crate::inspect::{Kind, Kinds};

const RULES: &str = "
agents: {a: {client_id: c}, b: {client_id: c}}
intents:
  crm.read: [{server: customer-ops, tool: read, label: confidential}, {server: files, resource: 'f:/crm/*', label: restricted}]
  files.read: [{server: files, resource: 'f:/*', label: internal, sink: internal}]
  mail.send: [{server: customer-ops, tool: mail, sink: external}]
  note.write: [{server: customer-ops, tool: note, sink: internal}]
  other: [{server: customer-ops, tool: other}]
  pay: [{server: customer-ops, tool: pay, sink: internal}]
  ask: [{server: customer-ops, server_request: sampling/createMessage}]
policies:
  - {intent: '*', agents: [a, b], decision: allow}
  - {name: pay-late, intent: pay, agents: [a, b], decision: escalate, conditions: {above_mark: internal}}
flow_rules:
  - {name: no-leak, after: confidential, sink: external, decision: deny}
  - {name: b-asks, after: internal, sink: external, agents: [b], decision: escalate, reason: 'Ask first', escalation: {type: single, reviewers: ['role:dpo']}}
  - {name: trial, after: internal, sink: internal, decision: deny, shadow: true}
inspect:
  - {name: mask-mail, server: customer-ops, detect: [email, card], action: mask}
  - {name: no-keys, intent: crm.*, agents: [a], detect: [secret], action: refuse, min_hits: 2}
";

fn ask(agent: &str, target: Target<'_>, read: Option<&[&str]>) -> Decision {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let server = if matches!(target, Target::Resource(_)) { "files" } else { "customer-ops" };
    let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse(server).unwrap());
    let read: Option<Vec<LabelName>> =
        read.map(|read| read.iter().map(|name| LabelName::parse(name).unwrap()).collect());
    let around = Circumstances { read: read.as_deref(), ..Circumstances::default() };
    policy.decide(&Question {
        agent: &agent,
        profile: None,
        server: &server,
        method: "",
        target,
        arguments: None,
        around,
    })
}

fn word(decision: &Decision) -> String {
    match decision {
        Decision::Allow(allow) => {
            let shadow: Vec<_> = allow.would_deny().iter().map(RuleName::as_str).collect();
            format!("allow {}", shadow.join(" ")).trim_end().into()
        }
        Decision::Hold(hold) => format!("hold {}", hold.rule()),
        Decision::Deny(deny) => format!("{} {}", deny.code().as_str(), deny.rule().unwrap()),
    }
}

#[test]
fn who_has_read_so_much_may_not_send_there() {
    let told = |agent, tool, read: &[&str]| word(&ask(agent, Target::Tool(tool), Some(read)));
    assert_eq!(told("a", "mail", &[]), "allow");
    assert_eq!(told("a", "mail", &["internal"]), "allow");
    assert_eq!(told("a", "mail", &["internal", "confidential"]), "flow no-leak");
    assert_eq!(told("a", "mail", &["restricted"]), "flow no-leak");
    assert_eq!(told("a", "mail", &["of-an-older-policy"]), "flow no-leak");
    // What names no sink may send anywhere.
    assert_eq!(told("a", "other", &["confidential"]), "flow no-leak");
    assert_eq!(told("a", "note", &["restricted"]), "allow trial");
    assert_eq!(told("b", "mail", &["internal"]), "hold b-asks");
    assert_eq!(told("b", "mail", &["confidential"]), "flow no-leak", "deny wins");
    assert_eq!(told("a", "pay", &["internal"]), "allow trial");
    assert_eq!(told("a", "pay", &["confidential"]), "hold pay-late");
    let Decision::Hold(hold) = ask("b", Target::Tool("mail"), Some(&["internal"])) else { panic!("is held") };
    assert_eq!((hold.reason(), hold.reviewers()), ("Ask first", &["role:dpo".to_owned()][..]));
    // A server's question is a way out, too.
    let sampling = Target::ServerRequest("sampling/createMessage");
    assert_eq!(word(&ask("a", sampling, Some(&["confidential"]))), "flow no-leak");
}

#[test]
fn without_knowing_what_was_read_nothing_leaves() {
    for tool in ["mail", "other"] {
        assert_eq!(word(&ask("a", Target::Tool(tool), None)), "condition_failed no-leak");
    }
    assert_eq!(word(&ask("a", Target::Tool("pay"), None)), "condition_failed pay-late");
    assert_eq!(word(&ask("a", Target::Tool("note"), None)), "allow trial");
}

#[test]
fn an_answer_carries_the_highest_label_that_is_said_of_it_and_an_unlabelled_one_the_highest_of_all() {
    let label = |target| match ask("a", target, Some(&[])) {
        Decision::Allow(allow) => allow.label().map(|label| label.as_str().to_owned()),
        other => panic!("{other:?}"),
    };
    assert_eq!(label(Target::Tool("read")).as_deref(), Some("confidential"));
    assert_eq!(label(Target::Tool("other")).as_deref(), Some("restricted"));
    assert_eq!(label(Target::Resource("f:/x")).as_deref(), Some("internal"));
    assert_eq!(label(Target::Resource("f:/crm/x")).as_deref(), Some("restricted"));
    assert_eq!(label(Target::ServerRequest("sampling/createMessage")), None);
    assert_eq!(label(Target::ServerRequest("roots/list")), None, "the protocol's own");
}

#[test]
fn an_answer_goes_through_the_rules_of_its_target_and_an_unknown_one_through_all() {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let rules = |agent, server, about| -> Vec<String> {
        let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse(server).unwrap());
        let inspection = policy.inspection(&agent, &server, about);
        inspection.iter().flat_map(|all| &all.rules).map(|rule| rule.rule.to_string()).collect()
    };
    let tool = |name| Some((Target::Tool(name), "tools/call"));
    assert_eq!(rules("a", "customer-ops", tool("read")), ["mask-mail", "no-keys"]);
    assert_eq!(rules("b", "customer-ops", tool("read")), ["mask-mail"]);
    assert_eq!(rules("a", "customer-ops", tool("mail")), ["mask-mail"]);
    assert_eq!(rules("a", "customer-ops", Some((Target::Method, "tools/list"))), ["mask-mail"]);
    assert_eq!(rules("a", "customer-ops", None), ["mask-mail", "no-keys"]);
    assert_eq!(rules("a", "files", Some((Target::Resource("f:/crm/x"), ""))), ["no-keys"]);
    assert_eq!(rules("a", "files", Some((Target::Resource("f:/x"), ""))), [""; 0]);
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let all = policy.inspection(&agent, &server, None).unwrap();
    assert_eq!(all.kinds, Kinds::from_iter([Kind::Email, Kind::Card, Kind::Secret]));
}
