//! `cargo xtask kills`

use std::process::ExitCode;

use crate::{ebpf, guard};

/// Kill a running guard again and again under constant connect load, and show the figures
///
/// Fails if anybody but the guard reaches the server. Shows how long the port was closed at most.
/// In a network namespace of its own. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often
    #[arg(long, value_name = "N", default_value_t = 50)]
    times: u32,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    guard::under_load("kills_under_load_let_nobody_through", args.times, args.profile, &args.ebpf)?;
    Ok(ExitCode::SUCCESS)
}
