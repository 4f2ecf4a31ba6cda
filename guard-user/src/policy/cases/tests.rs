//! Cases are read strictly, and the shipped ones hold.

use super::*;
use crate::policy::tests::server;

const AGENTS: &str = include_str!("../../../../policies/examples/customer-ops/policies/agents.yaml");
const SEED: &str = include_str!("../../../../policies/examples/customer-ops/policies/seed.yaml");
const CASES: &str = include_str!("../../../../policies/examples/customer-ops/policies/tests/seed.yaml");

fn written(seed: &str) -> Written {
    let files = [("agents.yaml", AGENTS), ("seed.yaml", seed)].map(|(name, text)| (name.into(), text.into()));
    Written::from_texts(&files, &[server("customer-ops")]).unwrap()
}

fn parsed(text: &str, written: &Written) -> Result<Vec<Case>, Problems> {
    let mut cases = Vec::new();
    read_text(Path::new("cases.yaml"), text, written, &mut cases).or(())?;
    Ok(cases)
}

fn failed(written: &Written, cases: &str) -> Vec<String> {
    let cases = parsed(cases, written).unwrap();
    let failed = cases.iter().filter(|case| !case.differences(&written.explain(&case.asked)).is_empty());
    failed.map(|case| case.name.clone()).collect()
}

#[test]
fn every_mistake_in_a_case_is_told_with_its_line_and_what_was_meant() {
    let written = written(SEED);
    let said = |text: &str| parsed(text, &written).expect_err(text).to_string();
    assert!(crate::config::golden::compare("src/policy/testdata/case-mistakes.txt", said) >= 20);
}

#[test]
fn the_shipped_cases_hold_and_no_change_of_the_shipped_policy_goes_unseen() {
    assert_eq!(failed(&written(SEED), CASES), Vec::<String>::new());
    for (from, to, seen) in [
        ("max_recipients: 10", "max_recipients: 11", "and not to eleven"),
        ("max_recipients: 10", "max_recipients: 9", "support writes to ten people at a time"),
        ("decision: escalate", "decision: allow", "a refund waits for a support lead"),
        (
            "agents: [lookup-agent, support-agent, analytics-agent]",
            "agents: [support-agent]",
            "everybody reads customers",
        ),
        ("Only support agents can", "You cannot", "no other agent refunds"),
        (
            "  - intent: comms.email.send\n    agents: [lookup-agent, analytics-agent]",
            "  - intent: comms.email.send\n    agents: [analytics-agent]",
            "lookup writes to nobody",
        ),
    ] {
        let changed = SEED.replacen(from, to, 1);
        assert_ne!(changed, SEED, "{from}");
        // The first `escalate` of the file is that of the policies; the other is a velocity rule's.
        let changed = if to == "decision: allow" {
            changed.replace("    escalation:\n      type: single\n      reviewers: [role:support-lead]\n", "")
        } else {
            changed
        };
        let failed = failed(&written(&changed), CASES);
        assert!(failed.iter().any(|name| name == seen), "{from} → {to}: {failed:?}");
    }
}

#[test]
fn each_thing_that_is_expected_is_compared() {
    let written = written(SEED);
    let refund = "agent: support-agent, server: customer-ops, tool: process_refund, expect: escalate";
    let read = "agent: lookup-agent, server: customer-ops, tool: read_customer, expect: allow";
    let update = "agent: lookup-agent, server: customer-ops, tool: update_account, expect: deny";
    let holds =
        |case: &str, more: &str| failed(&written, &format!("cases: [{{name: n, {case}{more}}}]")).is_empty();
    for (case, right, wrong) in [
        (refund, ", rule: 'seed.yaml:8'", ", rule: 'seed.yaml:9'"),
        (refund, ", intent: financial.refund.process", ", intent: financial.refund"),
        (refund, ", reason: 'role:support-lead'", ", reason: 'role:support-leader'"),
        (refund, ", listed: true", ", listed: false"),
        (update, ", code: default_deny", ", code: no_intent"),
        (update, ", listed: false", ", listed: true"),
        (read, ", rule: 'seed.yaml:4'", ", rule: protocol"),
    ] {
        assert!(holds(case, "") && holds(case, right), "{case}{right}");
        assert!(!holds(case, wrong), "{case}{wrong}");
    }
    for case in [refund, read, update] {
        for other in ["allow", "deny", "escalate"] {
            let (calls, expect) = case.rsplit_once(' ').unwrap();
            assert_eq!(holds(&format!("{calls} {other}"), ""), expect == other, "{case} {other}");
        }
    }
}

#[test]
fn arguments_mean_to_a_case_what_a_client_would_send() {
    let written = written(SEED);
    let text = "cases: [{name: n, agent: support-agent, server: customer-ops, tool: t, expect: deny, \
                arguments: {a: 1, b: 2.5, c: [x, true, null], d: {e: '1'}}}]";
    let case = parsed(text, &written).unwrap().remove(0);
    let sent = br#"{"a": 1, "b": 2.5, "c": ["x", true, null], "d": {"e": "1"}}"#;
    assert_eq!(case.asked.arguments, Some(crate::rpc::json::parse(sent, 64).unwrap()));
}

#[test]
fn without_files_of_cases_there_is_a_problem_and_no_success() {
    let dir = tempfile::tempdir().unwrap();
    assert!(files(dir.path()).unwrap_err().what.contains("no such directory"));
    let tests = dir.path().join(CASES_DIR);
    fs::create_dir(&tests).unwrap();
    assert!(files(dir.path()).unwrap_err().what.contains("no file of cases"));
    fs::write(tests.join(".draft.yaml"), "").unwrap();
    assert!(files(dir.path()).is_err());
    fs::write(tests.join("b.yaml"), "").unwrap();
    fs::write(tests.join("a.yaml"), "").unwrap();
    fs::write(tests.join("README.md"), "").unwrap();
    assert_eq!(files(dir.path()).unwrap(), [tests.join("a.yaml"), tests.join("b.yaml")]);
    fs::write(tests.join("c.yml"), "").unwrap();
    assert!(files(dir.path()).unwrap_err().what.contains("only files that end in .yaml"));
}
