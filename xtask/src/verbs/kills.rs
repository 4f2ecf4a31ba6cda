//! `cargo xtask kills`

use std::process::ExitCode;

use anyhow::bail;

use crate::command::Tool;
use crate::{ebpf, guard, machine};

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
    if !machine::is_root() {
        bail!("it loads kernel programs and makes a network of its own; run it as root");
    }
    guard::build(&args.ebpf, args.profile)?;
    Tool::cargo()
        .args([
            "test",
            "--locked",
            "--package",
            "guard-tests",
            "--test",
            "upgrade",
            "kills_under_load_let_nobody_through",
        ])
        .args(args.profile.is_release().then_some("--release"))
        .args(["--", "--nocapture"])
        .env("MCP_GUARD_TIMES", args.times.to_string())
        .dir(&machine::root())
        .advice("The figures and the failed claim stand above.")
        .run()?;
    Ok(ExitCode::SUCCESS)
}
