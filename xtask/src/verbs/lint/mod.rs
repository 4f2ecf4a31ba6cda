//! `cargo xtask lint`

mod files;
mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::command::Tool;
use crate::machine;

/// Check the form of the code: rustfmt, clippy, the order of the stages, file lengths, left-over markers
///
/// All checks run, then the failed ones are listed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only the checks of our own, which take no compiler
    #[arg(long)]
    quick: bool,
}

/// A source file, with its path relative to the checkout.
pub(crate) struct Source {
    path: PathBuf,
    text: String,
}

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let root = machine::root();
    let sources = sources(&root)?;
    let mut failed = Vec::new();
    let mut report = |name: &str, found: Vec<String>| {
        println!("{name}: {}", if found.is_empty() { "ok" } else { "FAILED" });
        for line in &found {
            println!("  {line}");
        }
        if !found.is_empty() {
            failed.push(name.to_owned());
        }
    };
    report("order of the stages", stages::check(&sources));
    report("file lengths", files::lengths(&sources));
    report("left-over markers", files::markers(&sources));
    if !args.quick {
        for (name, tool) in compilers(&root) {
            report(
                name,
                tool.advice(ADVICE).run().err().map(|error| format!("{error:#}")).into_iter().collect(),
            );
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("lint failed: {}", failed.join(", "))
}

const ADVICE: &str =
    "`cargo fmt` repairs the form; if the tool itself is missing: rustup component add rustfmt clippy";

fn compilers(root: &Path) -> Vec<(&'static str, Tool)> {
    let cargo = |args: &[&str]| Tool::cargo().args(args).dir(root);
    vec![
        ("rustfmt", cargo(&["fmt", "--all", "--check"])),
        (
            "rustfmt of the kernel programs",
            cargo(&["fmt", "--manifest-path", "guard-ebpf/Cargo.toml", "--check"]),
        ),
        ("clippy", cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"])),
    ]
}

/// Every Rust file of the checkout, sorted by path.
fn sources(root: &Path) -> anyhow::Result<Vec<Source>> {
    let mut found = Vec::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(&dir).with_context(|| format!("reading {}", dir.display()))? {
            let entry = entry?;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if entry.file_type()?.is_dir() {
                if !name.starts_with('.') && name != "target" && name != "node_modules" {
                    dirs.push(path);
                }
            } else if name.ends_with(".rs") {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                found.push(Source { path: path.strip_prefix(root).unwrap_or(&path).to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
