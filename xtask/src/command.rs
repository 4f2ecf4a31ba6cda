//! Running other programs, so that a failure always says which command failed, how, and what to do about it.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use anyhow::{Context as _, bail};

/// A command line that shows itself in errors.
pub(crate) struct Tool {
    command: Command,
    /// What the operator should do when it fails.
    advice: String,
}

impl Tool {
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self { command: Command::new(program), advice: String::new() }
    }

    /// The cargo that started us, with its toolchain, but without what it told only to us.
    pub(crate) fn cargo() -> Self {
        let mut tool = Self::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        tool.strip(told_by_cargo_run);
        tool
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.command.args(args);
        self
    }

    /// A flag with a path behind it.
    pub(crate) fn arg_path(mut self, flag: &str, path: &Path) -> Self {
        self.command.arg(flag).arg(path);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn dir(mut self, dir: &Path) -> Self {
        self.command.current_dir(dir);
        self
    }

    pub(crate) fn advice(mut self, advice: impl Into<String>) -> Self {
        self.advice = advice.into();
        self
    }

    /// Takes away every inherited variable that `unwanted` names.
    pub(crate) fn without(mut self, unwanted: fn(&str) -> bool) -> Self {
        self.strip(unwanted);
        self
    }

    fn strip(&mut self, unwanted: fn(&str) -> bool) {
        for (name, _) in std::env::vars_os() {
            if name.to_str().is_some_and(unwanted) {
                self.command.env_remove(&name);
            }
        }
    }

    /// Runs it with our own input and output; anything but success is an error.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        let status = self.status()?;
        self.judge(status)
    }

    /// Runs it with our own input and output.
    pub(crate) fn status(&mut self) -> anyhow::Result<ExitStatus> {
        self.command.status().with_context(|| self.not_started())
    }

    /// Runs it silently and returns what it wrote to its standard output.
    pub(crate) fn read(&mut self) -> anyhow::Result<String> {
        let Output { status, stdout, stderr } =
            self.command.stdin(Stdio::null()).output().with_context(|| self.not_started())?;
        self.judge(status).with_context(|| String::from_utf8_lossy(&stderr).trim().to_owned())?;
        Ok(String::from_utf8_lossy(&stdout).trim().to_owned())
    }

    /// Becomes the program: signals and its exit code are then its own. Returns only when that failed.
    pub(crate) fn exec(&mut self) -> anyhow::Error {
        anyhow::Error::from(self.command.exec()).context(self.not_started())
    }

    /// For what this type does not offer.
    pub(crate) fn raw(&mut self) -> &mut Command {
        &mut self.command
    }

    fn judge(&self, status: ExitStatus) -> anyhow::Result<()> {
        if status.success() {
            return Ok(());
        }
        bail!("`{self}` failed ({status}){}", Advice(&self.advice))
    }

    fn not_started(&self) -> String {
        format!("`{self}` could not be started{}", Advice(&self.advice))
    }
}

/// As one would type it, without the environment.
impl fmt::Display for Tool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.command.get_program().to_string_lossy())?;
        for arg in self.command.get_args() {
            let arg = arg.to_string_lossy();
            if arg.is_empty() || arg.contains(char::is_whitespace) {
                write!(f, " '{arg}'")?;
            } else {
                write!(f, " {arg}")?;
            }
        }
        Ok(())
    }
}

struct Advice<'a>(&'a str);

impl fmt::Display for Advice<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.0) }
    }
}

/// What `cargo run` sets for the program that it starts. In an inner cargo these name the wrong package and, for
/// `LD_LIBRARY_PATH`, the libraries of the wrong compiler.
fn told_by_cargo_run(name: &str) -> bool {
    const EXACT: [&str; 7] = [
        "CARGO",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
        "CARGO_BIN_NAME",
        "CARGO_CRATE_NAME",
        "CARGO_PRIMARY_PACKAGE",
        "LD_LIBRARY_PATH",
    ];
    EXACT.contains(&name) || name.starts_with("CARGO_PKG_")
}

/// What would bend a build for another target by another compiler. Where cargo keeps its files and how it reaches
/// the network stays.
pub(crate) fn bends_a_build(name: &str) -> bool {
    const EXACT: [&str; 5] = [
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_INCREMENTAL",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "RUSTFLAGS",
    ];
    const PREFIX: [&str; 5] = ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_", "RUSTC", "RUSTDOC"];
    told_by_cargo_run(name) || EXACT.contains(&name) || PREFIX.iter().any(|prefix| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_command_is_shown_with_its_exit_code_and_advice() {
        let error = Tool::new("sh").args(["-c", "exit 7"]).advice("try harder").run().unwrap_err();
        assert_eq!(error.to_string(), "`sh -c 'exit 7'` failed (exit status: 7)\n  try harder");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = Tool::new("no-such-program-here").advice("install it").run().unwrap_err();
        assert!(
            format!("{error:#}").starts_with("`no-such-program-here` could not be started\n  install it")
        );
    }

    #[test]
    fn the_kernel_build_keeps_the_network_settings_and_drops_the_flags() {
        for name in
            ["CARGO_HOME", "CARGO_HTTP_CAINFO", "CARGO_NET_OFFLINE", "HTTPS_PROXY", "PATH", "RUSTUP_HOME"]
        {
            assert!(!bends_a_build(name), "{name} must stay");
        }
        for name in ["RUSTFLAGS", "RUSTC_WRAPPER", "CARGO_TARGET_DIR", "RUSTUP_TOOLCHAIN", "CARGO_PKG_NAME"] {
            assert!(bends_a_build(name), "{name} must go");
        }
    }
}
