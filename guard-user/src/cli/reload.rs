//! `mcp-guard reload`

use std::process::ExitCode;

use super::output;
use crate::admin::{self, Ask};
use crate::config::Overrides;

/// Make the running guard read its policy, credentials and certificates again
///
/// All or nothing: if a file is wrong, everything stays as it was and this says what is wrong. Exit code 0 when the
/// new policy, credentials and certificates are in force, 1 otherwise.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let answer = admin::ask(&config.admin_socket(), &Ask::Reload)?;
    if args.json {
        println!("{answer}");
    } else {
        let policy = answer.get("policy").and_then(serde_json::Value::as_str).unwrap_or_default();
        println!("reloaded; calls are judged by policy {} from now on", output::short(policy));
    }
    Ok(ExitCode::SUCCESS)
}
