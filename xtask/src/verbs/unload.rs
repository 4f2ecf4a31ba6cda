//! `cargo xtask unload`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::command::Tool;
use crate::guard::Loaded;

/// Stop the guard and remove every program, map, link and pin of it; the ports are open afterwards
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard's configuration [default: that of the last `cargo xtask load`]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// More arguments for `mcp-guard unload`
    #[arg(last = true, value_name = "ARGS")]
    rest: Vec<String>,
}

/// How long the guard may take to end its open calls.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(100);

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = Loaded::here();
    let config = loaded.config(args.config.as_deref())?;
    Tool::new(loaded.binary()?)
        .args(["unload", "--config"])
        .args([&config])
        .args(&args.rest)
        .advice("Needs root. What is left can be seen with `bpftool link` and below the bpffs mount.")
        .run()?;
    if let Some(pid) = loaded.alive() {
        // The guard may end by itself when it is unloaded; asking twice does no harm.
        Tool::new("sh").args(["-c", &format!("kill -TERM {pid} 2>/dev/null || true")]).run()?;
    }
    let started = Instant::now();
    while let Some(pid) = loaded.alive() {
        if started.elapsed() > PATIENCE {
            bail!(
                "everything is unloaded, but the guard still runs (pid {pid}); end it with `kill -KILL {pid}`"
            );
        }
        std::thread::sleep(POLL);
    }
    loaded.forget();
    Ok(ExitCode::SUCCESS)
}
