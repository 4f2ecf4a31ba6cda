//! The tools for who writes a policy, beside a guard that runs with it.

use std::path::Path;
use std::process::{Command, Output};

use guard_tests::process::program;
use guard_tests::scene::{Scene, apart, call, done, guard};
use serde_json::{Value, json};

const POLICY: &str = r"
agents:
  tester: {client_id: test-client, profiles: [default, other]}
  stranger: {client_id: strange-client}
intents:
  demo.open: [{server: demo, tool: open, facts: {amount: {number: amount}}}]
  demo.vetted: [{server: demo, tool: vetted}]
policies:
  - {name: may-open, intent: demo.open, agents: [tester], decision: allow, conditions: {max_amount: 10}}
  - {name: four-eyes, intent: demo.vetted, agents: [tester], decision: escalate}
velocity_rules:
  - {name: opens, intent: demo.open, window: 1d, max_calls: 3, exceeded_action: deny}
  - {name: of-tools, intent: demo.open, per: [agent, tool], window: 1h, max_calls: 50, exceeded_action: shadow}
";

fn scene() -> Scene {
    Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", POLICY)).unwrap()
}

const OPEN: [&str; 6] = ["--agent", "tester", "--server", "demo", "--tool", "open"];

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn what_is_explained_is_what_the_guard_does_with_what_it_has_counted_and_asking_counts_nothing() {
    apart(|| {
        let scene = scene();
        let explain = |arguments: &str| {
            scene.daemon.json("explain", &[&OPEN[..], &["--arguments", arguments]].concat()).unwrap()
        };
        let ask = |amount: u64| {
            let mut message = call(1, "open");
            message["params"]["arguments"] = json!({ "amount": amount });
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&message).bytes()).unwrap();
            line
        };
        let used = |told: &Value, at: usize| told["velocity"][at]["now"][0]["used"].clone();
        let before = explain(r#"{"amount": 10}"#);
        assert_eq!((&before["decision"], &before["rule"]), (&json!("allow"), &json!("may-open")), "{before}");
        let rules: Vec<_> = before["velocity"].as_array().unwrap().iter().map(|rule| &rule["rule"]).collect();
        assert_eq!(rules, ["of-tools", "opens"]);
        assert_eq!(before["velocity"][1]["now"], json!([]));
        for _ in 0..2 {
            let mut line = ask(10);
            scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(1));
        }
        for _ in 0..5 {
            let told = explain(r#"{"amount": 10}"#);
            assert_eq!((used(&told, 0), used(&told, 1)), (json!(2), json!(2)), "{told}");
            assert_eq!(told["velocity_note"], Value::Null);
        }
        let told = explain(r#"{"amount": 11}"#);
        assert_eq!(
            (&told["decision"], &told["code"]),
            (&json!("deny"), &json!("condition_failed")),
            "{told}"
        );
        let refused = ask(11).answer().unwrap().json();
        assert!(
            refused["result"]["content"][0]["text"].as_str().unwrap().contains("amount is 11"),
            "{refused}"
        );
        assert!(told["reason"].as_str().unwrap().contains("amount is 11"), "{told}");
        // What another agent has used is not told as this one's.
        let vetted = ["--agent", "stranger", "--server", "demo", "--tool", "open"];
        let stranger = scene.daemon.json("explain", &vetted).unwrap();
        assert_eq!((&stranger["code"], &stranger["listed"]), (&json!("server_not_granted"), &json!(false)));
        assert_eq!(stranger["near"][0]["why"], "it is for tester");

        let words = said(
            &scene
                .daemon
                .output("explain", &[&OPEN[..], &["--arguments", r#"{"amount": 1}"#]].concat())
                .unwrap(),
        );
        for part in ["ALLOW by may-open", "may-open (policy.yaml:9)", "2 of 3 (agent tester)"] {
            assert!(words.contains(part), "no {part:?} in {words}");
        }
        // Files that are not in force yet.
        scene.daemon.write_policy("policy.yaml", &POLICY.replace("max_calls: 3", "max_calls: 2")).unwrap();
        let told = explain(r#"{"amount": 10}"#);
        assert_eq!((&told["velocity"][1]["max"], used(&told, 1)), (&json!(2), json!(2)));
        assert!(told["velocity_note"].as_str().unwrap().contains("another policy"), "{told}");
    });
}

#[test]
fn without_a_guard_a_call_is_explained_all_the_same_and_wrong_input_is_exit_code_two() {
    let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.write_config().unwrap();
    let told = daemon.json("explain", &[&OPEN[..], &["--arguments", r#"{"amount": 1}"#]].concat()).unwrap();
    assert_eq!((&told["decision"], &told["velocity"][0]["now"]), (&json!("allow"), &Value::Null));
    assert!(told["velocity_note"].as_str().unwrap().contains("no guard runs here"), "{told}");
    let denied = daemon.output("explain", &OPEN).unwrap();
    assert_eq!(denied.status.code(), Some(0), "{}", said(&denied));
    assert!(said(&denied).starts_with("DENY by may-open (condition_failed)"), "{}", said(&denied));

    let wrong = |arguments: &[&str], words: &str| {
        let output = daemon.output("explain", arguments).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(words), "no {words:?} in {}", said(&output));
    };
    wrong(&["--agent", "testr", "--server", "demo", "--tool", "open"], "did you mean \"tester\"?");
    wrong(&["--agent", "tester", "--server", "dmo", "--tool", "open"], "did you mean \"demo\"?");
    wrong(&[&OPEN[..], &["--profile", "othr"]].concat(), "did you mean \"other\"?");
    wrong(&[&OPEN[..], &["--arguments", r#"{"a": 1, "a": 2}"#]].concat(), "the same key twice");
    wrong(&[&OPEN[..], &["--arguments", "[1]"]].concat(), "no JSON object");
    wrong(&[&OPEN[..], &["--arguments", "@/no/such/file"]].concat(), "cannot read the arguments");
    wrong(&["--agent", "tester", "--server", "demo", "--method", "tools/call"], "name the tool");
    wrong(&["--agent", "tester", "--server", "demo"], "required");
    daemon.write_policy("bad.yaml", "polices: []").unwrap();
    let output = daemon.output("explain", &[&OPEN[..], &["--json"]].concat()).unwrap();
    assert_eq!(output.status.code(), Some(2));
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(told["problems"][0]["line"], 1, "{told}");
}

#[test]
fn every_shipped_policy_has_cases_and_all_of_them_hold() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples");
    let mut count = 0;
    for example in std::fs::read_dir(examples).unwrap() {
        let config = example.unwrap().path().join("guard.yaml");
        let mut command = Command::new(program("mcp-guard").unwrap());
        command.args(["policy", "test", "--json", "--config"]).arg(&config);
        let output = command.output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}: {}", config.display(), said(&output));
        let told: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert!(told["passed"].as_u64().unwrap() >= 10, "{}: {told}", config.display());
        count += 1;
    }
    assert!(count > 0);
}

#[test]
fn a_case_that_does_not_hold_is_told_with_its_place_and_why_and_ends_with_code_one() {
    let daemon = guard("demo", &[("policy.yaml", POLICY)]).unwrap();
    daemon.write_config().unwrap();
    let test = |arguments: &[&str]| daemon.output("policy test", arguments).unwrap();
    let none = test(&[]);
    assert_eq!(none.status.code(), Some(2), "nothing was tested: {}", said(&none));
    assert!(said(&none).contains("tests: there is no such directory"), "{}", said(&none));

    let dir = daemon.config.policy_dir.join("tests");
    std::fs::create_dir(&dir).unwrap();
    let good = "cases:\n  - {name: opens, agent: tester, server: demo, tool: open, arguments: {amount: 10}, expect: allow, rule: may-open}\n";
    std::fs::write(dir.join("good.yaml"), good).unwrap();
    let passed = test(&[]);
    assert_eq!(passed.status.code(), Some(0), "{}", said(&passed));
    assert!(said(&passed).starts_with("ok: 1 cases"), "{}", said(&passed));
    // The folder is no policy, for whoever reads that.
    assert!(daemon.output("check", &[]).unwrap().status.success());

    let bad = "cases:\n  - {name: too dear, agent: tester, server: demo, tool: open, arguments: {amount: 11}, expect: allow}\n";
    std::fs::write(dir.join("more.yaml"), bad).unwrap();
    let failed = test(&[]);
    assert_eq!(failed.status.code(), Some(1), "{}", said(&failed));
    for words in [
        "more.yaml:2: too dear: the decision is deny, not allow",
        "because may-open (condition_failed): condition not met: amount is 11",
        "FAILED: 1 of 2 cases",
    ] {
        assert!(said(&failed).contains(words), "no {words:?} in {}", said(&failed));
    }
    let told: Value = serde_json::from_slice(&test(&["--json"]).stdout).unwrap();
    assert_eq!((&told["ok"], &told["passed"], &told["failed"]), (&json!(false), &json!(1), &json!(1)));
    assert_eq!(test(&[dir.join("good.yaml").to_str().unwrap()]).status.code(), Some(0), "only what is named");

    std::fs::write(
        dir.join("more.yaml"),
        "cases:\n  - {name: n, agent: testr, server: demo, tool: t, expect: deny}\n",
    )
    .unwrap();
    let wrong = test(&[]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(
        said(&wrong).contains("more.yaml:2:") && said(&wrong).contains("did you mean \"tester\"?"),
        "{}",
        said(&wrong)
    );
}

#[test]
fn what_is_suggested_from_a_trail_lets_pass_what_passed_and_can_be_put_in_force() {
    apart(|| {
        let more = "  - {name: never, intent: demo.other, agents: [tester], decision: allow}\n";
        let policy = POLICY
            .replace("policies:\n", "  demo.other: [{server: demo, tool: other}]\npolicies:\n")
            .replace("velocity_rules:\n", &format!("{more}velocity_rules:\n"));
        let scene = Scene::with(&json!({}), |daemon| daemon.write_policy("policy.yaml", &policy)).unwrap();
        let ask = |tool: &str, amount: u64| {
            let mut message = call(1, tool);
            message["params"]["arguments"] = json!({ "amount": amount });
            let mut line = scene.https.line().unwrap();
            line.send(&scene.post(&message).bytes()).unwrap();
            line
        };
        let open = || {
            let mut line = ask("open", 10);
            scene.puppet.hear().unwrap().answer(&done(1)).unwrap();
            assert_eq!(line.answer().unwrap().json(), done(1));
        };
        open();
        for (tool, amount) in [("open", 11), ("vetted", 1)] {
            let refused = ask(tool, amount).answer().unwrap().json();
            assert_ne!(refused, done(1));
        }
        let suggest = |more: &[&str]| {
            let told = scene.daemon.json("policy", &[&["suggest"], more].concat()).unwrap();
            let row =
                |name: &str| told["rows"].as_array().unwrap().iter().find(|row| row["name"] == name).cloned();
            (row("open"), row("vetted"), row("other"), told)
        };
        let (opened, vetted, other, told) = suggest(&["--from", "1h"]);
        let counts = |row: &Option<Value>| {
            let row = row.as_ref().unwrap();
            (row["allowed"].as_u64(), row["held"].as_u64(), row["refused"].as_u64(), row["standing"].clone())
        };
        assert_eq!(counts(&opened), (Some(1), Some(0), Some(1), json!("rare")), "{told}");
        assert_eq!(counts(&vetted), (Some(0), Some(1), Some(0), json!("rare")), "{told}");
        assert_eq!(counts(&other), (Some(0), Some(0), Some(0), json!("never_used")), "{told}");
        assert_eq!(told["trail"]["verified"], true, "{told}");
        // The trail of a guard that began a moment ago covers no hour.
        assert!(told["warnings"][0].as_str().unwrap().contains("the trail begins at"), "{told}");
        assert_eq!((&told["pairs_now"], &told["pairs_proposed"]), (&json!(3), &json!(2)));

        // In the place of the old files, in force.
        let proposal = told["proposal"].as_str().unwrap();
        scene.daemon.write_policy("policy.yaml", proposal).unwrap();
        let checked = scene.daemon.output("check", &[]).unwrap();
        assert!(checked.status.success(), "{}\n{proposal}", said(&checked));
        let reloaded = scene.daemon.output("reload", &[]).unwrap();
        assert!(reloaded.status.success(), "{}", said(&reloaded));
        open();
        let refused = ask("open", 11).answer().unwrap().json();
        assert!(
            refused["result"]["content"][0]["text"].as_str().unwrap().contains("amount is 11"),
            "{refused}"
        );
        let explain = |tool: &str| {
            scene.daemon.json("explain", &["--agent", "tester", "--server", "demo", "--tool", tool]).unwrap()
                ["decision"]
                .clone()
        };
        assert_eq!((explain("vetted"), explain("other")), (json!("escalate"), json!("deny")));

        // To a file, which must be new; and the table.
        let file = scene.daemon.output("policy", &["suggest", "--output", "/tmp/none-such/p.yaml"]).unwrap();
        assert_eq!(file.status.code(), Some(2), "{}", said(&file));
        let words = said(&scene.daemon.output("policy", &["suggest", "--from", "1h"]).unwrap());
        for part in ["tool open", "# RARE: tester: ", "decision: allow", "2 pairs of agent and intent"] {
            assert!(words.contains(part), "no {part:?} in {words}");
        }
        // Nothing of the period: nothing allowed.
        let (.., told) = suggest(&["--from", "2h", "--to", "1h"]);
        assert_eq!(told["pairs_proposed"], 0, "{told}");
    });
}
