//! The shipped sample policy before the sample server: what its authors promise, seen by the agents, by the server and
//! by the audit trail.

use std::path::Path;

use guard_tests::client::{Client, Era, said};
use guard_tests::daemon::{Credential, Daemon};
use guard_tests::journal;
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use rmcp::ServiceError;
use serde_json::{Value, json};
use tempfile::TempDir;

struct Story {
    daemon: Daemon,
    _server: Fixture,
    journal: TempDir,
    lookup: Credential,
    support: Credential,
    analytics: Credential,
}

impl Story {
    fn new() -> Self {
        Self::with(|_, text| text)
    }

    /// With policy files that `change` has changed.
    fn with(change: impl Fn(&str, String) -> String) -> Self {
        let journal = tempfile::tempdir().unwrap();
        let file = journal.path().join("calls");
        let arguments = ["--journal", file.to_str().unwrap()];
        let server = Fixture::start("customer-ops", None, ADDRESS, &arguments).unwrap();
        let policies =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies/examples/customer-ops/policies");
        let text = |name: &str| change(name, std::fs::read_to_string(policies.join(name)).unwrap());
        let (agents, seed) = (text("agents.yaml"), text("seed.yaml"));
        let mut daemon = guard("customer-ops", &[("agents.yaml", &agents), ("seed.yaml", &seed)]).unwrap();
        let issue = |agent: &str| daemon.issue(agent).unwrap();
        let (lookup, support, analytics) =
            (issue("lookup-agent"), issue("support-agent"), issue("analytics-agent"));
        daemon.start().unwrap();
        Self { daemon, _server: server, journal, lookup, support, analytics }
    }

    async fn connect(&self, credential: &Credential) -> Client {
        Client::connect(&self.daemon.endpoint(PORT, credential), Era::Legacy).await.unwrap()
    }

    /// The tools that the server really ran, in order.
    fn ran(&self) -> Vec<String> {
        let calls = journal::read(&self.journal.path().join("calls")).unwrap();
        calls.into_iter().map(|call| call.tool).collect()
    }
}

/// Runs the story in a network of its own.
fn tell(story: impl AsyncFnOnce(&Story) + Send) {
    tell_of(Story::new, story);
}

fn tell_of(new: impl FnOnce() -> Story + Send, story: impl AsyncFnOnce(&Story) + Send) {
    apart(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let told = new();
        runtime.unwrap().block_on(story(&told));
        let verified = told.daemon.verify().unwrap();
        assert_eq!((verified.code, &verified.report["verdict"]), (Some(0), &json!("sound")), "{verified:?}");
    });
}

async fn call(client: &Client, tool: &str, arguments: Value) -> (bool, String) {
    let result = client.call(tool, arguments).await.unwrap();
    (result.is_error == Some(true), said(&result))
}

fn emails(count: usize) -> Value {
    let to: Vec<_> = (0..count).map(|number| format!("a{number}@customers.example")).collect();
    json!({"to": to, "subject": "hello", "body": "world"})
}

#[test]
fn each_agent_may_do_what_the_sample_policy_says_and_nothing_else() {
    tell(async |story| {
        let ada = json!({"customer_id": "C-1001"});
        let refund = json!({"customer_id": "C-1001", "amount": 25.0});
        let mut expected = Vec::new();

        let lookup = story.connect(&story.lookup).await;
        assert_eq!(lookup.tools().await.unwrap(), ["read_customer"]);
        let (refused, text) = call(&lookup, "read_customer", ada.clone()).await;
        assert!(!refused && text.contains("Ada Brandt"), "{text}");
        expected.push("read_customer");
        let (refused, text) = call(&lookup, "process_refund", refund.clone()).await;
        assert!(refused && text.contains("Only support agents can process refunds"), "{text}");
        let (refused, text) = call(&lookup, "send_email", emails(1)).await;
        assert!(refused && text.starts_with("mcp-guard refused the call of send_email"), "{text}");

        let support = story.connect(&story.support).await;
        let mut tools = support.tools().await.unwrap();
        tools.sort();
        assert_eq!(tools, ["process_refund", "read_customer", "send_email"]);
        let (refused, text) = call(&support, "send_email", emails(10)).await;
        assert!(!refused && text.contains("queued"), "{text}");
        expected.push("send_email");
        let (refused, text) = call(&support, "send_email", emails(11)).await;
        assert!(refused && text.contains("10") && text.contains("recipients"), "{text}");
        let (refused, text) = call(&support, "process_refund", refund.clone()).await;
        assert!(refused && text.contains("needs the approval of role:support-lead."), "{text}");

        let analytics = story.connect(&story.analytics).await;
        assert_eq!(analytics.tools().await.unwrap(), ["read_customer"]);
        let (refused, text) = call(&analytics, "process_refund", refund).await;
        assert!(refused && text.contains("Only support agents can process refunds"), "{text}");

        // No rule names it for anybody: nobody can tell it from a tool that is not there.
        let change = json!({"customer_id": "C-1001", "fields": {"plan": "gold"}});
        for client in [&lookup, &support, &analytics] {
            let error = client.call("update_account", change.clone()).await.unwrap_err();
            let ServiceError::McpError(error) = error else { panic!("{error}") };
            assert_eq!((error.code.0, &*error.message), (-32602, "Unknown tool: update_account"));
        }

        // The sessions have survived all of it.
        for client in [lookup, support, analytics] {
            assert!(!call(&client, "read_customer", ada.clone()).await.0);
            expected.push("read_customer");
            client.close().await;
        }
        assert_eq!(story.ran(), expected);

        let ledger = story.daemon.ledger().unwrap();
        for (decision, tool, agents) in [
            (
                "allow",
                "read_customer",
                vec!["lookup-agent", "lookup-agent", "support-agent", "analytics-agent"],
            ),
            ("allow", "send_email", vec!["support-agent"]),
            ("deny", "send_email", vec!["lookup-agent", "support-agent"]),
            ("deny", "process_refund", vec!["lookup-agent", "analytics-agent"]),
            ("hold", "process_refund", vec!["support-agent"]),
            ("deny", "update_account", vec!["lookup-agent", "support-agent", "analytics-agent"]),
            ("allow", "update_account", vec![]),
            ("allow", "process_refund", vec![]),
        ] {
            let records: Vec<_> = ledger.calls(decision, tool).collect();
            let named: Vec<_> = records.iter().map(|record| record["agent"].as_str().unwrap()).collect();
            assert_eq!(named, agents, "{decision} {tool}");
            for record in records {
                let outcome = ledger.outcome_of(record).map(|outcome| &outcome["result"]);
                assert_eq!(outcome, (decision == "allow").then_some(&json!("ok")), "{record}");
            }
        }
    });
}

