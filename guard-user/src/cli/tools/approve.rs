//! `mcp-guard tools approve`

use std::process::ExitCode;

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::known::{known, tools as entries};
use crate::admin::{self, Ask, ClientError, ToolChoice};
use crate::audit;
use crate::cli::output::{print, short};
use crate::config::Config;
use crate::tools::show::visible;
use crate::tools::{self, Digest};
use crate::types::ServerName;

/// Digits of a digest that are enough to say which one is meant.
const DIGITS_MIN: usize = 16;

/// Without names: all that are held.
pub(super) fn run(
    config: &Config,
    server: &str,
    names: &[String],
    digest: Option<&str>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    ensure!(digest.is_none() || names.len() == 1, "--digest is for one tool");
    let servers = known(config, Some(server), false)?;
    let known = servers.first().map_or(&[][..], entries);
    let mut chosen = Vec::new();
    if names.is_empty() {
        for tool in known {
            // One that cannot be read has no digest.
            if let (Some(name), Some(digest)) = (tool["name"].as_str(), tool["offered"]["digest"].as_str()) {
                chosen.push((name.to_owned(), Digest::try_from(digest.to_owned())?));
            }
        }
    }
    for name in names {
        let tool = known.iter().find(|tool| tool["name"] == name.as_str()).with_context(|| {
            format!("no tool {name:?} of {server} has come by; `mcp-guard tools list {server}` shows those that have")
        })?;
        chosen.push((name.clone(), offered(name, tool, digest)?));
    }
    if chosen.is_empty() {
        print(&if json {
            json!({ "server": server, "approved": [] }).to_string()
        } else {
            format!("Nothing of {server} is held that could be approved.")
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let ask = Ask::ApproveTools(ToolChoice { server: server.to_owned(), tools: chosen.clone() });
    let done = match admin::ask(&config.admin_socket(), &ask) {
        Err(ClientError::NotRunning { .. }) => alone(config, server, &chosen)?,
        done => done?,
    };
    print(&if json { done.to_string() } else { words(&done) })?;
    Ok(ExitCode::SUCCESS)
}

/// Without a guard, whose trail is held meanwhile, so that none begins.
fn alone(config: &Config, server: &str, chosen: &[(String, Digest)]) -> anyhow::Result<Value> {
    let _no_guard = audit::lock(&config.audit_dir()).context("a guard is starting or ending; try again")?;
    let name = ServerName::parse(server)?;
    let mut pins = tools::load(&config.state_dir, &name, config.limits.tool_pins_bytes_max)?;
    let uid = nix::unistd::getuid().as_raw();
    for (tool, digest) in chosen {
        pins.approve_unrecorded(tool, Some(*digest), uid, &tools::now())
            .map_err(|error| anyhow::anyhow!("{tool}: {error}"))?;
    }
    tools::save(&config.state_dir, &name, &pins).context("cannot write the pinned tools")?;
    let done: Vec<Value> =
        chosen.iter().map(|(tool, digest)| json!({ "tool": tool, "digest": digest })).collect();
    Ok(json!({ "server": server, "approved": done }))
}

/// What the server offers for a tool, if it is what the operator means.
fn offered(name: &str, tool: &Value, wanted: Option<&str>) -> anyhow::Result<Digest> {
    let offered = &tool["offered"];
    if let Some(unclear) = offered["text"].as_str() {
        bail!("{name}: {unclear}; the server must mend it, there is nothing to approve");
    }
    let digest = offered["digest"]
        .as_str()
        .with_context(|| format!("{name}: the server offers what is pinned; there is nothing to approve"))?;
    if let Some(wanted) = wanted {
        ensure!(wanted.len() >= DIGITS_MIN, "--digest: write at least {DIGITS_MIN} digits of it");
        ensure!(
            digest.starts_with(&wanted.to_ascii_lowercase()),
            "{name}: the server offers another definition now, with the digest {digest}; look at it again with \
             `mcp-guard tools diff`"
        );
    }
    Ok(Digest::try_from(digest.to_owned())?)
}

fn words(done: &Value) -> String {
    let done = done["approved"].as_array().map_or(&[][..], Vec::as_slice);
    let lines: Vec<String> = done
        .iter()
        .map(|one| {
            let text = |key: &str| visible(one[key].as_str().unwrap_or_default());
            format!("approved: {} ({})", text("tool"), short(&text("digest")))
        })
        .collect();
    lines.join("\n")
}
