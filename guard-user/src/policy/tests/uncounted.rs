//! Velocity rules that no call can be counted by.

use super::policy;

const POLICY: &str = "
agents:
  a: {client_id: a, profiles: [default, narrow], servers: [customer-ops]}
  b: {client_id: b}
intents:
  read: [{server: customer-ops, tool: read}, {server: files, tool: look}]
  pay: [{server: customer-ops, tool: pay}]
  shut: [{server: customer-ops, tool: shut}]
policies:
  - {intent: '*', agents: [a], decision: allow}
  - {intent: read, agents: [b], decision: escalate}
  - {intent: shut, agents: [a], decision: deny}
profiles:
  narrow: {intents: [pay]}
velocity_rules:
";

#[test]
fn a_rule_that_can_never_count_is_told_with_its_cause_and_one_that_can_is_not() {
    let told = |filter: &str| {
        let rule = format!("  - {{{filter}window: 60s, max_calls: 5, exceeded_action: deny}}\n");
        let policy =
            policy(&[("p.yaml", &format!("{POLICY}{rule}"))]).unwrap_or_else(|problems| panic!("{problems}"));
        let told: Vec<_> = policy.warnings().iter().map(ToString::to_string).collect();
        told.join("\n")
    };
    for counts in [
        "",
        "agent: a, ",
        "server: files, ",
        "agent: b, server: files, tool: look, intent: read, ",
        "profile: narrow, tool: pay, ",
        "agent: a, profile: default, tool: read, ",
    ] {
        assert_eq!(told(counts), "", "{counts}");
    }
    for (never, cause) in [
        ("server: files, tool: pay, ", "no intent names the tool \"pay\" of the server files"),
        ("tool: pay, intent: read, ", "no matcher of the tool \"pay\" means read"),
        ("server: files, intent: pay, ", "nothing of the server files means pay"),
        ("agent: b, profile: narrow, ", "b does not have the profile narrow"),
        ("agent: a, server: files, ", "a does not have a server of its calls among its `servers`"),
        ("profile: narrow, tool: read, ", "the profiles in which it would count admit no such call"),
        ("tool: shut, ", "no rule allows such a call"),
        ("agent: b, intent: pay, ", "no rule allows such a call to b"),
    ] {
        let words = format!("p.yaml:16:5: the velocity rule p.yaml:16 can never count a call; {cause}");
        assert_eq!(told(never), words);
    }
}
