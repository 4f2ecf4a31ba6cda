//! `mcp-guard check`

use std::process::ExitCode;

/// Check guard.yaml and the policy files, and say everything that is wrong with them
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
