//! `cargo xtask test`

use std::path::Path;
use std::process::ExitCode;

use anyhow::bail;

use super::residue::Before;
use super::suites::{AT_ONCE, suites};
use crate::command::Tool;
use crate::{ebpf, machine};

/// Run every test: unit and doc tests, then the privileged ones with real kernel programs
///
/// On a fresh machine it first builds what they need: the kernel programs, the binaries, and the public MCP servers
/// and clients that the privileged tests use as peers. The privileged tests need root and make their own network
/// namespaces; they touch no port of this host's own. At the end nothing of them may be left in the kernel.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run only tests whose name contains this
    #[arg(long, value_name = "TEXT")]
    filter: Option<String>,
    /// Leave the privileged tests out: no root, no eBPF toolchain, no peers
    #[arg(long)]
    unit_only: bool,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !args.unit_only {
        if !machine::is_root() {
            bail!(
                "the privileged tests load kernel programs and need root.\n  Run this as root, or leave them out: \
                 cargo xtask test --unit-only"
            );
        }
        prepare(&args.ebpf)?;
    }
    let mut failed = Vec::new();
    let mut run = |mut runner: Tool| -> anyhow::Result<()> {
        println!("\n── {runner}");
        if !runner.status()?.success() {
            failed.push(format!("`{runner}` failed"));
        }
        Ok(())
    };
    run(unit(args))?;
    if args.filter.is_none() {
        run(doc())?;
    }
    if !args.unit_only {
        let before = Before::now();
        let [waiting, others] = suites(&machine::root().join("tests/tests"))?;
        run(privileged(args, &[], &waiting, AT_ONCE))?;
        run(privileged(args, &["--lib", "--bins"], &others, "1"))?;
        // Nothing is printed when nothing is left, so that the runner's closing line stays the last.
        failed.extend(before.left());
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("{}", failed.join("\n  "))
}

/// Builds everything before the first test, so that a missing tool shows in seconds.
fn prepare(ebpf: &ebpf::Options) -> anyhow::Result<()> {
    ebpf::build(ebpf)?;
    Tool::cargo()
        .args(["build", "--locked", "--workspace", "--bins"])
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    install_nft()?;
    install_strace()?;
    install_mkfs()?;
    let peers = machine::root().join("tests/peers/install.sh");
    if peers.exists() {
        Tool::new(&peers)
            .dir(&machine::root())
            .advice(
                "The tests talk to public MCP servers and clients; installing them needs the network once. \
                 `cargo xtask test --unit-only` does without.",
            )
            .run()?;
    }
    Ok(())
}

/// What containers' engines and attackers bend packets with.
pub(super) fn install_nft() -> anyhow::Result<()> {
    const ADVICE: &str =
        "The tests translate addresses as container engines do, with `nft` of the package nftables.";
    // An ordinary user's PATH may lack the folder.
    if machine::find_program("nft").is_some() || Path::new("/usr/sbin/nft").exists() {
        return Ok(());
    }
    if !machine::is_debian() {
        bail!("there is no nft here.\n  {ADVICE} Install it.");
    }
    println!("apt-get install nftables: address translation for the tests");
    machine::apt_install("nftables", ADVICE)
}

/// What makes system calls of a running guard fail.
pub(super) fn install_strace() -> anyhow::Result<()> {
    const ADVICE: &str =
        "The tests of the audit trail make system calls fail with `strace` of the package of that name.";
    if machine::find_program("strace").is_some() {
        return Ok(());
    }
    if !machine::is_debian() {
        bail!("there is no strace here.\n  {ADVICE} Install it.");
    }
    println!("apt-get install strace: faults of the disk for the tests");
    machine::apt_install("strace", ADVICE)
}

/// What makes a disk that can be frozen. Machines have it in folders that an ordinary user's PATH may lack.
fn install_mkfs() -> anyhow::Result<()> {
    const ADVICE: &str =
        "The tests of the audit trail freeze a disk made with `mkfs.ext4` of the package e2fsprogs.";
    let folders = ["/usr/sbin", "/sbin"].map(Path::new);
    let is_there = folders.iter().any(|folder| folder.join("mkfs.ext4").exists());
    if is_there || machine::find_program("mkfs.ext4").is_some() {
        return Ok(());
    }
    if !machine::is_debian() {
        bail!("there is no mkfs.ext4 here.\n  {ADVICE} Install it.");
    }
    println!("apt-get install e2fsprogs: a disk to be frozen for the tests");
    machine::apt_install("e2fsprogs", ADVICE)
}

fn unit(args: &Args) -> Tool {
    tests().args(["--lib", "--bins", "--tests"]).args(&args.filter)
}

fn doc() -> Tool {
    tests().args(["--doc"])
}

/// One test at a time, but where they wait: most end with a look at what is left in the kernel, which all of them share.
fn privileged(args: &Args, more: &[&str], suites: &[String], at_once: &str) -> Tool {
    tests()
        .args(["--package", "guard-tests"])
        .args(more)
        .args(suites.iter().flat_map(|suite| ["--test", suite]))
        .args(&args.filter)
        // A test that cannot run here must fail, not look like a pass.
        .env("GUARD_REQUIRE_PRIVILEGED", "1")
        .args(["--".to_owned(), format!("--test-threads={at_once}")])
}

fn tests() -> Tool {
    Tool::cargo().args(["test", "--locked", "--no-fail-fast"]).dir(&machine::root())
}
