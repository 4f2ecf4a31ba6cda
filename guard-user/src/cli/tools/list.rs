//! `mcp-guard tools list`

use std::process::ExitCode;

use serde_json::Value;

use super::known::{known, tools};
use crate::cli::output::{self, print, short};
use crate::config::Config;
use crate::tools::show::visible;

pub(super) fn run(config: &Config, server: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let servers = known(config, server, false)?;
    if json {
        print(&serde_json::json!({ "servers": servers }).to_string())?;
    } else {
        print(&table(&servers))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(servers: &[Value]) -> String {
    let mut table = output::table(["SERVER", "TOOL", "STATE", "LOOKS WRONG", "FIRST SEEN", "DIGEST"]);
    let mut held = 0;
    for server in servers {
        for tool in tools(server) {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            held += usize::from(tool["state"] != "pinned");
            // What the server offers, where that is another one.
            let current = if tool["offered"].is_null() { &tool["pinned"] } else { &tool["offered"] };
            table.add_row([
                text(&server["server"]),
                visible(tool["name"].as_str().unwrap_or_default()),
                text(&tool["state"]),
                findings(current),
                text(&tool["first_seen"]),
                current["digest"].as_str().map_or("-".to_owned(), |digest| short(digest).to_owned()),
            ]);
        }
    }
    if servers.iter().all(|server| tools(server).is_empty()) {
        return "No list of tools has come by yet.".to_owned();
    }
    if held == 0 {
        return table.to_string();
    }
    format!("{table}\n{held} held: nobody sees or calls them. `mcp-guard tools diff SERVER` shows why.")
}

/// The kinds of what looks wrong, each once; or why the definition cannot be read.
fn findings(definition: &Value) -> String {
    if let Some(unclear) = definition["unclear"].as_str() {
        return format!("unclear: {unclear}");
    }
    let found = definition["findings"].as_array().map_or(&[][..], Vec::as_slice);
    let mut kinds: Vec<&str> = found.iter().filter_map(|finding| finding["kind"].as_str()).collect();
    kinds.sort_unstable();
    kinds.dedup();
    if kinds.is_empty() { "-".to_owned() } else { kinds.join(", ") }
}
