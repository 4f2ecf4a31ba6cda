//! `mcp-guard doctor`

use std::process::ExitCode;

/// Tell what this kernel and host offer, what is missing and what follows
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
