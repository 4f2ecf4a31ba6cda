//! `mcp-guard reload`

use std::process::ExitCode;

/// Make the running guard read its policy and certificates again
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