#[test]
fn the_hundred_and_first_read_in_a_minute_is_refused_with_the_rules_reason() {
    tell(async |story| {
        let analytics = story.connect(&story.analytics).await;
        // On a machine that is too slow for 100 calls in a minute the first ones leave the window again.
        let mut allowed = 0;
        let text = loop {
            let (refused, text) = call(&analytics, "read_customer", json!({"customer_id": "C-1002"})).await;
            if refused {
                break text;
            }
            allowed += 1;
            assert!(allowed <= 1000, "no refusal");
        };
        assert!(allowed >= 100, "refused after {allowed}");
        assert!(text.contains("Rate limit exceeded -- possible data enumeration"), "{text}");
        let seconds = text.split("It may be tried again in ").nth(1).and_then(|rest| rest.split(' ').next());
        let seconds: u64 = seconds.unwrap_or_else(|| panic!("{text}")).parse().unwrap();
        assert!((1..=60).contains(&seconds), "{text}");

        // Others are not counted with it.
        let support = story.connect(&story.support).await;
        assert!(!call(&support, "read_customer", json!({"customer_id": "C-1002"})).await.0);
        assert_eq!(story.ran().len(), allowed + 1);
        let ledger = story.daemon.ledger().unwrap();
        assert_eq!(ledger.calls("allow", "read_customer").count(), allowed + 1);
        let refused: Vec<_> = ledger.calls("deny", "read_customer").collect();
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0]["reason"], "velocity_exceeded");
        assert_eq!(refused[0]["velocity"]["max"], 100);
    });
}

/// The sample policy of an author who lets the support agent pay refunds by itself, and scores them.
fn trusting(name: &str, text: String) -> String {
    let changes = match name {
        "seed.yaml" => vec![(
            "    decision: escalate\n    escalation:\n      type: single\n      reviewers: [role:support-lead]\n",
            "    decision: allow\n",
        )],
        _ => vec![
            ("tool: read_customer}", "tool: read_customer, class: read}"),
            (
                "      tool: process_refund\n",
                "      tool: process_refund\n      class: write\n      risk: {add: [{above_amount: 1000, points: 30}]}\n",
            ),
        ],
    };
    changes.into_iter().fold(text, |text, (from, to)| {
        assert!(text.contains(from), "{name} has no {from:?}");
        text.replacen(from, to, 1)
    })
}

#[test]
fn the_fifty_first_refund_goes_to_a_person_and_scores_follow_amount_and_count() {
    tell_of(
        || Story::with(trusting),
        async |story| {
            let support = story.connect(&story.support).await;
            let refund = |amount: u64| json!({"customer_id": "C-1001", "amount": amount});
            assert!(!call(&support, "process_refund", refund(10)).await.0);
            assert!(!call(&support, "process_refund", refund(10)).await.0);
            assert!(!call(&support, "process_refund", refund(5_000)).await.0);
            for number in 4..=50 {
                assert!(!call(&support, "process_refund", refund(10)).await.0, "refund {number}");
            }
            let (refused, text) = call(&support, "process_refund", refund(10)).await;
            assert!(refused && text.contains("before a person has approved it"), "{text}");
            for number in 1..=500 {
                let (refused, text) = call(&support, "read_customer", json!({"customer_id": "C-1001"})).await;
                assert!(!refused, "read {number}: {text}");
            }

            let ledger = story.daemon.ledger().unwrap();
            let scores = |tool: &str| -> Vec<u64> {
                ledger.calls("allow", tool).map(|record| record["risk"]["score"].as_u64().unwrap()).collect()
            };
            let (refunds, reads) = (scores("process_refund"), scores("read_customer"));
            assert_eq!((refunds.len(), reads.len()), (50, 500));
            assert!(refunds[1] < refunds[2], "10 and 5,000: {refunds:?}");
            assert!(reads[4] < reads[499], "the 5th and the 500th: {} and {}", reads[4], reads[499]);
            let held: Vec<_> = ledger.calls("hold", "process_refund").collect();
            assert_eq!(held.len(), 1);
            assert_eq!(held[0]["velocity"]["max"], 50, "{}", held[0]);

            // What did the agent do? One query.
            let asked =
                ["--agent", "support-agent", "--intent", "financial.refund.*", "--from", "1h", "--to", "0s"];
            let found = story
                .daemon
                .output("audit query", &[&asked[..], &["--kind", "call", "--all", "--json"]].concat());
            let found = String::from_utf8(found.unwrap().stdout).unwrap();
            let found: Vec<Value> = found.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
            assert_eq!(found.iter().filter(|record| record["kind"] == "call").count(), 51);
        },
    );
}
