//! `mcp-guard tools diff`

use std::process::ExitCode;

use anyhow::bail;
use serde_json::{Value, json};

use super::HELD;
use super::known::{known, tools};
use crate::cli::output::print;
use crate::config::Config;
use crate::tools::show::{diff, lines, visible};

pub(super) fn run(config: &Config, server: &str, tool: Option<&str>, json: bool) -> anyhow::Result<ExitCode> {
    let servers = known(config, Some(server), true)?;
    let all = servers.iter().flat_map(tools);
    let chosen: Vec<&Value> = match tool {
        Some(name) => all.filter(|tool| tool["name"] == name).collect(),
        None => all.filter(|tool| is_held(tool)).collect(),
    };
    if let (Some(tool), true) = (tool, chosen.is_empty()) {
        bail!(
            "no tool {tool:?} of {server} has come by; `mcp-guard tools list {server}` shows those that have"
        );
    }
    if json {
        print(&json!({ "server": server, "tools": chosen }).to_string())?;
    } else if chosen.is_empty() {
        print(&format!("All tools of {server} are as pinned."))?;
    } else {
        let told: Vec<String> = chosen.iter().map(|tool| words(server, tool)).collect();
        print(&told.join("\n\n"))?;
    }
    let is_held = chosen.into_iter().any(is_held);
    Ok(if is_held { ExitCode::from(HELD) } else { ExitCode::SUCCESS })
}

fn is_held(tool: &Value) -> bool {
    tool["state"] != "pinned"
}

fn words(server: &str, tool: &Value) -> String {
    let raw = tool["name"].as_str().unwrap_or_default();
    let name = visible(raw);
    let (pinned, offered) = (&tool["pinned"], &tool["offered"]);
    let mut out = vec![format!("{server} {name}: {}", tool["state"].as_str().unwrap_or_default())];
    out.extend(version("pinned", pinned));
    out.extend(version("offered", offered));
    if let Some(unclear) = offered["text"].as_str() {
        out.push(visible(unclear));
        return out.join("\n");
    }
    let definition = |of: &Value| of["definition"].as_str().map(lines);
    match (definition(pinned), definition(offered)) {
        (Some(pinned), None) if offered.is_null() => out.extend(pinned),
        (pinned_lines, Some(offered)) if pinned_lines.is_some() || pinned.is_null() => {
            out.extend(diff(&pinned_lines.unwrap_or_default(), &offered));
        }
        _ => out.push("The definition was not kept: limits.tool_pins_bytes_max was reached.".to_owned()),
    }
    if let Some(digest) = offered["digest"].as_str() {
        out.push(format!(
            "To approve it: mcp-guard tools approve {server} {} --digest {digest}",
            argument(raw)
        ));
    }
    out.join("\n")
}

fn version(what: &str, version: &Value) -> Vec<String> {
    let Some(digest) = version["digest"].as_str() else { return Vec::new() };
    let mut out = vec![format!("{what} since {}: {digest}", version["since"].as_str().unwrap_or_default())];
    for finding in version["findings"].as_array().map_or(&[][..], Vec::as_slice) {
        let text = |key: &str| visible(finding[key].as_str().unwrap_or_default());
        out.push(format!("  {} ({}) at {}", text("kind").replace('_', " "), text("what"), text("at")));
    }
    out
}

/// The name as a shell takes it; one with odd characters is for the operator to write.
fn argument(name: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | ':');
    let is_word = name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(is_plain);
    if is_word { name.to_owned() } else { "TOOL".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_a_shell_would_read_is_not_put_into_a_command() {
        for name in ["get_customer", "a/b:c.d-1"] {
            assert_eq!(argument(name), name);
        }
        for name in ["a b", "$(x)", "--all", "", "a'", "a;b", "é"] {
            assert_eq!(argument(name), "TOOL", "{name}");
        }
    }
}
