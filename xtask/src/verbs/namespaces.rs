//! `cargo xtask namespaces`

use std::process::ExitCode;

use anyhow::bail;

use crate::command::Tool;
use crate::{ebpf, machine};

/// Protect many network namespaces, let go of them, and measure: time, memory, files, programs
///
/// Fails if a namespace is not protected, or if anything of one is left after it is gone.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Namespaces, each with a server of its own
    #[arg(long, default_value_t = 1000)]
    count: usize,
    /// How often all of them come and go; what is left is compared between the last two
    #[arg(long, default_value_t = 2)]
    rounds: usize,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

const PROGRAMS: [&str; 2] = ["mcp-guard", "many-namespaces"];

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("namespaces are made and kernel programs loaded, which needs root.\n  Run this as root.");
    }
    ebpf::build(&args.ebpf)?;
    Tool::cargo()
        .args(["build", "--locked", "--release", "--package", "mcp-guard", "--package", "guard-tests"])
        .args(PROGRAMS.iter().flat_map(|program| ["--bin", program]))
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    Tool::new(machine::target_dir().join("release").join("many-namespaces"))
        .args(["--count", &args.count.to_string(), "--rounds", &args.rounds.to_string()])
        .run()?;
    Ok(ExitCode::SUCCESS)
}
