//! Builds the kernel programs, with whichever of the two known toolchains this machine has.

mod install;
mod toolchain;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::command::{Tool, bends_a_build};
use crate::machine;
use toolchain::{Route, Search, Toolchain};

/// The eBPF part of a verb's command line.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Never install anything; print what is missing instead
    #[arg(long)]
    no_install: bool,
    /// Which eBPF toolchain to use
    #[arg(long, value_enum, default_value_t = Wanted::Auto, value_name = "NAME")]
    ebpf_toolchain: Wanted,
}

impl Options {
    /// Whether what is missing may be installed.
    pub(crate) fn may_install(&self) -> bool {
        !self.no_install
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Wanted {
    /// Debian's packages if they are here, else a nightly
    Auto,
    /// Debian's rustc-web and its prebuilt `core` for bpfel-unknown-none
    Debian,
    /// A rustup nightly with rust-src
    Nightly,
}

/// The binary of the `guard-ebpf` package.
const BINARY: &str = "mcp-guard-bpf";
const TARGET: &str = "bpfel-unknown-none";

/// Builds the kernel object and puts it where the daemon's build embeds it from. Returns that place.
pub(crate) fn build(options: &Options) -> anyhow::Result<PathBuf> {
    let crate_dir = machine::root().join("guard-ebpf");
    if !crate_dir.join("Cargo.toml").exists() {
        bail!(
            "{} is missing: this is not a whole checkout of mcp-guard",
            crate_dir.join("Cargo.toml").display()
        );
    }
    let toolchain = find_or_install(options)?;
    println!("eBPF toolchain: {toolchain}");

    let target_dir = crate_dir.join("target");
    let flags = [
        format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH),
        "-Cdebuginfo=2".into(),
        format!("-Clinker={}", toolchain.linker.display()),
        "-Clink-arg=--btf".into(),
        // The same object wherever the checkout is: BTF names the source files.
        format!("--remap-path-prefix={}=mcp-guard", machine::root().display()),
        format!("--remap-path-prefix={}=cargo", machine::cargo_home().unwrap_or_default().display()),
    ];
    let mut cargo = match &toolchain.route {
        Route::Debian { rustc, .. } => {
            // aya-ebpf uses one unstable feature (asm_experimental_arch).
            Tool::cargo()
                .without(bends_a_build)
                .env("RUSTC", rustc)
                .env("RUSTC_BOOTSTRAP", "1")
                .args(["build"])
        }
        Route::Nightly { name } => Tool::new("rustup").without(bends_a_build).args([
            "run",
            name,
            "cargo",
            "build",
            "-Zbuild-std=core",
        ]),
    };
    cargo = cargo
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .args(["--quiet", "--locked", "--release", "--target", TARGET, "--target-dir"])
        .args([&target_dir])
        .dir(&crate_dir)
        .advice(
            "If bpf-linker could not read the bitcode, it was built with an older LLVM than the compiler's; build it \
             again with the command that `cargo xtask build --help` shows, and --force.",
        );
    cargo.run()?;
    publish(&target_dir.join(TARGET).join("release").join(BINARY))
}

/// Copies the object only when it differs, so that cargo embeds it again only then.
fn publish(built: &Path) -> anyhow::Result<PathBuf> {
    let place = machine::root().join("target/bpf/mcp-guard.bpf.o");
    let object = fs::read(built).with_context(|| format!("reading the kernel object {}", built.display()))?;
    if fs::read(&place).is_ok_and(|old| old == object) {
        println!("kernel object: unchanged, {} bytes", object.len());
    } else {
        fs::create_dir_all(place.parent().unwrap_or(&place))?;
        fs::write(&place, &object).with_context(|| format!("writing {}", place.display()))?;
        println!("kernel object: {} bytes → {}", object.len(), place.display());
    }
    Ok(place)
}

fn find_or_install(options: &Options) -> anyhow::Result<Toolchain> {
    let found = match toolchain::search(options.ebpf_toolchain) {
        Search::Found(toolchain) => return Ok(toolchain),
        Search::Missing(missing) => missing,
    };
    let may_install = !options.no_install
        && options.ebpf_toolchain != Wanted::Nightly
        && machine::is_debian()
        && machine::is_root();
    if !may_install {
        bail!("no eBPF toolchain is complete here.\n{found}\n{}", install::by_hand(options.ebpf_toolchain));
    }
    println!("No eBPF toolchain is complete here.\n{found}");
    install::debian()?;
    match toolchain::search(Wanted::Debian) {
        Search::Found(toolchain) => Ok(toolchain),
        Search::Missing(still) => {
            bail!("the eBPF toolchain is still not complete after installing it.\n{still}")
        }
    }
}
