//! `cargo xtask doctor`

use std::process::ExitCode;

use crate::command::Tool;
use crate::guard;

/// Tell what this kernel and host offer the guard, what is missing and what follows
///
/// Needs no eBPF toolchain: the probes bring their own small programs. Most rows need root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    profile: guard::Profile,
    /// Arguments for `mcp-guard doctor`, such as --json
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let guard = guard::build_user(args.profile)?;
    Err(Tool::new(guard).args(["doctor"]).args(&args.rest).exec())
}
