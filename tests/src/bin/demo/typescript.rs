//! The TypeScript SDK, the client library that most agents use, if it is installed in this checkout.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use crate::agent::{Agent, finish};
use crate::screen::{Mark, Screen};

/// The agent's tools once more, and a call that is refused, with the other client library.
pub(crate) fn list(agent: &Agent, screen: &Screen) -> anyhow::Result<()> {
    let peers = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    if !peers.join("node_modules/@modelcontextprotocol/sdk").is_dir() {
        screen.fact("note", "the TypeScript SDK is not installed (no npm here), so all clients are rmcp's");
        return Ok(());
    }
    let own = peers.join(".node/node_modules/node/bin/node");
    let mut command = Command::new(if own.is_file() { own } else { "node".into() });
    let headers: Value =
        agent.endpoint.headers.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    let denied = json!({"tool": "process_refund", "arguments": {"customer_id": "C-1003", "amount": 25}});
    command
        .arg(peers.join("ts-client.mjs"))
        .args([&agent.endpoint.url, "customer-ops", "initialize", "list", "denied"])
        .env("MCP_HEADERS", headers.to_string())
        .env("MCP_DENIED", denied.to_string());
    if let Some(ca) = &agent.endpoint.ca {
        command.env("NODE_EXTRA_CA_CERTS", ca);
    }
    let (status, out, complaint) = finish(command)?;
    ensure!(status.success(), "the TypeScript client differs: {out}{complaint}");
    let steps = out
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<Vec<Value>, _>>()
        .with_context(|| format!("the TypeScript client printed {out}"))?;
    let step = |name: &str| steps.iter().find(|step| step["step"] == name).context("a step is missing");
    let tools = step("list")?["tools"].as_array().map_or(0, Vec::len);
    ensure!(tools == 3, "the TypeScript client sees {tools} tools instead of 3: {out}");
    ensure!(step("denied")?["is_error"] == true, "the TypeScript client was not refused: {out}");
    screen.row(
        &agent.name,
        "the same, TypeScript SDK",
        Mark::Good,
        "ok",
        "3 tools seen, refund refused: as with rmcp",
    );
    Ok(())
}
