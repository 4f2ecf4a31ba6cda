//! `mcp-guard servers discover`

use std::io::ErrorKind;
use std::process::ExitCode;

use serde_json::json;

use crate::cli::output::{self, print};
use crate::config::{Overrides, Server};
use crate::discover::{Discovery, Found, PORTS_ASKED_MAX, discover};
use crate::kernel::survey::survey;

/// Bytes of a command line in the table.
const COMMAND_SHOWN: usize = 60;

pub(super) fn run(config: &Overrides, probe: bool, json: bool) -> anyhow::Result<ExitCode> {
    let survey = survey(&servers(config)?)?;
    let discovery = discover(survey, probe);
    if json {
        print(&serde_json::to_string(&as_json(&discovery))?)?;
    } else {
        print(&words(&discovery, probe))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Those of guard.yaml. Before there is one, discovering is how it gets its first entries.
fn servers(config: &Overrides) -> anyhow::Result<Vec<Server>> {
    match std::fs::metadata(&config.config) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        _ => Ok(config.load()?.servers),
    }
}

fn as_json(discovery: &Discovery) -> serde_json::Value {
    let mut value = json!(discovery);
    let yaml: Vec<String> = discovery.found.iter().map(|found| found.entry.to_string()).collect();
    value["yaml"] = json!(yaml);
    value
}

fn words(discovery: &Discovery, probe: bool) -> String {
    let mut lines = Vec::new();
    if discovery.found.is_empty() {
        let more = if probe { "" } else { "; --probe also asks listeners that give no hint" };
        lines.push(format!("No unprotected MCP server was found{more}."));
    } else {
        let mut table = output::table(["ADDRESS", "IN", "PID", "UID", "COMMAND", "WHY"]);
        table.add_rows(discovery.found.iter().map(row));
        lines.push(table.to_string());
        lines.push("\nTo protect them, add to guard.yaml and start the guard again:\n\nservers:".into());
        lines.extend(discovery.found.iter().map(|found| format!("  {}", found.entry)));
    }
    if discovery.not_asked > 0 {
        lines.push(format!("{} ports were not asked: {PORTS_ASKED_MAX} had been.", discovery.not_asked));
    }
    lines.extend(discovery.unseen.iter().map(|unseen| format!("not looked into: {unseen}")));
    if !nix::unistd::geteuid().is_root() {
        lines.push("Run it as root to see the processes of other users and other network namespaces.".into());
    }
    lines.join("\n")
}

fn row(found: &Found) -> [String; 6] {
    let listener = &found.listener;
    let holder = listener.holder.as_ref();
    let command = holder.map(|holder| holder.command.join(" ")).unwrap_or_default();
    // A process writes its command line as it likes; on a terminal it is plain text.
    let command: String = command.escape_debug().take(COMMAND_SHOWN).collect();
    [
        listener.address.to_string(),
        found.entry.place.to_string(),
        holder.map_or("-".into(), |holder| holder.pid.to_string()),
        listener.uid.to_string(),
        command,
        found.hint.words().to_owned(),
    ]
}
