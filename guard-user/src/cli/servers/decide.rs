//! `mcp-guard servers approve` and `refuse`

use std::process::ExitCode;

use anyhow::bail;
use serde_json::Value;

use crate::admin::{self, Ask, Choice};
use crate::cli::output::print;
use crate::config::Config;
use crate::types::ServerName;

/// Which closed listeners are meant.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// One listener, as `servers list` names it: host/3005, or a namespace's cookie and the port
    #[arg(value_name = "NAMESPACE/PORT", required_unless_present = "all_of")]
    listener: Option<String>,
    /// All closed listeners of this cgroup and of those below it
    #[arg(long, value_name = "CGROUP", conflicts_with = "listener")]
    all_of: Option<String>,
}

pub(super) fn approve(
    config: &Config,
    target: Target,
    name: Option<String>,
    json: bool,
) -> anyhow::Result<ExitCode> {
    if let Some(name) = &name {
        ServerName::parse(name)?;
    }
    let choice = choice(target, true, name)?;
    let is_guarded = choice.name.is_some();
    let done = admin::ask(&config.admin_socket(), &Ask::Decide(choice))?;
    let words = if is_guarded {
        "It stays closed until the guard starts again; from then on it is protected like a server of guard.yaml."
    } else {
        "Everybody can reach it. It stays so for this cgroup and port, also after a restart."
    };
    tell(&done, words, json)
}

pub(super) fn refuse(config: &Config, target: Target, json: bool) -> anyhow::Result<ExitCode> {
    let done = admin::ask(&config.admin_socket(), &Ask::Decide(choice(target, false, None)?))?;
    tell(&done, "It stays closed, also after a restart.", json)
}

fn choice(target: Target, approve: bool, name: Option<String>) -> anyhow::Result<Choice> {
    let (netns, port) = match target.listener.as_deref().map(parse) {
        None => (None, None),
        Some(Some((netns, port))) => (netns, Some(port)),
        Some(None) => bail!("write NAMESPACE/PORT as `mcp-guard servers list` shows it, such as host/3005"),
    };
    Ok(Choice { approve, netns, port, all_of: target.all_of, name })
}

/// The namespace's cookie (none for the guard's own) and the port.
fn parse(text: &str) -> Option<(Option<u64>, u16)> {
    let (netns, port) = text.split_once('/')?;
    let netns = if netns == "host" { None } else { Some(netns.parse().ok()?) };
    Some((netns, port.parse().ok()?))
}

fn tell(answer: &Value, words: &str, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        print(&answer.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = answer["done"].as_array().map_or(&[][..], Vec::as_slice);
    let mut lines: Vec<String> = done
        .iter()
        .map(|one| {
            format!(
                "{}: port {} of {}",
                one["state"].as_str().unwrap_or_default(),
                one["port"],
                one["cgroup"]
            )
        })
        .collect();
    lines.push(words.to_owned());
    print(&lines.join("\n"))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_is_named_by_its_namespace_and_port() {
        assert_eq!(parse("host/3005"), Some((None, 3005)));
        assert_eq!(parse("4242/80"), Some((Some(4242), 80)));
        for bad in ["3005", "host/", "host/70000", "x/1", "host/1/2"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
