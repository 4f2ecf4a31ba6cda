//! `mcp-guard tokens`

use std::process::ExitCode;

/// Issue credentials for agents
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
