//! `cargo xtask faults`

use std::process::ExitCode;
use std::str::FromStr;

use anyhow::bail;

use super::test::install_strace;
use crate::command::Tool;
use crate::{ebpf, guard, machine};

/// Faults of the disk under the audit trail of a guard that runs: each system call fails once, and a guard is killed again and again
///
/// First every system call by which a running guard begins, writes, packs and removes files of its trail, copies its checkpoint, goes on
/// with what a killed one left or hands over to another key, fails with EIO, ENOSPC and EROFS, and is where a guard is killed (reads: some of
/// them, with EIO or a kill); what it came to is shown call by call. The same follows for those on the reserve of a full disk. Then a guard under load is killed 200 times, and the Merkle trees and proofs of the guard and of
/// the offline verifier are compared with another implementation's for 100,000 random logs. Fails if a call reached the server without
/// a durable record, a trail does not verify, or a guard does not go on by itself. Half an hour on two cores; `cargo xtask test` does a few of each but of
/// hand-overs to another key, for which it would have to wait. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// All of it, or so many system calls, kills and hundreds of trees
    #[arg(long, value_name = "full|N", default_value = "full")]
    scale: Scale,
    /// What random choices begin with; without it another number in each run, which is printed
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

#[derive(Debug, Clone, Copy)]
enum Scale {
    Full,
    Some(u32),
}

impl FromStr for Scale {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "full" => Ok(Self::Full),
            _ => text.parse().map(Self::Some).map_err(|_none| "`full` or a number".into()),
        }
    }
}

impl Scale {
    /// System calls, kills and trees.
    fn numbers(self) -> [u32; 3] {
        match self {
            Self::Full => [u32::MAX, 200, 100_000],
            Self::Some(number) => [number, number, number.saturating_mul(100)],
        }
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("it loads kernel programs and makes a network of its own; run it as root");
    }
    install_strace()?;
    guard::build(&args.ebpf, args.profile)?;
    let [sites, kills, trees] = args.scale.numbers();
    let runs = [
        (["guard-tests", "--test", "audit_faults"], "audit_fault_every_syscall"),
        (["guard-tests", "--test", "audit_faults_reserve"], "audit_fault_every_syscall_of_the_reserve"),
        (["guard-tests", "--test", "audit_daemon"], "audit_kill9_loop"),
        (["mcp-guard", "--lib", "--quiet"], "note_vectors"),
    ];
    for (suite, test) in runs {
        let mut tool = Tool::cargo()
            .args(["test", "--locked", "--package"])
            .args(suite)
            .args(args.profile.is_release().then_some("--release"))
            .args([test, "--", "--nocapture"])
            .env("GUARD_REQUIRE_PRIVILEGED", "1")
            .env("GUARD_FAULTS_SITES", sites.to_string())
            .env("GUARD_FAULTS_KILLS", kills.to_string())
            .env("GUARD_FAULTS_TREES", trees.to_string())
            .dir(&machine::root())
            .advice("The fault and what it came to stand above; --seed makes the same choices again.");
        if let Some(seed) = args.seed {
            tool = tool.env("GUARD_FAULTS_SEED", seed.to_string());
        }
        tool.run()?;
    }
    Ok(ExitCode::SUCCESS)
}
