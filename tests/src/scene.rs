//! A guard before a server of the test's own, in a network of its own, with one agent and tools of every kind.

use std::net::{Ipv4Addr, SocketAddr};

use mcp_guard::config::Server;
use serde_json::{Value, json};

use crate::daemon::{Credential, Daemon, Programs};
use crate::https::{Https, Request};
use crate::puppet::Puppet;
use crate::world::Netns;

/// The protected port. Each test has its own network.
pub const PORT: u16 = 3001;
pub const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), PORT);

/// `open` is allowed, `closed` is denied with a reason, `vetted` needs an approval; no rule names another tool for
/// the agent `tester`. The agent `stranger` may do nothing.
pub const POLICY: &str = r#"
agents:
  tester: {client_id: test-client, profiles: [default, other]}
  stranger: {client_id: strange-client}
intents:
  demo.open: [{server: demo, tool: open}]
  demo.closed: [{server: demo, tool: closed}]
  demo.vetted: [{server: demo, tool: vetted}]
  demo.secret: [{server: demo, tool: secret}]
policies:
  - {name: may-open, intent: demo.open, agents: [tester], decision: allow}
  - {name: keep-closed, intent: demo.closed, agents: [tester], decision: deny, reason: "Closed on Sundays"}
  - name: four-eyes
    intent: demo.vetted
    agents: [tester]
    decision: escalate
    escalation: {type: single, reviewers: ["role:lead"]}
"#;

/// Runs `body` in a new network with nothing in it.
pub fn apart<T: Send>(body: impl FnOnce() -> T + Send) -> T {
    Netns::new().run(body)
}

/// A guard that protects [`PORT`], and what a test needs around it.
#[derive(Debug)]
pub struct Scene {
    pub daemon: Daemon,
    pub puppet: Puppet,
    pub credential: Credential,
    pub https: Https,
}

impl Scene {
    /// Starts the server and the guard in the network of the calling thread. `limits` are those of `guard.yaml`.
    pub fn new(limits: &Value) -> anyhow::Result<Self> {
        Self::with(limits, |_daemon| Ok(()))
    }

    /// The same, with a last look at the guard before it starts.
    pub fn with(
        limits: &Value,
        prepare: impl FnOnce(&mut Daemon) -> anyhow::Result<()>,
    ) -> anyhow::Result<Self> {
        let puppet = Puppet::at(ADDRESS)?;
        let mut daemon = guard("demo", &[("policy.yaml", POLICY)])?;
        daemon.config.limits = serde_json::from_value(limits.clone())?;
        prepare(&mut daemon)?;
        let credential = daemon.issue("tester")?;
        daemon.start()?;
        let https = Https::new(ADDRESS, &daemon.ca())?;
        Ok(Self { daemon, puppet, credential, https })
    }

    /// A request of the agent `tester`.
    pub fn post(&self, message: &Value) -> Request {
        Request::post(message).by(&self.credential)
    }
}

/// A guard for one server on [`PORT`] in the network of the calling thread. It does not run yet.
pub fn guard(server: &str, policies: &[(&str, &str)]) -> anyhow::Result<Daemon> {
    let server: Server = serde_json::from_value(json!({"name": server, "port": PORT}))?;
    Daemon::new(Programs::built()?, None, &[server], policies)
}

/// A `tools/call` as sessions send it.
pub fn call(id: u64, tool: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": tool, "arguments": {}}})
}

/// What a tool answers that went well.
pub fn done(id: u64) -> Value {
    json!({"jsonrpc": "2.0", "id": id, "result": {"content": [{"type": "text", "text": "done"}], "isError": false}})
}

/// The same for any request.
pub fn done_for(message: &Value) -> Value {
    done(message["id"].as_u64().unwrap_or_default())
}
