//! Finds a compiler with `core` for the kernel's target, and a linker.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use super::{TARGET, Wanted};
use crate::command::Tool;
use crate::machine;

/// All that a build of the kernel programs needs.
#[derive(Debug)]
pub(super) struct Toolchain {
    pub(super) route: Route,
    pub(super) linker: PathBuf,
}

/// Where the compiler and its `core` come from.
#[derive(Debug)]
pub(super) enum Route {
    /// Debian's `rustc-web` with a prebuilt `core`.
    Debian { rustc: PathBuf, version: String },
    /// A rustup nightly that builds `core` from rust-src.
    Nightly { name: String },
}

#[derive(Debug)]
pub(super) enum Search {
    Found(Toolchain),
    Missing(Missing),
}

/// Why each route that was tried cannot be taken.
#[derive(Debug)]
pub(super) struct Missing(Vec<(&'static str, Vec<String>)>);

/// Debian's compiler. Not looked up in `PATH`, where rustup's proxy has the same name.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

pub(super) fn search(wanted: Wanted) -> Search {
    let linker = linker();
    let mut missing = Vec::new();
    for (route, name) in [(Wanted::Debian, "Debian packages"), (Wanted::Nightly, "rustup nightly")] {
        if wanted != Wanted::Auto && wanted != route {
            continue;
        }
        let found = if route == Wanted::Debian { debian() } else { nightly() };
        match (found, &linker) {
            (Ok(route), Ok(linker)) => return Search::Found(Toolchain { route, linker: linker.clone() }),
            (found, linker) => {
                missing.push((
                    name,
                    [found.err(), linker.as_ref().err().cloned()].into_iter().flatten().collect(),
                ));
            }
        }
    }
    Search::Missing(Missing(missing))
}

/// The LLVM that Debian's compiler was built with, such as `22`; bpf-linker must not be older.
pub(super) fn debian_llvm() -> Option<String> {
    let about = Tool::new(DEBIAN_RUSTC).args(["-vV"]).read().ok()?;
    let version = about.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next().map(str::to_owned)
}

fn debian() -> Result<Route, String> {
    if !Path::new(DEBIAN_RUSTC).exists() {
        return Err(format!("{DEBIAN_RUSTC} (package rustc-web)"));
    }
    let mut tool = Tool::new(DEBIAN_RUSTC).args(["--print", "sysroot"]);
    let sysroot = tool.read().map_err(|error| format!("a {DEBIAN_RUSTC} that works: {error:#}"))?;
    let version = Tool::new(DEBIAN_RUSTC).args(["--version"]).read().unwrap_or_default();
    let library = Path::new(&sysroot).join("lib/rustlib").join(TARGET).join("lib");
    if !holds_core(&library) {
        return Err(format!("core for {TARGET} in {} (package libstd-rust-web-dev-bpf)", library.display()));
    }
    Ok(Route::Debian { rustc: DEBIAN_RUSTC.into(), version })
}

fn nightly() -> Result<Route, String> {
    let rustup = machine::find_program("rustup").ok_or("rustup")?;
    let list = Tool::new(rustup).args(["toolchain", "list"]).read().map_err(|error| format!("{error:#}"))?;
    let nightlies: Vec<&str> = list
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| name.starts_with("nightly"))
        .collect();
    if nightlies.is_empty() {
        return Err("a nightly toolchain".into());
    }
    nightlies
        .iter()
        .find(|name| has_sources(name))
        .map(|name| Route::Nightly { name: (*name).to_owned() })
        .ok_or_else(|| format!("the component rust-src in {}", nightlies.join(", ")))
}

fn linker() -> Result<PathBuf, String> {
    let linker = machine::find_program("bpf-linker").ok_or("bpf-linker")?;
    Tool::new(&linker)
        .args(["--version"])
        .read()
        .map_err(|error| format!("a bpf-linker that starts ({error:#})"))?;
    Ok(linker)
}

fn holds_core(library: &Path) -> bool {
    fs::read_dir(library).is_ok_and(|files| {
        files.flatten().any(|file| {
            let name = file.file_name();
            let name = name.to_string_lossy();
            name.starts_with("libcore-") && name.ends_with(".rlib")
        })
    })
}

fn has_sources(toolchain: &str) -> bool {
    Tool::new("rustup")
        .args(["run", toolchain, "rustc", "--print", "sysroot"])
        .read()
        .is_ok_and(|sysroot| Path::new(&sysroot).join("lib/rustlib/src/rust/library/core").exists())
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.route {
            Route::Debian { rustc, version } => {
                // Less the commit and where it was built.
                let version = version.split(" (").next().unwrap_or(version);
                write!(f, "Debian packages ({version} at {}), ", rustc.display())?;
            }
            Route::Nightly { name } => write!(f, "rustup {name} with rust-src, ")?,
        }
        write!(f, "{}", self.linker.display())
    }
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (route, lacks)) in self.0.iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}  {route}: missing {}", lacks.join("; "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_listed_by_route() {
        let missing = Missing(vec![
            ("Debian packages", vec!["/usr/bin/rustc".into(), "bpf-linker".into()]),
            ("rustup nightly", vec!["rustup".into()]),
        ]);
        assert_eq!(
            missing.to_string(),
            "  Debian packages: missing /usr/bin/rustc; bpf-linker\n  rustup nightly: missing rustup"
        );
    }

    #[test]
    fn a_directory_without_core_is_no_library() {
        assert!(!holds_core(Path::new("/nonexistent")));
        assert!(!holds_core(Path::new("/")));
    }
}
