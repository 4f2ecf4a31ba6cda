//! The built `mcp-guard`: building it, finding it, and remembering the one that `load` started.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::command::Tool;
use crate::{ebpf, machine};

/// The user-space part of a verb's command line.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Profile {
    /// Build with optimization
    #[arg(long)]
    release: bool,
}

impl Profile {
    pub(crate) fn is_release(self) -> bool {
        self.release
    }

    /// Its directory in cargo's target directory.
    pub(crate) fn dir(self) -> &'static str {
        if self.release { "release" } else { "debug" }
    }
}

/// Kernel object, then the daemon that embeds it. Returns the daemon's path.
pub(crate) fn build(ebpf: &ebpf::Options, profile: Profile) -> anyhow::Result<PathBuf> {
    ebpf::build(ebpf)?;
    build_user(profile)
}

/// Runs a test of guards that follow each other `times` times under load, and shows its figures.
pub(crate) fn under_load(
    test: &str,
    times: u32,
    profile: Profile,
    ebpf: &ebpf::Options,
) -> anyhow::Result<()> {
    if !machine::is_root() {
        bail!("it loads kernel programs and makes a network of its own; run it as root");
    }
    build(ebpf, profile)?;
    Tool::cargo()
        .args(["test", "--locked", "--package", "guard-tests", "--test", "upgrade", test])
        .args(profile.is_release().then_some("--release"))
        .args(["--", "--nocapture"])
        .env("MCP_GUARD_TIMES", times.to_string())
        .dir(&machine::root())
        .advice("The figures and the failed claim stand above.")
        .run()
}

/// The daemon with whatever kernel object is there, maybe none. Returns its path.
pub(crate) fn build_user(profile: Profile) -> anyhow::Result<PathBuf> {
    let release = profile.release.then_some("--release");
    Tool::cargo()
        .args(["build", "--locked", "--package", "mcp-guard", "--bins"])
        .args(release)
        .dir(&machine::root())
        .advice("The compiler's message stands above.")
        .run()?;
    Ok(machine::target_dir().join(profile.dir()).join("mcp-guard"))
}

/// The guard that `cargo xtask load` started: its files in the target directory.
pub(crate) struct Loaded {
    dir: PathBuf,
}

impl Loaded {
    pub(crate) fn here() -> Self {
        Self::at(machine::target_dir().join("load"))
    }

    /// With another directory, for tests.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    pub(crate) fn log(&self) -> PathBuf {
        self.dir.join("guard.log")
    }

    /// Remembers a guard that was just started.
    pub(crate) fn remember(&self, pid: u32, guard: &Path, config: &Path) -> anyhow::Result<()> {
        self.write("guard.pid", &pid.to_string())?;
        self.write("guard.binary", &guard.to_string_lossy())?;
        self.write("guard.config", &config.to_string_lossy())
    }

    pub(crate) fn forget(&self) {
        for name in ["guard.pid", "guard.binary", "guard.config"] {
            // It may never have been written.
            let _ = fs::remove_file(self.dir.join(name));
        }
    }

    pub(crate) fn prepare(&self) -> anyhow::Result<()> {
        fs::create_dir_all(&self.dir).with_context(|| format!("making {}", self.dir.display()))
    }

    /// The process id, if that process lives and is the guard we started.
    pub(crate) fn alive(&self) -> Option<u32> {
        let pid: u32 = self.read("guard.pid")?.parse().ok()?;
        let binary = self.read("guard.binary")?;
        let exe = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
        // A rebuilt binary reads as "... (deleted)".
        exe.to_string_lossy().starts_with(&binary).then_some(pid)
    }

    /// The binary that was started, or else the newest one that was built.
    pub(crate) fn binary(&self) -> anyhow::Result<PathBuf> {
        let remembered = self.read("guard.binary").map(PathBuf::from).filter(|path| path.exists());
        let built = ["debug", "release"]
            .map(|profile| machine::target_dir().join(profile).join("mcp-guard"))
            .into_iter()
            .filter(|path| path.exists())
            .max_by_key(|path| fs::metadata(path).and_then(|meta| meta.modified()).ok());
        match remembered.or(built) {
            Some(path) => Ok(path),
            None => bail!("no mcp-guard was built yet; run `cargo xtask build`"),
        }
    }

    /// The configuration named on the command line, or else the one of the last `load`.
    pub(crate) fn config(&self, named: Option<&Path>) -> anyhow::Result<PathBuf> {
        match named.map(Path::to_owned).or_else(|| self.read("guard.config").map(PathBuf::from)) {
            Some(path) => Ok(path),
            None => bail!("no guard was loaded from this checkout; name its file with `--config guard.yaml`"),
        }
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.dir.join(name)).ok()
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.dir.join(name);
        fs::write(&path, text).with_context(|| format!("writing {}", path.display()))
    }
}
