//! The risk score before a real server: what it holds, what records say of it, and what outlives the guard.

use guard_tests::client::{Client, Era, said};
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  clerk: {client_id: clerk}
intents:
  read: [{server: customer-ops, tool: read_customer, class: read}]
  refund:
    - server: customer-ops
      tool: process_refund
      facts: {amount: {number: amount}}
      class: write
      risk: {add: [{above_amount: 100, points: 40}]}
  refund.all:
    - {server: customer-ops, tool: process_refund, facts: {amount: {number: amount}}, when: {min_amount: 1000}, class: destructive}
policies:
  - {intent: "*", agents: [clerk], decision: allow}
  - {name: risky, intent: "*", agents: [clerk], decision: escalate, conditions: {min_risk: 60}}
  - {name: never-all, intent: refund.all, agents: [clerk], decision: deny, reason: Not all of it}
"#;

fn terms(record: &Value) -> Vec<(String, u64)> {
    let each = record["risk"]["terms"].as_array().unwrap().iter();
    each.map(|term| (term["name"].as_str().unwrap().to_owned(), term["points"].as_u64().unwrap())).collect()
}

fn named(terms: &[(&str, u64)]) -> Vec<(String, u64)> {
    terms.iter().map(|(name, points)| ((*name).to_owned(), *points)).collect()
}

#[test]
fn a_risky_call_is_held_and_its_record_says_why_term_by_term_and_what_was_before_outlives_the_guard() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let clerk = daemon.issue("clerk").unwrap();
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let endpoint = daemon.endpoint(PORT, &clerk);
        let ask = |calls: Vec<(&'static str, Value)>| {
            runtime.block_on(async {
                let client = Client::connect(&endpoint, Era::Legacy).await.unwrap();
                let mut told = Vec::new();
                for (tool, arguments) in calls {
                    let result = client.call(tool, arguments).await.unwrap();
                    told.push((result.is_error == Some(true), said(&result)));
                }
                client.close().await;
                told
            })
        };
        let refund = |amount: u64| ("process_refund", json!({"customer_id": "C-1001", "amount": amount}));
        let read = || ("read_customer", json!({"customer_id": "C-1001"}));
        let told = ask(vec![read(), read(), refund(50), refund(101), refund(1000)]);
        let refused: Vec<_> = told.iter().map(|(refused, _)| *refused).collect();
        assert_eq!(refused, [false, false, false, true, true], "{told:?}");
        assert!(told[3].1.contains("approval"), "{told:?}");
        assert!(told[4].1.contains("Not all of it"), "{told:?}");

        let ledger = daemon.ledger().unwrap();
        let reads: Vec<_> = ledger.calls("allow", "read_customer").map(terms).collect();
        assert_eq!(
            reads,
            [named(&[("class", 5), ("new_tool", 15)]), named(&[("class", 5), ("used_today", 2)])]
        );
        let [small] = &ledger.calls("allow", "process_refund").collect::<Vec<_>>()[..] else { panic!("one") };
        assert_eq!(
            (terms(small), &small["risk"]["score"]),
            (named(&[("class", 25), ("new_tool", 15)]), &json!(40))
        );
        let [held] = &ledger.calls("hold", "process_refund").collect::<Vec<_>>()[..] else { panic!("one") };
        assert_eq!(held["rule"], "risky");
        assert_eq!(held["risk"]["score"], 67);
        assert_eq!(terms(held), named(&[("class", 25), ("argument", 40), ("used_today", 2)]));
        assert_eq!(held["risk"]["terms"][1]["why"], "above_amount: 100");
        let words = String::from_utf8(daemon.output("audit list", &[]).unwrap().stdout).unwrap();
        assert!(words.contains("(risk 40)"), "{words}");

        // What the guard knows is told by `explain`, also after a restart and after a kill.
        let explain = |daemon: &guard_tests::daemon::Daemon| {
            let call = ["--agent", "clerk", "--server", "customer-ops", "--tool", "read_customer"];
            daemon.json("explain", &call).unwrap()
        };
        let before = explain(&daemon);
        assert_eq!(
            terms(&before),
            named(&[("class", 5), ("used_today", 2), ("refused_lately", 5)]),
            "{before}"
        );
        assert_eq!(before["risk_note"], Value::Null);
        daemon.stop().unwrap();
        let without = explain(&daemon);
        assert_eq!(terms(&without), named(&[("class", 5)]));
        assert!(without["risk_note"].as_str().unwrap().contains("no guard runs here"), "{without}");
        daemon.start().unwrap();
        assert_eq!(explain(&daemon)["risk"], before["risk"]);
        let told = ask(vec![read()]);
        assert!(!told[0].0, "{told:?}");
        let after = explain(&daemon);
        assert_eq!(terms(&after), named(&[("class", 5), ("used_today", 4), ("refused_lately", 5)]));
        daemon.kill().unwrap();
        daemon.start().unwrap();
        assert_eq!(explain(&daemon)["risk"], after["risk"], "read from the trail");
    });
}
