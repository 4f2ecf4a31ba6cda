//! `cargo xtask churn`

use std::num::NonZeroU64;
use std::process::ExitCode;

use anyhow::bail;

use crate::command::Tool;
use crate::{ebpf, machine};

/// Short connections by the hundred thousand: none may leave a permission behind
///
/// The guard makes so many connections to its server, one after the other, from a few ports that are used again and again, while
/// clients take numbers from the same few. At the end the kernel's tables of the guard's connections must be empty, and nobody
/// else may have reached the server. `cargo xtask test` does the same with fewer.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How many
    #[arg(long, value_name = "COUNT", default_value = "100000")]
    connections: NonZeroU64,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("the connections are made beside real kernel programs, which needs root.\n  Run this as root.");
    }
    ebpf::build(&args.ebpf)?;
    Tool::cargo()
        .args(["test", "--locked", "--package", "guard-tests", "--bin", "steer-probe", "--test", "bypass"])
        .args(["no_permission_is_left_after_many_short_connections", "--", "--nocapture"])
        .env("GUARD_CHURN_CONNECTIONS", args.connections.to_string())
        .dir(&machine::root())
        .advice("The test's message stands above.")
        .run()?;
    Ok(ExitCode::SUCCESS)
}
