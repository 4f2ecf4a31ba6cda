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
        let verified = daemon.verify().unwrap();
        assert_eq!(verified.code, Some(0), "{verified:?}");
        drop(server);
    });
}
