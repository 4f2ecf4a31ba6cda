//! `cargo xtask kernel`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;

use crate::command::Tool;
use crate::guest::{self, Image};
use crate::{ebpf, machine};

/// Run the whole guard once on another kernel, in a small emulated machine
///
/// Builds the guard, takes a kernel of Debian's (nothing of it is installed), packs both into an initial file system and starts it
/// under qemu. In there the guard is started, proven, attacked, killed, started again, upgraded, stopped and unloaded; what
/// the kernel cannot do must be told by the guard. The result is read from the machine's serial line. Takes a minute or two
/// once built, without KVM. Installs qemu and busybox on Debian, which needs root; the rest does not.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which kernel: the beginning of its version, such as 6.1 or 6.12
    #[arg(long, value_name = "VERSION", default_value = "6.1")]
    image: String,
    /// Give up after so many seconds of the emulated machine
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    patience: u64,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

/// What runs in the machine, beside busybox.
const PROGRAMS: [&str; 5] =
    ["mcp-guard", "mcp-guard-verify", "kernel-smoke", "static-upstream", "steer-probe"];
/// The kernel's modules without which nobody can ask for sockets or end a connection. Each needs those before it.
const MODULES: [&str; 2] = ["inet_diag", "tcp_diag"];
/// The last line of a machine in which everything went well.
const PASSED: &str = "SMOKE PASSED";

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    step("kernel programs (eBPF)");
    ebpf::build(&args.ebpf)?;
    step("guard and what runs it in the machine");
    Tool::cargo()
        .args(["build", "--locked", "--package", "mcp-guard", "--package", "guard-tests"])
        .args(PROGRAMS.iter().flat_map(|name| ["--bin", name]))
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    step("qemu and busybox");
    guest::install_tools()?;
    step(&format!("Linux {}", args.image));
    let image = Image::fetch(&args.image)?;
    println!("   {}", image.name);
    step("the machine's files");
    let built = machine::target_dir().join("debug");
    let programs: Vec<PathBuf> = PROGRAMS.iter().map(|name| built.join(name)).collect();
    let files = guest::pack(&image, &MODULES, &programs)?;
    step("the machine");
    let start = Instant::now();
    let last = guest::run(&image, &files, Duration::from_secs(args.patience))?;
    let took = start.elapsed().as_secs();
    if last.as_deref() != Some(PASSED) {
        bail!(
            "the guard does not do on {} what it should ({took} s); the machine's words stand above.\n  \
             The whole serial line is in {}",
            image.name,
            guest::log().display()
        );
    }
    println!("passed on {} in {took} s of emulation", image.name);
    Ok(ExitCode::SUCCESS)
}

fn step(what: &str) {
    println!("── {what}");
}
