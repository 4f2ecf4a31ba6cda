//! `cargo xtask upgrades`

use std::process::ExitCode;

use crate::{ebpf, guard};

/// Replace a running guard again and again under constant connect load, and show the figures
///
/// Fails if one connect fails, or if the trail does not account for every connection.
/// In a network namespace of its own. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 20)]
    times: u32,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    guard::under_load("upgrades_under_load_refuse_nobody", args.times, args.profile, &args.ebpf)?;
    Ok(ExitCode::SUCCESS)
}
