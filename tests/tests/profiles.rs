//! Profiles before a real server: one agent, and what its callers leave of its rights.

use guard_tests::client::{Client, Era, said};
use guard_tests::daemon::{Credential, Daemon};
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::{Value, json};

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

const LIMITED: &str = r#"
agents:
  clerk: {client_id: clerk, profiles: [default, careful]}
intents:
  read: [{server: customer-ops, tool: read_customer, class: read}]
  refund:
    - server: customer-ops
      tool: process_refund
      facts: {amount: {number: amount}}
      risk: {base: 20, add: [{above_amount: 100, points: 40}]}
policies:
  - {intent: "*", agents: [clerk], decision: allow}
risk: {new_tool: 0, used_today: {per_doubling: 0, max: 0}, refused_lately: {per_doubling: 0, max: 0}}
profiles:
  careful:
    max_risk: 50
    limits:
      - {name: few-reads, intent: read, window: 1d, max_calls: 2, exceeded_action: deny, reason: Two a day}
"#;

fn issue(daemon: &Daemon, profile: &str) -> Credential {
    let issued = daemon.json("tokens issue", &["--agent", "clerk", "--profile", profile]).unwrap();
    let field = |name: &str| issued[name].as_str().unwrap().to_owned();
    Credential { client: field("client_id"), profile: field("profile"), secret: field("secret") }
}

#[test]
fn a_caller_in_a_profile_sees_and_calls_less_and_its_agent_as_much_as_before() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let whole = daemon.issue("clerk").unwrap();
        let narrow = issue(&daemon, "readonly");
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

#[test]
fn a_profiles_ceiling_and_limit_stop_its_callers_and_its_agent_goes_on_in_another() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", LIMITED)]).unwrap();
        let whole = daemon.issue("clerk").unwrap();
        let careful = issue(&daemon, "careful");
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        // What is told of each call that is refused.
        let ask = |daemon: &Daemon, credential: &Credential, calls: &[(&'static str, Value)]| {
            runtime.block_on(async {
                let client = Client::connect(&daemon.endpoint(PORT, credential), Era::Legacy).await.unwrap();
                let mut told = Vec::new();
                for (tool, arguments) in calls {
                    let result = client.call(tool, arguments.clone()).await.unwrap();
                    told.push(if result.is_error == Some(true) { said(&result) } else { String::new() });
                }
                client.close().await;
                told
            })
        };
        let refund = |amount: u64| ("process_refund", json!({"customer_id": "C-1001", "amount": amount}));
        let read = || ("read_customer", json!({"customer_id": "C-1001"}));

        let told = ask(&daemon, &careful, &[refund(100), refund(101), read(), read(), read()]);
        assert_eq!(
            (&told[0], &told[2], &told[3]),
            (&String::new(), &String::new(), &String::new()),
            "{told:?}"
        );
        assert!(
            told[1].contains("the profile careful admits a risk of 50 at most, and this call has 60"),
            "{told:?}"
        );
        assert!(told[4].contains("Two a day"), "{told:?}");
        let others = ask(&daemon, &whole, &[refund(101), read(), read(), read()]);
        assert!(others.iter().all(String::is_empty), "{others:?}");

        // The count is told, and outlives the guard; the other profile's calls are no part of it.
        let top = daemon.json("top", &["--once"]).unwrap();
        let [row] = &top["rows"].as_array().unwrap()[..] else { panic!("{top}") };
        assert_eq!(
            (&row["rule"], &row["profile"], &row["used"]),
            (&json!("few-reads"), &json!("careful"), &json!(2))
        );
        let call = [
            "--agent",
            "clerk",
            "--profile",
            "careful",
            "--server",
            "customer-ops",
            "--tool",
            "read_customer",
        ];
        let explained = daemon.json("explain", &call).unwrap();
        let [limit] = &explained["velocity"].as_array().unwrap()[..] else { panic!("{explained}") };
        assert_eq!((&limit["profile"], &limit["now"][0]["used"]), (&json!("careful"), &json!(2)), "{limit}");
        daemon.kill().unwrap();
        daemon.start().unwrap();
        assert!(ask(&daemon, &careful, &[read()])[0].contains("Two a day"));
        assert_eq!(ask(&daemon, &whole, &[read()]), [String::new()]);

        let ledger = daemon.ledger().unwrap();
        let risky: Vec<_> = ledger.calls("deny", "process_refund").collect();
        let told: Vec<_> =
            risky.iter().map(|call| (&call["profile"], &call["reason"], &call["risk"]["score"])).collect();
        assert_eq!(told, [(&json!("careful"), &json!("profile_denies"), &json!(60))]);
        let often: Vec<_> = ledger.calls("deny", "read_customer").collect();
        let told: Vec<_> =
            often.iter().map(|call| (&call["profile"], &call["reason"], &call["rule"])).collect();
        let refused = (&json!("careful"), &json!("velocity_exceeded"), &json!("few-reads"));
        assert_eq!(told, [refused, refused]);
        let counted = |profile: &str| {
            let calls = ledger.calls("allow", "read_customer").filter(|call| call["profile"] == profile);
            calls.map(|call| call["counted"].is_object()).collect::<Vec<_>>()
        };
        assert_eq!((counted("careful"), counted("default")), (vec![true; 2], vec![false; 4]));
    });
}
