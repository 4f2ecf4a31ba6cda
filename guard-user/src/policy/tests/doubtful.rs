//! What policies are taken with, and warned of.

use super::policy;

fn told(text: &str) -> Vec<String> {
    let policy = policy(&[("p.yaml", text)]).unwrap_or_else(|problems| panic!("{problems}"));
    policy.warnings().iter().map(ToString::to_string).collect()
}

const FLOW: &str = "
agents: {a: {client_id: a}}
intents:
  read: [{server: customer-ops, tool: read, label: internal}, {server: customer-ops, tool: look}]
  send: [{server: customer-ops, tool: send}]
policies: [{intent: '*', agents: [a], decision: allow}]
";

#[test]
fn what_counts_as_restricted_since_nobody_labels_it_is_told_where_rules_are_in_force() {
    let rule =
        |after: &str| format!("{FLOW}flow_rules: [{{after: {after}, sink: external, decision: deny}}]\n");
    let unlabelled = "p.yaml:4:72: flow rules are in force and 2 matchers have no label (first: customer-ops look): \
        what they answer counts as restricted; set `default_label`, or label them";
    assert_eq!(told(FLOW), [""; 0]);
    assert_eq!(told(&rule("internal")), [unlabelled]);
    assert_eq!(told(&format!("{}default_label: internal\n", rule("internal"))), [""; 0]);
    let mark = FLOW.replace("decision: allow", "decision: allow, conditions: {max_mark: internal}");
    assert_eq!(told(&mark), [unlabelled]);
    let lowest = "p.yaml:7:22: `after: public` is always met, since no label is lower; \
        name the lowest label of which nothing may go there";
    assert_eq!(told(&format!("{}default_label: internal\n", rule("public"))), [lowest]);
}

#[test]
fn a_ceiling_below_all_that_an_agent_may_do_is_told() {
    let with = |max: u8| {
        format!(
            "
agents: {{a: {{client_id: a, profiles: [calm]}}, b: {{client_id: b}}}}
intents:
  read: [{{server: customer-ops, tool: read, risk: {{base: 30}}}}]
  pay: [{{server: customer-ops, tool: pay, risk: {{base: 90}}}}, {{server: customer-ops, tool: read, risk: {{base: 20}}}}]
policies: [{{intent: '*', agents: [a, b], decision: allow}}]
profiles: {{calm: {{max_risk: {max}}}}}
"
        )
    };
    assert_eq!(told(&with(30)), [""; 0], "of two intents the riskier one counts");
    let words = "p.yaml:7:12: the profile calm leaves a nothing: its max_risk is 29, and the least score of what a may is 30; \
        raise max_risk, or give what is harmless a `class: read`";
    assert_eq!(told(&with(29)), [words]);
}

#[test]
fn a_condition_on_the_user_of_agents_that_name_none_is_told() {
    let with = |agents: &str, source: &str| {
        told(&format!(
            "
agents:
  a: {{client_id: a}}
  t: {{client_id: t, needs: [token], token: {{issuer: corp, subject: t}}}}
intents: {{read: [{{server: customer-ops, tool: read}}]}}
policies: [{{intent: read, agents: [{agents}], decision: allow, conditions: {{source: {{{source}}}}}}}]
"
        ))
    };
    for (agents, source) in
        [("t", "user_in: [alice]"), ("a, t", "user_not_in: [alice]"), ("a", "remote: false")]
    {
        assert_eq!(with(agents, source), [""; 0], "{agents} {source}");
    }
    for key in ["user_in", "user_not_in"] {
        let told = with("a", &format!("{key}: [alice]"));
        let words =
            format!("{key} asks for a user, and no agent of this rule shows a token that could name one");
        assert!(matches!(&told[..], [one] if one.contains(&words)), "{told:?}");
    }
}
