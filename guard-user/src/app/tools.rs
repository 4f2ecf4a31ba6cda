//! The servers' tools: each step is recorded, what changes is written, and operators decide.

use std::io;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

use super::App;
use crate::admin::ToolChoice;
use crate::audit::{AuditError, Event, ToolChange};
use crate::tools::{Change, Digest, Finding, News, Step, Tools, now};
use crate::types::ServerName;

/// Shortest time between two times that the pins of all servers are written.
const WRITE_EVERY: Duration = Duration::from_millis(200);
/// The same as a multiple of how long the last one took: a server that changes its tools with each list does not keep the
/// disk busy.
const WRITE_PAUSE_TIMES: u32 = 20;
/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);

/// Starts to record and to write. Ends with the guard.
pub(super) fn spawn(app: &Arc<App>) {
    tokio::spawn(record(Arc::downgrade(app)));
    tokio::spawn(write(Arc::clone(&app.pipeline.tools), Arc::downgrade(app)));
}

async fn record(app: Weak<App>) {
    let Some(mut news) = app.upgrade().and_then(|app| app.pipeline.tools.news()) else { return };
    while let Some(news) = news.recv().await {
        let Some(app) = app.upgrade() else { return };
        if let Err(error) = app.note_tool(&news).await {
            tracing::error!(server = %news.server, tool = ?news.step.tool, %error, "a tool's change is not recorded");
        }
    }
}

async fn write(tools: Arc<Tools>, app: Weak<App>) {
    loop {
        tools.dirty().await;
        let begun = Instant::now();
        while let Err(error) = save(&tools).await {
            tracing::error!(%error, "the pinned tools cannot be written; what changed is held all the same");
            tokio::time::sleep(RETRY).await;
            if app.strong_count() == 0 {
                return;
            }
        }
        tokio::time::sleep(WRITE_EVERY.max(begun.elapsed() * WRITE_PAUSE_TIMES)).await;
    }
}

async fn save(tools: &Arc<Tools>) -> io::Result<()> {
    let tools = Arc::clone(tools);
    tokio::task::spawn_blocking(move || tools.save()).await.map_err(io::Error::other)?
}

impl App {
    /// Records what was approved while no guard ran.
    pub(super) async fn record_approved_tools(&self) -> anyhow::Result<()> {
        let tools = &self.pipeline.tools;
        let news = tools.to_record();
        for approved in &news {
            self.note_tool(approved).await.context("the audit trail cannot tell of an approved tool")?;
        }
        if !news.is_empty() {
            let tools = Arc::clone(tools);
            tokio::task::spawn_blocking(move || tools.forget_to_record()).await??;
        }
        Ok(())
    }

    /// Writes what the next guard must know.
    pub(super) async fn settle_tools(&self) {
        if let Err(error) = save(&self.pipeline.tools).await {
            tracing::error!(%error, "the pinned tools could not be written");
        }
    }

    async fn note_tool(&self, News { server, step, unrecorded }: &News) -> Result<u64, AuditError> {
        let Step { tool, change, digest, before, findings, unclear, uid } = step;
        let change = word(*change);
        let (digest, before) =
            (digest.map(|digest| digest.to_string()), before.map(|digest| digest.to_string()));
        let text = unclear.map_or_else(|| found(findings), |unclear| Some(unclear.to_string()));
        let event = Event::Tool(ToolChange {
            server: server.as_str(),
            tool,
            change: &change,
            digest: digest.as_deref(),
            before: before.as_deref(),
            text: text.as_deref(),
            uid: *uid,
            unrecorded: *unrecorded,
        });
        self.pipeline.audit.note(&event).await
    }

    /// What is known of the tools of one server, or of all: how each stands, and with `with_definitions` what is pinned and
    /// offered.
    pub(super) fn tools(&self, server: Option<&str>, with_definitions: bool) -> Result<Value, String> {
        let tools = &self.pipeline.tools;
        let mut names: Vec<&ServerName> =
            tools.servers().filter(|name| server.is_none_or(|server| name.as_str() == server)).collect();
        if let (Some(server), true) = (server, names.is_empty()) {
            return Err(format!("guard.yaml has no server {server}"));
        }
        names.sort_unstable();
        let servers: Vec<Value> = names
            .into_iter()
            .filter_map(|name| Some(crate::tools::told(name, &tools.pins(name)?, with_definitions)))
            .collect();
        Ok(json!({ "servers": servers }))
    }

