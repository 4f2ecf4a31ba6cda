//! Profiles before a real server: one agent, and what its callers leave of its rights.

use guard_tests::client::{Client, Era, said};
use guard_tests::daemon::Credential;
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::json;

const POLICY: &str = r#"
agents:
  clerk: {client_id: clerk, profiles: [default, readonly]}
intents:
  read: [{server: customer-ops, tool: read_customer}]
  mail: [{server: customer-ops, tool: send_email}]
policies:
  - {intent: "*", agents: [clerk], decision: allow}
profiles:
  readonly: {intents: [read]}
"#;

#[test]
fn a_caller_in_a_profile_sees_and_calls_less_and_its_agent_as_much_as_before() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let whole = daemon.issue("clerk").unwrap();
        let issued = daemon.json("tokens issue", &["--agent", "clerk", "--profile", "readonly"]).unwrap();
        let field = |name: &str| issued[name].as_str().unwrap().to_owned();
        let narrow =
            Credential { client: field("client_id"), profile: field("profile"), secret: field("secret") };
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let mail = json!({"to": ["a@customers.example"], "subject": "hello", "body": "world"});
            let ada = json!({"customer_id": "C-1001"});
            for (credential, seen, may_mail) in
                [(&whole, &["read_customer", "send_email"][..], true), (&narrow, &["read_customer"], false)]
            {
                let client = Client::connect(&daemon.endpoint(PORT, credential), Era::Legacy).await.unwrap();
                let mut tools = client.tools().await.unwrap();
                tools.sort();
                assert_eq!(tools, seen);
                let result = client.call("send_email", mail.clone()).await.unwrap();
                assert_eq!(result.is_error != Some(true), may_mail, "{result:?}");
                if !may_mail {
                    let text = said(&result);
                    assert!(text.contains("the profile readonly does not admit mail here"), "{text}");
                }
                let result = client.call("read_customer", ada.clone()).await.unwrap();
                assert_ne!(result.is_error, Some(true), "{result:?}");
                client.close().await;
            }
        });
        let ledger = daemon.ledger().unwrap();
        let refused: Vec<_> = ledger.calls("deny", "send_email").collect();
        let told: Vec<_> = refused.iter().map(|call| (&call["profile"], &call["reason"])).collect();
        assert_eq!(told, [(&json!("readonly"), &json!("profile_denies"))]);
    });
}
