//! `mcp-guard run`

use std::process::ExitCode;

/// Protect the configured servers (the daemon)
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
