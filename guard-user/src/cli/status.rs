//! `mcp-guard status`

use std::process::ExitCode;

/// Show what the running guard protects and whether each claim is proven
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
