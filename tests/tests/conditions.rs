//! Conditions before a real server: what an agent is told, what the server gets, and what the trail says.

use guard_tests::client::{Client, Era, said};
use guard_tests::journal;
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::{Value, json};

const POLICY: &str = r#"
agents:
  mailer: {client_id: mailer}
  elsewhere: {client_id: elsewhere}
intents:
  mail:
    - server: customer-ops
      tool: send_email
      facts: {recipients: {count: to}, recipient_domains: {domains: to}}
  refund:
    - {server: customer-ops, tool: process_refund, facts: {amount: {number: amount}}}
  read:
    - {server: customer-ops, tool: read_customer, facts: {customer: {text: customer_id}}}
policies:
  - intent: mail
    agents: [mailer, elsewhere]
    decision: allow
    conditions: {max_recipients: 2, recipient_domains_in: [ours.example, "*.ours.example"]}
  - {intent: refund, agents: [mailer], decision: allow}
  - intent: refund
    agents: [mailer]
    decision: deny
    reason: Large refunds are for people
    name: large-refunds
    conditions: {above_amount: 100}
  - {intent: read, agents: [mailer], decision: escalate, name: watched, shadow: true, conditions: {source: {remote: false}}}
  - {intent: read, agents: [mailer], decision: deny, name: not-this-one, shadow: true, conditions: {customer_in: [C-2002]}}
  - {intent: read, agents: [mailer], decision: allow, conditions: {source: {remote: false}}}
  - intent: mail
    agents: [elsewhere]
    decision: deny
    reason: Not from this host
    conditions: {source: {remote: false}}
"#;

async fn call(client: &Client, tool: &str, arguments: Value) -> (bool, String) {
    let result = client.call(tool, arguments).await.unwrap();
    (result.is_error == Some(true), said(&result))
}

fn mail(to: &Value) -> Value {
    json!({"to": to, "subject": "hello", "body": "world"})
}

#[test]
fn what_the_conditions_refuse_does_not_reach_the_server_and_the_agent_is_told_why() {
    apart(|| {
        let journal = tempfile::tempdir().unwrap();
        let file = journal.path().join("calls");
        let server =
            Fixture::start("customer-ops", None, ADDRESS, &["--journal", file.to_str().unwrap()]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let (mailer, elsewhere) = (daemon.issue("mailer").unwrap(), daemon.issue("elsewhere").unwrap());
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let client = Client::connect(&daemon.endpoint(PORT, &mailer), Era::Legacy).await.unwrap();
            let mut tools = client.tools().await.unwrap();
            tools.sort();
            assert_eq!(tools, ["process_refund", "read_customer", "send_email"]);
            let (refused, text) =
                call(&client, "send_email", mail(&json!(["a@ours.example", "b@x.ours.example"]))).await;
            assert!(!refused, "{text}");
            for (to, why) in [
                (
                    json!(["a@ours.example", "b@evil.example"]),
                    "recipient_domains names something else than ours.example",
                ),
                (json!(["a@ours.example, b@ours.example", "c@ours.example"]), "at most 2 are allowed"),
                (json!(["\"a@ours.example\" <b@evil.example>"]), "recipient_domains names cannot be told"),
                (json!(["b@evil.example@ours.example"]), "an entry has several @"),
            ] {
                let (refused, text) = call(&client, "send_email", mail(&to)).await;
                assert!(refused && text.contains(why), "{text}");
            }
            let refund = |amount: Value| json!({"customer_id": "C-1001", "amount": amount});
            let (refused, text) = call(&client, "process_refund", refund(json!(100))).await;
            assert!(!refused, "{text}");
            let (refused, text) = call(&client, "process_refund", refund(json!(100.5))).await;
            assert!(refused && text.contains("Large refunds are for people"), "{text}");
            let (refused, text) = call(&client, "process_refund", refund(json!("5000"))).await;
            assert!(refused && text.contains("amount must be a number"), "{text}");
            let (refused, text) = call(&client, "read_customer", json!({"customer_id": "C-1001"})).await;
            assert!(!refused, "{text}");
            client.close().await;

            let client = Client::connect(&daemon.endpoint(PORT, &elsewhere), Era::Legacy).await.unwrap();
            let (refused, text) = call(&client, "send_email", mail(&json!(["a@ours.example"]))).await;
            assert!(refused && text.contains("Not from this host"), "{text}");
            client.close().await;
        });
        let ran: Vec<_> = journal::read(&file).unwrap().into_iter().map(|call| call.tool).collect();
        assert_eq!(ran, ["send_email", "process_refund", "read_customer"]);
        let ledger = daemon.ledger().unwrap();
        let reasons = |tool: &str| -> Vec<(String, String)> {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            ledger
                .calls("deny", tool)
                .map(|record| (text(&record["reason"]), text(&record["rule"])))
                .collect()
        };
        let told = |reason: &str, rule: &str| (reason.to_owned(), rule.to_owned());
        assert_eq!(
            reasons("process_refund"),
            [told("denied_by_rule", "large-refunds"), told("condition_failed", "large-refunds")]
        );
        assert_eq!(reasons("send_email").len(), 5);
        // Rules in shadow, which changed nothing.
        let read: Vec<_> =
            ledger.calls("allow", "read_customer").map(|call| call["would_deny"].clone()).collect();
        assert_eq!(read, [json!(["watched"])]);
        assert_eq!(daemon.status().unwrap()["shadows"], json!([{"rule": "watched", "would_deny": 1}]));
        let words = String::from_utf8(daemon.output("status", &[]).unwrap().stdout).unwrap();
        assert!(words.contains("RULE IN SHADOW") && words.contains("watched"), "{words}");
        let verified = daemon.verify().unwrap();
        assert_eq!(verified.code, Some(0), "{verified:?}");
        drop(server);
    });
}

