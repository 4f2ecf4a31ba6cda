//! `mcp-guard tools forget`

use std::process::ExitCode;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::known::{known, tools as entries};
use crate::admin::{self, Ask, ClientError};
use crate::audit;
use crate::cli::output::print;
use crate::config::Config;
use crate::tools;
use crate::tools::show::visible;
use crate::types::ServerName;

/// Without names: all of the server.
pub(super) fn run(
    config: &Config,
    server: &str,
    mut names: Vec<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let servers = known(config, Some(server), false)?;
    let known: Vec<&str> =
        servers.iter().flat_map(entries).filter_map(|tool| tool["name"].as_str()).collect();
    if names.is_empty() {
        names = known.iter().map(|&name| name.to_owned()).collect();
    }
    for name in &names {
        ensure!(
            known.contains(&name.as_str()),
            "no tool {name:?} of {server} has come by; `mcp-guard tools list {server}` shows those that have"
        );
    }
    names.sort_unstable();
    names.dedup();
    let done = if names.is_empty() {
        json!({ "server": server, "forgotten": [] })
    } else {
        let ask = Ask::ForgetTools { server: server.to_owned(), tools: names.clone() };
        match admin::ask(&config.admin_socket(), &ask) {
            Err(ClientError::NotRunning { .. }) => alone(config, server, &names)?,
            done => done?,
        }
    };
    print(&if json { done.to_string() } else { words(server, &done) })?;
    Ok(ExitCode::SUCCESS)
}

/// Without a guard, whose trail is held meanwhile, so that none begins.
fn alone(config: &Config, server: &str, names: &[String]) -> anyhow::Result<Value> {
    let _no_guard = audit::lock(&config.audit_dir()).context("a guard is starting or ending; try again")?;
    let name = ServerName::parse(server)?;
    let mut pins = tools::load(&config.state_dir, &name, config.limits.tool_pins_bytes_max)?;
    let uid = nix::unistd::getuid().as_raw();
    for tool in names {
        pins.forget_unrecorded(tool, uid).map_err(|error| anyhow::anyhow!("{tool}: {error}"))?;
    }
    tools::save(&config.state_dir, &name, &pins).context("cannot write the pinned tools")?;
    Ok(json!({ "server": server, "forgotten": names }))
}

fn words(server: &str, done: &Value) -> String {
    let done = done["forgotten"].as_array().map_or(&[][..], Vec::as_slice);
    if done.is_empty() {
        return format!("No tool of {server} has come by.");
    }
    let line = |name: &Value| format!("forgotten: {}", visible(name.as_str().unwrap_or_default()));
    done.iter().map(line).collect::<Vec<_>>().join("\n")
}
