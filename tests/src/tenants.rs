//! Two agents of one server, which may do the same and must not touch what is the other's.

use mcp_guard::config::Server;
use serde_json::{Value, json};

use crate::daemon::{Credential, Daemon};
use crate::https::{Answer, Https, Request};
use crate::puppet::{Heard, Puppet};
use crate::scene::{ADDRESS, guard};

const POLICY: &str = r#"
agents:
  alice: {client_id: alice-client}
  bob: {client_id: bob-client}
intents:
  demo.open: [{server: demo, tool: open}, {server: demo, tool: report}]
  demo.once: [{server: demo, tool: once}]
  demo.sampling: [{server: demo, server_request: "sampling/*"}]
policies:
  - {name: may-open, intent: demo.open, agents: [alice, bob], decision: allow}
  - {name: may-once, intent: demo.once, agents: [alice, bob], decision: allow}
  - {name: may-sample, intent: demo.sampling, agents: [bob], decision: allow}
velocity_rules:
  - {name: once-a-day, agent: alice, intent: demo.once, window: 1d, max_calls: 1, exceeded_action: deny}
"#;

/// A guard, a server that the test plays, and the agents.
#[derive(Debug)]
pub struct Tenants {
    pub daemon: Daemon,
    pub puppet: Puppet,
    pub https: Https,
    pub alice: Credential,
    pub bob: Credential,
}

impl Tenants {
    /// In the network of the calling thread. `limits` are those of `guard.yaml`.
    pub fn new(limits: &Value) -> anyhow::Result<Self> {
        Self::with(limits, |_server| {})
    }

    /// The same, with a last look at the server's entry.
    pub fn with(limits: &Value, change: impl FnOnce(&mut Server)) -> anyhow::Result<Self> {
        let puppet = Puppet::at(ADDRESS)?;
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)])?;
        daemon.config.limits = serde_json::from_value(limits.clone())?;
        change(&mut daemon.config.servers[0]);
        let (alice, bob) = (daemon.issue("alice")?, daemon.issue("bob")?);
        daemon.start()?;
        let https = Https::new(ADDRESS, &daemon.ca())?;
        Ok(Self { daemon, puppet, https, alice, bob })
    }

    /// Opens a session of the agent; the server gives it this id.
    pub fn open(&self, agent: &Credential, id: &str) -> anyhow::Result<()> {
        let initialize = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}});
        let mut line = self.https.line()?;
        line.send(&Request::post(&initialize).by(agent).bytes())?;
        let result = json!({"jsonrpc": "2.0", "id": 1, "result": {
            "protocolVersion": "2025-11-25", "capabilities": {}, "serverInfo": {"name": "p", "version": "1"}}});
        self.puppet.hear()?.answer_with(&format!("Mcp-Session-Id: {id}\r\n"), &result)?;
        let answer = line.answer()?;
        anyhow::ensure!(answer.status == 200 && answer.header("mcp-session-id") == Some(id), "{answer:?}");
        Ok(())
    }

    /// Sends a request that is expected to reach the server, which answers with `result`.
    pub fn served(&self, request: &Request, result: &Value) -> anyhow::Result<(Answer, Heard)> {
        let mut line = self.https.line()?;
        line.send(&request.bytes())?;
        let mut heard = self.puppet.hear()?;
        let id = serde_json::from_slice::<Value>(&heard.body).unwrap_or_default()["id"].clone();
        heard.answer_and_stay(&json!({"jsonrpc": "2.0", "id": id, "result": result}))?;
        Ok((line.answer()?, heard))
    }

    /// Sends a request that is expected to be refused before the server hears of it.
    ///
    /// # Panics
    /// If it does.
    pub fn refused(&self, request: &Request) -> anyhow::Result<Answer> {
        let answer = self.https.ask(request)?;
        let heard = self.puppet.heard();
        assert!(heard.is_none(), "{heard:?} reached the server; {answer:?}");
        Ok(answer)
    }
}

/// A request on the session `id`.
pub fn on(id: &str, message: &Value, agent: &Credential) -> Request {
    Request::post(message).by(agent).with("Mcp-Session-Id", id).with("MCP-Protocol-Version", "2025-11-25")
}

/// The `reason` of a refusal.
pub fn reason(answer: &Answer) -> String {
    let message = answer.json();
    let places = ["/result/_meta", "/error/data"];
    let found =
        places.iter().find_map(|place| message.pointer(&format!("{place}/mcp-guard~1decision/reason")));
    found.and_then(Value::as_str).unwrap_or("no decision").to_owned()
}
