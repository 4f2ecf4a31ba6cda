//! Installs Debian's eBPF toolchain, or says how to install one by hand.

use std::path::Path;

use anyhow::{Context as _, bail};

use super::Wanted;
use super::toolchain::debian_llvm;
use crate::command::{Tool, bends_a_build};
use crate::machine;

const LINKER_VERSION: &str = "0.13.0";
/// The LLVM versions that this bpf-linker can be built with.
const LINKER_LLVM: [&str; 3] = ["21", "22", "23"];
const PACKAGES: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// LLVM of Debian's compiler at the time of writing, for the advice on machines that have no such compiler yet.
const LLVM: &str = "22";

/// Installs what is missing of Debian's toolchain. Needs root. Takes about two minutes on two cores.
pub(super) fn debian() -> anyhow::Result<()> {
    println!("[1/4] apt-get update");
    apt(&["update"])?;
    println!("[2/4] apt-get install {}: a compiler with `core` for the kernel's target", PACKAGES.join(" "));
    apt(&[&["install", "-y", "--no-install-recommends"], &PACKAGES[..]].concat())?;
    if machine::find_program("bpf-linker")
        .is_some_and(|linker| Tool::new(linker).args(["--version"]).read().is_ok())
    {
        println!("[3/4] bpf-linker is here\n[4/4] nothing left to do");
        return Ok(());
    }
    let llvm =
        debian_llvm().context("the compiler that was just installed does not say which LLVM it uses")?;
    if !LINKER_LLVM.contains(&llvm.as_str()) {
        bail!(
            "Debian's compiler uses LLVM {llvm}, and bpf-linker {LINKER_VERSION} knows only {}.\n{}",
            LINKER_LLVM.join(", "),
            by_hand(Wanted::Nightly)
        );
    }
    let package = format!("llvm-{llvm}-dev");
    println!("[3/4] apt-get install {package}: what bpf-linker is built on");
    apt(&["install", "-y", "--no-install-recommends", &package])?;
    println!("[4/4] cargo install bpf-linker: about a minute");
    let prefix = format!("/usr/lib/llvm-{llvm}");
    if !Path::new(&prefix).exists() {
        bail!("{package} is installed, but {prefix} does not exist");
    }
    Tool::cargo()
        .without(bends_a_build)
        // Without it, an older llvm-config in PATH wins and the link fails with "unable to find library -lLLVM".
        .env("LLVM_PREFIX", &prefix)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION, "--locked", "--force"])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}")])
        .advice("A C++ compiler is needed too: apt-get install g++")
        .run()
}

/// The commands that install a toolchain, for machines where we may not or cannot do it.
pub(super) fn by_hand(wanted: Wanted) -> String {
    let debian = format!(
        "On Debian, as root:\n  \
           apt-get update && apt-get install -y --no-install-recommends {} llvm-{LLVM}-dev\n  \
           LLVM_PREFIX=/usr/lib/llvm-{LLVM} cargo install bpf-linker --version {LINKER_VERSION} --locked \
           --no-default-features --features llvm-{LLVM}",
        PACKAGES.join(" ")
    );
    let nightly = format!(
        "With rustup:\n  \
           rustup toolchain install nightly --profile minimal --component rust-src\n  \
           cargo install bpf-linker --version {LINKER_VERSION} --locked    # needs the LLVM that nightly uses, 23: \
           set LLVM_PREFIX"
    );
    match wanted {
        Wanted::Debian => debian,
        Wanted::Nightly => nightly,
        Wanted::Auto => format!("{debian}\n{nightly}"),
    }
}

fn apt(args: &[&str]) -> anyhow::Result<()> {
    Tool::new("apt-get")
        .env("DEBIAN_FRONTEND", "noninteractive")
        .args(["-qq", "-o", "Dpkg::Use-Pty=0", "-o", "DPkg::Lock::Timeout=120"])
        .args(args)
        .advice(format!("Is the network reachable? Nothing else was changed. {}", by_hand(Wanted::Auto)))
        .run()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_can_be_pasted() {
        let advice = by_hand(Wanted::Auto);
        assert!(advice.contains("rustc-web libstd-rust-web-dev-bpf llvm-22-dev\n"));
        assert!(advice.contains("--component rust-src\n"));
        assert!(LINKER_LLVM.contains(&LLVM));
    }
}
