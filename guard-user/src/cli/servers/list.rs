//! `mcp-guard servers list`

use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use crate::admin::{self, Ask, ClientError};
use crate::cli::output::{self, print};
use crate::config::{Config, Server};
use crate::kernel::survey::{Survey, survey};
use crate::kernel::{self, Remains};

/// A configured server, once for each place where it is.
#[derive(Debug, Serialize)]
struct Row {
    #[serde(flatten)]
    server: Server,
    state: State,
    /// Cookie of the network namespace; none if no guard runs or the place is not there.
    netns: Option<u64>,
    /// The listeners that the guard's connections are given to or, without a guard, those on the port.
    listeners: Vec<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum State {
    /// Only the guard reaches it.
    Protected,
    /// The port is protected, but no recognised server listens.
    Down,
    /// Its container, unit, process or namespace is not there.
    Absent,
    /// No guard runs, and the port refuses everybody.
    Closed,
    /// No guard runs, and everybody reaches it.
    Unprotected,
    /// No guard runs, and whether the port is closed cannot be told.
    Unknown,
}

pub(super) fn run(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let status = match admin::ask(&config.admin_socket(), &Ask::Status { prove: false }) {
        Ok(status) => Some(status),
        Err(ClientError::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let rows: Vec<Row> = if let Some(status) = &status {
        config.servers.iter().flat_map(|server| running(server, status)).collect()
    } else {
        let seen = survey(&config.servers)?;
        config.servers.iter().map(|server| stopped(server, &seen, kernel::remains(&config.kernel))).collect()
    };
    let closed = match &status {
        Some(_) => admin::ask(&config.admin_socket(), &Ask::Listeners)?["closed"].take(),
        None => Value::Null,
    };
    if json {
        let all = serde_json::json!({ "running": status.is_some(), "servers": rows, "closed": closed });
        print(&all.to_string())?;
    } else {
        print(&(table(&rows, status.is_some()) + &closed_table(&closed)))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What the running guard says of a server: one row for each of its namespaces.
fn running(server: &Server, status: &Value) -> Vec<Row> {
    let port = server.port.to_string();
    let namespaces =
        status.pointer("/kernel/namespaces").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let rows: Vec<Row> = namespaces
        .iter()
        .filter(|namespace| namespace["servers"][&port] == server.name.as_str())
        .map(|namespace| {
            let pinned = namespace["ports"][&port]["pinned"].as_array().cloned().unwrap_or_default();
            let state = if pinned.is_empty() { State::Down } else { State::Protected };
            Row { server: server.clone(), state, netns: namespace["netns"].as_u64(), listeners: pinned }
        })
        .collect();
    if rows.is_empty() {
        return vec![Row {
            server: server.clone(),
            state: State::Absent,
            netns: None,
            listeners: Vec::new(),
        }];
    }
    rows
}

/// Without a guard: who listens there, and whether the port is closed.
fn stopped(server: &Server, seen: &Survey, remains: Remains) -> Row {
    let state = match remains {
        Remains::Here => State::Closed,
        Remains::Nothing | Remains::Elsewhere => State::Unprotected,
        Remains::Hidden | Remains::Unknown => State::Unknown,
    };
    let here =
        seen.listeners.iter().filter(|listener| listener.server.as_deref() == Some(server.name.as_str()));
    let listeners = here.map(|listener| {
        let holder = listener.holder.as_ref();
        serde_json::json!({
            "address": listener.address,
            "uid": listener.uid,
            "pid": holder.map(|holder| holder.pid),
            "comm": holder.map(|holder| &holder.comm),
            "cgroup": holder.map(|holder| &holder.cgroup),
        })
    });
    Row { server: server.clone(), state, netns: None, listeners: listeners.collect() }
}

fn table(rows: &[Row], is_running: bool) -> String {
    let mut table = output::table(["SERVER", "PORT", "IN", "STATE", "PROCESS"]);
    for row in rows {
        let state = serde_json::to_value(row.state).ok();
        table.add_row([
            row.server.name.to_string(),
            row.server.port.to_string(),
            row.server.place.to_string(),
            state.as_ref().and_then(Value::as_str).unwrap_or_default().to_owned(),
            process(&row.listeners),
        ]);
    }
    let mut text = table.to_string();
    if !is_running {
        text += "\nNo guard runs; `mcp-guard run` protects them.";
    }
    text
}

/// Listeners that wait for a decision, or were refused.
fn closed_table(closed: &Value) -> String {
    let closed = closed.as_array().map_or(&[][..], Vec::as_slice);
    if closed.is_empty() {
        return String::new();
    }
    let mut table = output::table(["CLOSED LISTENER", "ADDRESS", "PROCESS", "CGROUP", "STATE"]);
    for one in closed {
        let text = |key: &str| one[key].as_str().map_or_else(|| one[key].to_string(), str::to_owned);
        let netns = if one["is_own"] == true { "host".to_owned() } else { text("netns") };
        table.add_row([
            format!("{netns}/{}", one["port"]),
            text("address"),
            format!("pid {} ({}) uid {}", text("pid"), text("comm"), text("uid")),
            text("cgroup"),
            text("state"),
        ]);
    }
    format!("\n\n{table}\n`mcp-guard servers approve` and `refuse` decide about them.")
}

fn process(listeners: &[Value]) -> String {
    let shown: Vec<String> = listeners
        .iter()
        .map(|listener| {
            let text = |key: &str| match &listener[key] {
                Value::String(text) => text.clone(),
                Value::Null => "?".to_owned(),
                other => other.to_string(),
            };
            format!("{} pid {} ({}) uid {}", text("address"), text("pid"), text("comm"), text("uid"))
        })
        .collect();
    if shown.is_empty() { "-".to_owned() } else { shown.join(", ") }
}
