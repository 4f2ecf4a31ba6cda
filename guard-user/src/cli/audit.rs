//! `mcp-guard audit`

use std::process::ExitCode;

/// Verify the audit trail
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
