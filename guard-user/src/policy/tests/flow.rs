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

/// What is said of a message of which no intent speaks.
fn sent(agent: &str, (server, method): (&str, &str), read: Option<&[&str]>, is_bare: bool) -> String {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse(server).unwrap());
    let read: Option<Vec<LabelName>> =
        read.map(|read| read.iter().map(|name| LabelName::parse(name).unwrap()).collect());
    let around = Circumstances { read: read.as_deref(), is_bare, ..Circumstances::default() };
    let (profile, target, arguments) = (None, Target::Method, None);
    let (agent, server) = (&agent, &server);
    word(&policy.decide(&Question { agent, profile, server, method, target, arguments, around }))
}

#[test]
fn the_protocols_own_messages_go_where_the_most_open_target_of_their_server_does() {
    // Beside `initialize`, an answer to the server: the pipeline asks about it as about a ping.
    for method in ["initialize", "ping", "logging/setLevel", "notifications/progress", "tools/list"] {
        let told = |agent, read: &[&str], is_bare| sent(agent, ("customer-ops", method), Some(read), is_bare);
        assert_eq!(told("a", &["internal"], false), "allow", "{method}");
        assert_eq!(told("a", &["confidential"], false), "flow no-leak", "{method}");
        assert_eq!(told("a", &["confidential"], true), "allow", "{method} says nothing");
        assert_eq!(told("b", &["internal"], false), "flow b-asks", "nobody approves {method}");
        assert_eq!(sent("a", ("customer-ops", method), None, false), "condition_failed no-leak");
        assert_eq!(sent("a", ("customer-ops", method), None, true), "allow");
    }
    // Of its resources one prefix is internal, and what is under another one is so by that.
    let told = |read: &[&str]| sent("a", ("files", "initialize"), Some(read), false);
    assert_eq!((told(&[]), told(&["restricted"])), ("allow".into(), "allow trial".into()));
}

/// An intent may name a message of the protocol's own, to say who may send it. That makes no call of it.
#[test]
fn a_message_of_the_protocols_own_that_an_intent_names_raises_no_mark_and_waits_for_nobody() {
    let (head, _inspect) = RULES.split_at(RULES.find("inspect:").unwrap());
    let named = head.replace(
        "  other: ",
        "  lists: [{server: customer-ops, method: tools/list}, {server: customer-ops, method: 'logging/*', label: confidential, sink: internal}]
  asked: [{server: customer-ops, method: prompts/list}]
  other: ",
    );
    let named = named.replace(
        "flow_rules:",
        "  - {name: by-a-person, intent: asked, agents: [a, b], decision: escalate}
flow_rules:
  - {name: late, after: restricted, sink: internal, decision: escalate}",
    );
    let policy = policy(&[("rules.yaml", &named)]).unwrap();
    let (agent, server) = (AgentName::parse("b").unwrap(), ServerName::parse("customer-ops").unwrap());
    let told = |method, read: &str, is_bare| {
        let read = [LabelName::parse(read).unwrap()];
        let around = Circumstances { read: Some(&read), is_bare, ..Circumstances::default() };
        let (profile, target, arguments) = (None, Target::Method, None);
        let question =
            Question { agent: &agent, profile, server: &server, method, target, arguments, around };
        let decision = policy.decide(&question);
        if let Decision::Allow(allow) = &decision {
            assert_eq!(allow.label(), None, "{method} carries nothing");
        }
        word(&decision)
    };
    for method in ["tools/list", "logging/setLevel"] {
        assert_eq!(told(method, "restricted", true), "allow", "{method} says nothing");
        assert!(policy.has_read(&[], &agent, &server, (Target::Method, method)), "{method}");
    }
    // Nobody approves what is no call.
    assert_eq!(told("tools/list", "internal", false), "flow b-asks");
    assert_eq!(told("logging/setLevel", "confidential", false), "allow trial", "its sink is internal");
    assert_eq!(told("logging/setLevel", "restricted", false), "flow late");
    assert_eq!(told("prompts/list", "public", true), "denied_by_rule by-a-person");
    // What else a pattern names is like a tool.
    let other = (Target::Method, "logging/get");
    assert!(!policy.has_read(&[], &agent, &server, other));
    assert_eq!(told_of(&policy, "b", "logging/get", "restricted"), "hold late");
}

fn told_of(policy: &Policy, agent: &str, method: &str, read: &str) -> String {
    let (agent, server) = (AgentName::parse(agent).unwrap(), ServerName::parse("customer-ops").unwrap());
    let read = [LabelName::parse(read).unwrap()];
    let around = Circumstances { read: Some(&read), ..Circumstances::default() };
    let (profile, target, arguments) = (None, Target::Method, None);
    word(&policy.decide(&Question {
        agent: &agent,
        profile,
        server: &server,
        method,
        target,
        arguments,
        around,
    }))
}

