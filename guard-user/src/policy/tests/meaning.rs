//! Intents that a call means only with some arguments.

use super::*;
use crate::types::IntentName;

const POLICY: &str = r"
agents: {a: {client_id: a, profiles: [default, soft]}}
intents:
  code.push: [{server: customer-ops, tool: push}]
  code.push.force:
    - {server: customer-ops, tool: push, facts: {force: {flag: options.force, absent: false}}, when: {force_is: true}}
  files.public: [{server: customer-ops, tool: read, facts: {file: {path: path}}, when: {file_in: [/srv/public]}}]
  files.private: [{server: customer-ops, tool: read, facts: {file: {path: path}}, when: {file_in: [/srv/private]}}]
policies:
  - {intent: code.push, agents: [a], decision: allow}
  - {name: no-force, intent: code.push.force, agents: [a], decision: deny, reason: Never by force}
  - {intent: files.public, agents: [a], decision: allow}
profiles:
  soft: {intents: [code.push, files.public]}
velocity_rules:
  - {agent: a, intent: files.private, window: 1m, max_calls: 1, exceeded_action: deny}
  - {agent: a, intent: files.public, window: 1m, max_cost: 9, costs: {files.private: 7, files.public: 2}, exceeded_action: deny}
";

fn decide(tool: &str, arguments: &str) -> Decision {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap_or_else(|problems| panic!("{problems}"));
    let arguments = crate::rpc::json::parse(arguments.as_bytes(), 8).unwrap();
    ask(&policy, "a", Target::Tool(tool), Some(&arguments))
}

#[test]
fn an_intent_whose_when_is_not_met_is_not_meant_and_one_that_cannot_be_judged_refuses() {
    for arguments in ["{}", r#"{"options": {}}"#, r#"{"options": {"force": false}}"#] {
        let Decision::Allow(allow) = decide("push", arguments) else { panic!("{arguments}") };
        let intents: Vec<_> = allow.intents().iter().map(IntentName::as_str).collect();
        assert_eq!(intents, ["code.push"]);
    }
    let deny = denied(decide("push", r#"{"options": {"force": true}}"#));
    assert_eq!((deny.code(), deny.reason()), (DenyCode::DeniedByRule, "Never by force"));
    for arguments in [
        r#"{"options": {"force": "true"}}"#,
        r#"{"options": {"force": 1}}"#,
        r#"{"options": {"force": null}}"#,
        r#"{"options": {"Force": true}}"#,
        r#"{"options": "--force"}"#,
        r#"{"options": [{"force": true}]}"#,
        r#"{"Options": {"force": true}}"#,
    ] {
        let deny = denied(decide("push", arguments));
        assert_eq!(deny.code(), DenyCode::ConditionFailed, "{arguments}: {}", deny.reason());
        assert!(deny.reason().starts_with("what the call means cannot be told"), "{}", deny.reason());
    }
}

#[test]
fn what_means_nothing_is_refused_like_what_has_no_name_and_what_means_several_things_is_not_guessed() {
    let Decision::Allow(allow) = decide("read", r#"{"path": "/srv/public/x"}"#) else { panic!("is allowed") };
    // The rule about what it does not mean counts nothing, and neither does that one's cost.
    let [meter] = allow.velocity() else { panic!("{:?}", allow.velocity()) };
    assert_eq!((meter.rule.max, meter.weight), (9, 2));
    let deny = denied(decide("read", r#"{"path": "/etc/passwd"}"#));
    assert_eq!((deny.code(), deny.is_hidden(), deny.intents().len()), (DenyCode::NoIntent, false, 0));
    assert!(
        deny.reason().contains("it is not files.private: file names something else"),
        "{}",
        deny.reason()
    );
    let deny = denied(decide("read", r#"{"path": "/srv/private/x"}"#));
    assert_eq!((deny.code(), deny.intents()[0].as_str()), (DenyCode::DefaultDeny, "files.private"));
    for unclear in [
        r#"{"path": ["/srv/public/x", "/etc/passwd"]}"#,
        r#"{"path": ["/srv/public/x", "/srv/private/x"]}"#,
        r#"{"path": "/srv/public/../private/x"}"#,
        r#"{"path": []}"#,
        "{}",
    ] {
        assert_eq!(denied(decide("read", unclear)).code(), DenyCode::ConditionFailed, "{unclear}");
    }
}

#[test]
fn a_profile_admits_by_what_a_call_means_and_lists_show_what_some_call_may() {
    let policy = policy(&[("p.yaml", POLICY)]).unwrap();
    let (agent, server) = (AgentName::parse("a").unwrap(), ServerName::parse("customer-ops").unwrap());
    let soft = ProfileName::parse("soft").unwrap();
    let put = |arguments: &str| {
        let arguments = crate::rpc::json::parse(arguments.as_bytes(), 8).unwrap();
        let (method, target) = ("tools/call", Target::Tool("push"));
        let (profile, arguments) = (Some(&soft), Some(&arguments));
        let around = Circumstances::default();
        policy.decide(&Question {
            agent: &agent,
            profile,
            server: &server,
            method,
            target,
            arguments,
            around,
        })
    };
    assert!(matches!(put("{}"), Decision::Allow(_)));
    assert!(matches!(put(r#"{"options": {"force": true}}"#), Decision::Deny(_)));
    for profile in [None, Some(&soft)] {
        for tool in ["push", "read"] {
            assert!(policy.may_see(&agent, profile, &server, Target::Tool(tool)), "{tool} {profile:?}");
        }
    }
}

#[test]
fn what_is_explained_tells_which_intents_a_call_means_and_why_not_the_others() {
    let files = [(PathBuf::from("p.yaml"), POLICY.to_owned())];
    let written = Written::from_texts(&files, &[server("customer-ops")]).unwrap();
    let asked = Asked {
        agent: AgentName::parse("a").unwrap(),
        profile: None,
        server: ServerName::parse("customer-ops").unwrap(),
        what: What::Tool("push".into()),
        arguments: Some(Json::Object(Vec::new())),
        moment: None,
        read: Vec::new(),
        session: Within::Nothing,
        known: None,
        risk: None,
        user: None,
    };
    let explained = written.explain(&asked);
    assert!(matches!(explained.decision, Decision::Allow(_)));
    let intents: Vec<_> = explained.intents.iter().map(IntentName::as_str).collect();
    assert_eq!(intents, ["code.push"]);
    let [meant] = &explained.meant[..] else { panic!("{:?}", explained.meant) };
    assert_eq!(
        (meant.intent.as_str(), &meant.when[..]),
        ("code.push.force", &["force_is: true".to_owned()][..])
    );
    assert_eq!(meant.applies, Applies::No("force is false".into()));
    assert!(explained.rules.iter().all(|rule| rule.rule.as_str() != "no-force"), "{:?}", explained.rules);
}