    /// Pins what an operator has seen. Each is recorded before it counts.
    pub(super) async fn approve_tools(&self, choice: ToolChoice, uid: u32) -> Result<Value, String> {
        let ToolChoice { server, tools: chosen } = choice;
        let name = ServerName::parse(&server).map_err(|error| error.to_string())?;
        let store = &self.pipeline.tools;
        let mut pins = store.pins(&name).ok_or_else(|| format!("guard.yaml has no server {server}"))?;
        // All or none, as far as it depends on what was seen.
        let approve = |(tool, digest): (String, Digest)| {
            let step = pins.approve(&tool, Some(digest), uid, &now());
            step.map_err(|error| format!("{tool}: {error}"))
        };
        let steps: Vec<Step> = chosen.into_iter().map(approve).collect::<Result<_, _>>()?;
        let mut done = Vec::new();
        for step in steps {
            let (tool, digest) = (step.tool.clone(), step.digest);
            let Some(pin) = pins.tool(&tool).and_then(|tool| tool.pinned.clone()) else { continue };
            let news = News { server: name.clone(), step, unrecorded: 0 };
            let noted = self.note_tool(&news).await;
            noted.map_err(|error| format!("{tool}: not approved, since it cannot be recorded: {error}"))?;
            let (store, name, adopted) = (Arc::clone(store), name.clone(), tool.clone());
            let written = tokio::task::spawn_blocking(move || store.adopt(&name, &adopted, pin)).await;
            written.map_err(|error| error.to_string())?.map_err(|error| {
                format!("{tool}: approved, but a restart forgets it, since it cannot be written: {error}")
            })?;
            done.push(json!({ "tool": tool, "digest": digest }));
        }
        Ok(json!({ "server": server, "approved": done }))
    }

    /// Forgets tools, so that the next list shows them for the first time. Each is recorded before it counts.
    pub(super) async fn forget_tools(
        &self,
        server: &str,
        tools: Vec<String>,
        uid: u32,
    ) -> Result<Value, String> {
        let name = ServerName::parse(server).map_err(|error| error.to_string())?;
        let store = &self.pipeline.tools;
        let mut pins = store.pins(&name).ok_or_else(|| format!("guard.yaml has no server {server}"))?;
        let forget = |tool: String| pins.forget(&tool, uid).map_err(|error| format!("{tool}: {error}"));
        let steps: Vec<Step> = tools.into_iter().map(forget).collect::<Result<_, _>>()?;
        let mut done = Vec::new();
        for step in steps {
            let tool = step.tool.clone();
            let news = News { server: name.clone(), step, unrecorded: 0 };
            let noted = self.note_tool(&news).await;
            noted.map_err(|error| format!("{tool}: not forgotten, since it cannot be recorded: {error}"))?;
            let (store, name, forgotten) = (Arc::clone(store), name.clone(), tool.clone());
            let written = tokio::task::spawn_blocking(move || store.forget(&name, &forgotten, uid)).await;
            written.map_err(|error| error.to_string())?.map_err(|error| {
                format!(
                    "{tool}: forgotten, but a restart brings it back, since it cannot be written: {error}"
                )
            })?;
            done.push(tool);
        }
        Ok(json!({ "server": server, "forgotten": done }))
    }
}

fn word(change: Change) -> String {
    let word = serde_json::to_value(change).unwrap_or_default();
    word.as_str().unwrap_or_default().to_owned()
}

/// The findings in a sentence.
fn found(findings: &[Finding]) -> Option<String> {
    let each = findings.iter().map(|found| format!("{} {} at {}", found.kind.as_str(), found.what, found.at));
    (!findings.is_empty()).then(|| each.collect::<Vec<_>>().join("; "))
}