const SESSIONS: &str = r"
agents:
  clerk: {client_id: clerk}
intents:
  read: [{server: customer-ops, tool: read_customer}]
  refund: [{server: customer-ops, tool: process_refund}]
policies:
  - {name: three, intent: read, agents: [clerk], decision: allow, conditions: {in_session: true, max_session_calls: 3}}
  - {name: stateless, intent: refund, agents: [clerk], decision: allow, conditions: {in_session: false}}
  - {name: not-late, intent: refund, agents: [clerk], decision: deny, conditions: {above_session_minutes: 30}}
";

#[test]
fn a_session_has_as_many_calls_as_its_rule_says_and_a_call_without_one_is_not_counted_as_young() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", SESSIONS)]).unwrap();
        let clerk = daemon.issue("clerk").unwrap();
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let ada = || json!({"customer_id": "C-1001"});
            let refund = || json!({"customer_id": "C-1001", "amount": 5});
            // Lists are no calls, and each session is counted by itself.
            for _ in 0..2 {
                let client = Client::connect(&daemon.endpoint(PORT, &clerk), Era::Legacy).await.unwrap();
                for _ in 0..2 {
                    client.tools().await.unwrap();
                }
                for _ in 0..3 {
                    let (refused, text) = call(&client, "read_customer", ada()).await;
                    assert!(!refused, "{text}");
                }
                let (refused, text) = call(&client, "read_customer", ada()).await;
                assert!(refused && text.contains("it is call 4 of its session, and not at most 3"), "{text}");
                let (refused, text) = call(&client, "process_refund", refund()).await;
                assert!(refused && text.contains("it comes in a session"), "{text}");
                client.close().await;
            }
            let client = Client::connect(&daemon.endpoint(PORT, &clerk), Era::Modern).await.unwrap();
            let (refused, text) = call(&client, "read_customer", ada()).await;
            assert!(refused && text.contains("it comes without a session"), "{text}");
            // A rule that denies old sessions cannot tell how old none is.
            let (refused, text) = call(&client, "process_refund", refund()).await;
            assert!(refused && text.contains("cannot be judged: it comes without a session"), "{text}");
            client.close().await;
        });
        let ledger = daemon.ledger().unwrap();
        let rules: Vec<_> = ledger.calls("deny", "read_customer").map(|call| call["rule"].clone()).collect();
        assert_eq!(rules, [json!("three"), json!("three"), json!("three")]);
        assert_eq!(ledger.calls("allow", "read_customer").count(), 6);
        let explained = |more: &[&str]| {
            let call = ["--agent", "clerk", "--server", "customer-ops", "--tool", "read_customer"];
            daemon.json("explain", &[&call, more].concat()).unwrap()["decision"].clone()
        };
        assert_eq!(explained(&["--session-calls", "2"]), "allow");
        assert_eq!(explained(&["--session-calls", "3"]), "deny");
        assert_eq!(explained(&[]), "deny");
    });
}
