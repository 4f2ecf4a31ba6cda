//! Packs before a fixture server, and against the real server whose tools they name.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use guard_tests::client::{Client, Era, said};
use guard_tests::process::Fixture;
use guard_tests::scene::{ADDRESS, PORT, apart, guard};
use serde_json::{Value, json};

/// A pack of one's own for the fixture server.
const PACK: &str = "
pack: crm
about: the customer server of the tests
intents:
  crm.read: [{tool: read_customer, class: read}]
  crm.refund: [{tool: process_refund, facts: {amount: {number: amount}}, class: destructive}]
";

const POLICY: &str = "
agents: {clerk: {client_id: clerk}}
packs: [{pack: crm, server: customer-ops}, {pack: saas-ops, server: customer-ops}]
policies:
  - {intent: crm.*, agents: [clerk], decision: allow, conditions: {max_risk: 30}}
  - {intent: comms.email.send, agents: [clerk], decision: allow, conditions: {max_recipients: 1}}
";

#[test]
fn a_packs_intents_decide_for_the_server_that_it_is_bound_to() {
    apart(|| {
        let _server = Fixture::start("customer-ops", None, ADDRESS, &[]).unwrap();
        let mut daemon = guard("customer-ops", &[("policy.yaml", POLICY)]).unwrap();
        let dir = daemon.config.policy_dir.join("packs");
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("crm.yaml"), PACK).unwrap();
        let clerk = daemon.issue("clerk").unwrap();
        daemon.start().unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        runtime.unwrap().block_on(async {
            let client = Client::connect(&daemon.endpoint(PORT, &clerk), Era::Legacy).await.unwrap();
            let mut tools = client.tools().await.unwrap();
            tools.sort();
            assert_eq!(tools, ["process_refund", "read_customer", "send_email"]);
            let mail = |to: Value| json!({"to": to, "subject": "hello", "body": "world"});
            for (tool, arguments, refused) in [
                ("read_customer", json!({"customer_id": "C-1001"}), false),
                ("process_refund", json!({"customer_id": "C-1001", "amount": 1}), true),
                ("send_email", mail(json!(["a@customers.example"])), false),
                ("send_email", mail(json!(["a@customers.example", "b@customers.example"])), true),
            ] {
                let result = client.call(tool, arguments).await.unwrap();
                assert_eq!(result.is_error == Some(true), refused, "{tool}: {}", said(&result));
            }
            client.close().await;
        });
        let ledger = daemon.ledger().unwrap();
        let intents: Vec<_> =
            ledger.calls("allow", "send_email").map(|call| call["intent"].clone()).collect();
        assert_eq!(intents, ["comms.email.send"]);
        // Another text of the pack is another policy.
        let digest = |daemon: &guard_tests::daemon::Daemon| {
            let call = ["--agent", "clerk", "--server", "customer-ops", "--tool", "read_customer"];
            daemon.json("explain", &call).unwrap()["policy"].clone()
        };
        let before = digest(&daemon);
        std::fs::write(dir.join("crm.yaml"), PACK.replace("class: read", "class: write")).unwrap();
        assert_ne!(digest(&daemon), before);
        let listed = daemon.json("policy packs", &["crm"]).unwrap();
        assert_eq!(listed["meanings"][0]["class"], "write", "{listed}");
        let output = daemon.output("policy packs", &["filesytem"]).unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(
            String::from_utf8_lossy(&output.stderr).contains("did you mean \"filesystem\"?"),
            "{output:?}"
        );
    });
}

/// What the real server answers to `tools/list`.
fn tools_of(program: &Path, folder: &Path) -> Vec<Value> {
    let mut server = Command::new("node")
        .arg(program)
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let (mut to, mut from) = (server.stdin.take().unwrap(), BufReader::new(server.stdout.take().unwrap()));
    let client = json!({"name": "tests", "version": "1"});
    let params = json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": client});
    let mut line = String::new();
    writeln!(to, "{}", json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params})).unwrap();
    from.read_line(&mut line).unwrap();
    writeln!(to, "{}", json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).unwrap();
    writeln!(to, "{}", json!({"jsonrpc": "2.0", "id": 2, "method": "tools/list"})).unwrap();
    line.clear();
    from.read_line(&mut line).unwrap();
    drop(to);
    server.wait().unwrap();
    let answer: Value = serde_json::from_str(&line).unwrap();
    answer["result"]["tools"].as_array().unwrap().clone()
}

#[test]
fn the_filesystem_pack_names_every_tool_and_argument_of_the_real_server() {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let program = peers.join("node_modules/@modelcontextprotocol/server-filesystem/dist/index.js");
    assert!(program.exists(), "run tests/peers/install.sh first");
    let folder = tempfile::tempdir().unwrap();
    let tools = tools_of(&program, folder.path());
    let daemon = guard("files", &[("policy.yaml", "agents: {}\n")]).unwrap();
    daemon.write_config().unwrap();
    let pack = daemon.json("policy packs", &["filesystem"]).unwrap();
    let meanings = pack["meanings"].as_array().unwrap();
    for tool in &tools {
        let is_named = meanings.iter().any(|meaning| meaning["name"] == tool["name"]);
        assert!(is_named, "no intent names {}", tool["name"]);
    }
    for meaning in meanings {
        let tool = tools.iter().find(|tool| tool["name"] == meaning["name"]);
        let tool = tool.unwrap_or_else(|| panic!("the server has no {}", meaning["name"]));
        for fact in meaning["facts"].as_array().unwrap() {
            // Such as `file: path of source`.
            let argument = fact.as_str().unwrap().rsplit(' ').next().unwrap();
            let known = &tool["inputSchema"]["properties"];
            assert!(known.get(argument).is_some(), "{} has no {argument}: {known}", tool["name"]);
        }
    }
    assert!(tools.len() >= 13, "{tools:?}");
}
