//! `cargo xtask build`

use std::process::ExitCode;

use crate::{ebpf, guard};

/// Build the kernel programs, then the binaries that embed them
///
/// The kernel programs need a compiler with `core` for the target bpfel-unknown-none, and bpf-linker. Two ways to
/// have them are known: Debian's packages rustc-web and libstd-rust-web-dev-bpf with bpf-linker built on the same
/// LLVM, or a rustup nightly with rust-src. The one taken is printed. On Debian, as root, what is missing is
/// installed; elsewhere the commands are printed.
///
/// bpf-linker by hand, for Debian's compiler:
///   LLVM_PREFIX=/usr/lib/llvm-22 cargo install bpf-linker --version 0.13.0 --locked
///   --no-default-features --features llvm-22
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let guard = guard::build(&args.ebpf, args.profile)?;
    println!("built: {}", guard.display());
    Ok(ExitCode::SUCCESS)
}
