//! `mcp-guard doctor`

use std::path::PathBuf;
use std::process::ExitCode;

use comfy_table::{Table, presets};

use super::output;
use crate::kernel;
use crate::kernel::probe::{self, Found, Row};

/// Tell what this kernel and host offer, what is missing and what follows
///
/// Each row is tried, not looked up by version: programs are loaded, maps made, hooks attached and a connection
/// ended, in namespaces and a cgroup of the probe's own. Exit code 0: the guard can protect ports here. 1: something
/// that it needs is missing, or this user may not find out.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
    /// Where the audit trail will be, for its disk space
    #[arg(long, value_name = "DIR", default_value = "/var/lib/mcp-guard")]
    state_dir: PathBuf,
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { json, state_dir } = args;
    let mut rows = probe::probe(&state_dir);
    let object = kernel::object().map(<[u8]>::len);
    rows.push(probe::embedded_object(object.map_err(|none| none.to_string())));
    let fatal = rows.iter().filter(|row| row.is_fatal()).count();
    if json {
        output::print(&format!("{:#}", serde_json::json!({ "ready": fatal == 0, "rows": rows })))?;
    } else {
        output::print(&format!("{}\n{}", table(&rows), summary(&rows, fatal)))?;
    }
    Ok(if fatal == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(rows: &[Row]) -> Table {
    let mut table = output::table(["what", "found", "seen, and what follows"]);
    table.load_style(presets::UTF8_BORDERS_ONLY);
    for row in rows {
        let detail = match row.found {
            Found::Yes | Found::NeedsRoot => row.detail.clone(),
            Found::No | Found::Partly => format!("{}\n→ {}", row.detail, row.if_missing),
        };
        let found =
            if row.is_fatal() { format!("{} !", row.found.as_str()) } else { row.found.as_str().to_owned() };
        table.add_row([row.what.clone(), found, detail]);
    }
    table
}

fn summary(rows: &[Row], fatal: usize) -> String {
    if fatal == 0 {
        return "The guard can protect ports on this host.".into();
    }
    if rows.iter().any(|row| row.needed && row.found == Found::NeedsRoot) {
        return format!(
            "{fatal} needed rows (marked !) are missing or cannot be told by this user; run it as root."
        );
    }
    format!("The guard cannot protect ports on this host: {fatal} rows that it needs (marked !) are missing.")
}
