//! `mcp-guard unload`

use std::process::ExitCode;

/// Stop protecting: remove every program, map, link and pin, and open the ports
#[derive(Debug, clap::Args)]
pub struct Args {}

pub fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("not built")
}
