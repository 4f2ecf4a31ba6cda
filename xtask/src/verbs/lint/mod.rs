//! `cargo xtask lint`

mod dependencies;
mod files;
mod links;
mod stages;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::command::Tool;
use crate::machine;

/// Check the form of the code: rustfmt, clippy, the order of the stages, file lengths, links, dependencies and their licences
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
    let sources = read(&root, ".rs")?;
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
    report("links in documents", links::check(&root, &read(&root, ".md")?));
    if !args.quick {
        report("dependencies", dependencies::check(&root)?);
        for (name, mut tool) in tools(&root) {
            report(name, tool.run().err().map(|error| format!("{error:#}")).into_iter().collect());
        }
    }
    if failed.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    bail!("lint failed: {}", failed.join(", "))
}

fn tools(root: &Path) -> [(&'static str, Tool); 3] {
    let cargo = |args: &[&str], advice: &str| Tool::cargo().args(args).dir(root).advice(advice);
    [
        (
            "rustfmt",
            cargo(
                &["fmt", "--all", "--check"],
                "`cargo fmt --all` repairs it; if cargo has no fmt: rustup component add rustfmt",
            ),
        ),
        (
            "rustfmt of the kernel programs",
            cargo(
                &["fmt", "--manifest-path", "guard-ebpf/Cargo.toml", "--check"],
                "`cargo fmt --manifest-path guard-ebpf/Cargo.toml` repairs it",
            ),
        ),
        (
            "clippy",
            cargo(
                &["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"],
                "Its messages stand above; if cargo has no clippy: rustup component add clippy",
            ),
        ),
    ]
}

/// Every file of the checkout whose name ends so, sorted by path.
fn read(root: &Path, end: &str) -> anyhow::Result<Vec<Source>> {
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
            } else if name.ends_with(end) {
                let text =
                    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))?;
                found.push(Source { path: path.strip_prefix(root).unwrap_or(&path).to_owned(), text });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}
