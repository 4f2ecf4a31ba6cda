//! `cargo xtask run`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::command::Tool;
use crate::{ebpf, guard};

/// Build, then run the guard in the foreground until Ctrl-C
///
/// The process becomes `mcp-guard run`: its signals and its exit code are the guard's own. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
    /// More arguments for `mcp-guard run`
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let guard = guard::build(&args.ebpf, args.profile)?;
    let mut guard = Tool::new(guard).args(["run", "--config"]).args([&args.config]).args(&args.rest);
    println!("{guard}");
    Err(guard.exec())
}