#[test]
fn a_server_asks_nobody_who_could_not_answer_it() {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let may_ask = |method, read: &str, about: Option<&str>| {
        let read = [LabelName::parse(read).unwrap()];
        let around = Circumstances { read: Some(&read), ..Circumstances::default() };
        let about = about.map(|tool| (Target::Tool(tool), "tools/call"));
        policy.may_ask((&agent, None), &server, method, around, about)
    };
    for method in ["roots/list", "elicitation/create"] {
        assert!(may_ask(method, "internal", None) && !may_ask(method, "confidential", None));
        assert!(may_ask(method, "confidential", Some("note")), "the call's sink is internal");
        assert!(!may_ask(method, "confidential", Some("mail")));
        assert!(!may_ask(method, "confidential", Some("unknown")));
    }
    // What an intent names goes where that says.
    assert!(!may_ask("sampling/createMessage", "confidential", Some("note")));
    assert!(may_ask("ping", "restricted", None));
}

/// The client answers on its own, and nobody can tell to what: so an intent that names the question opens no way for the answer.
#[test]
fn a_question_that_an_intent_calls_internal_is_not_asked_where_its_answer_could_not_go() {
    let rules = RULES.replace("sampling/createMessage}", "sampling/createMessage, sink: internal}");
    let policy = policy(&[("rules.yaml", &rules)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let read = [LabelName::parse("confidential").unwrap()];
    let around = Circumstances { read: Some(&read), ..Circumstances::default() };
    let may_ask = |about: Option<&str>| {
        let about = about.map(|tool| (Target::Tool(tool), "tools/call"));
        policy.may_ask((&agent, None), &server, "sampling/createMessage", around, about)
    };
    let (profile, target, arguments) = (None, Target::Method, None);
    let (agent, server) = (&agent, &server);
    let answer = Question { agent, profile, server, method: "ping", target, arguments, around };
    assert_eq!(word(&policy.decide(&answer)), "flow no-leak", "the answer by itself");
    assert!(!may_ask(None));
    assert!(may_ask(Some("note")) && !may_ask(Some("mail")), "a further round goes where its call does");
}

#[test]
fn what_more_than_its_id_is_said_of_a_task_is_sent_like_its_call() {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let server = ServerName::parse("customer-ops").unwrap();
    let told = |agent: &str, method, is_bare| {
        let (agent, read) = (AgentName::parse(agent).unwrap(), [LabelName::parse("internal").unwrap()]);
        let around = Circumstances { read: Some(&read), is_bare, ..Circumstances::default() };
        let (profile, arguments, target) = (None, None, Target::Tool("mail"));
        let (agent, server) = (&agent, &server);
        let question = Question { agent, profile, server, method, target, arguments, around };
        word(&policy.decide_assuming_conditions(&question))
    };
    for method in ["tasks/get", "tasks/update"] {
        assert_eq!(told("b", method, true), "allow");
        // The call had its approval, and this has none.
        assert_eq!(told("b", method, false), "flow b-asks");
        assert_eq!(told("a", method, false), "allow");
    }
}

#[test]
fn whoever_has_read_less_than_an_answer_carries_by_now_is_known() {
    let policy = policy(&[("rules.yaml", RULES)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let has_read = |read: &[&str], tool| {
        let read: Vec<_> = read.iter().map(|name| LabelName::parse(name).unwrap()).collect();
        policy.has_read(&read, &agent, &server, (Target::Tool(tool), "tools/call"))
    };
    assert!(!has_read(&[], "read") && !has_read(&["internal"], "read"));
    assert!(has_read(&["confidential"], "read") && has_read(&["of-an-older-policy"], "read"));
    assert!(!has_read(&["confidential"], "other"), "not labelled, so the highest");
    assert!(
        !has_read(&["confidential"], "gone") && has_read(&["restricted"], "gone"),
        "no rule speaks of it"
    );
    let method = (Target::Method, "tools/list");
    assert!(policy.has_read(&[], &agent, &server, method), "the protocol carries nothing");
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

#[test]
fn where_a_flow_rule_and_a_condition_refuse_the_flow_rule_is_told() {
    let rules = RULES.replace(
        "  - {intent: '*', agents: [a, b], decision: allow}",
        "  - {intent: '*', agents: [a, b], decision: allow, conditions: {max_mark: public}}",
    );
    let policy = policy(&[("rules.yaml", &rules)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let told = |read: &str| {
        let read = [LabelName::parse(read).unwrap()];
        let around = Circumstances { read: Some(&read), ..Circumstances::default() };
        let (profile, target, arguments) = (None, Target::Tool("mail"), None);
        let (agent, server) = (&agent, &server);
        let method = "tools/call";
        policy.decide(&Question { agent, profile, server, method, target, arguments, around })
    };
    assert_eq!(word(&told("confidential")), "flow no-leak");
    let Decision::Deny(deny) = told("internal") else { panic!("a condition is not met") };
    assert_eq!(deny.code(), DenyCode::ConditionFailed);
}

/// Streams, their ends and answers are asked about as pings.
#[test]
fn what_an_intent_says_of_pings_speaks_for_nothing_else() {
    let rules = RULES
        .replace("  other: ", "  pings: [{server: customer-ops, method: 'pi*', sink: internal}]\n  other: ");
    let policy = policy(&[("rules.yaml", &rules)]).unwrap();
    assert_eq!(told_of(&policy, "a", "ping", "confidential"), "flow no-leak");
}
