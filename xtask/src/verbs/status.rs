//! `cargo xtask status`

use std::path::PathBuf;
use std::process::ExitCode;

use crate::command::Tool;
use crate::guard::Loaded;

/// Show what the running guard protects and whether each claim is proven
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard's configuration [default: that of the last `cargo xtask load`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// More arguments for `mcp-guard status`
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::here();
    let config = loaded.config(args.config.as_deref())?;
    Err(Tool::new(loaded.binary()?).args(["status", "--config"]).args([config]).args(&args.rest).exec())
}
