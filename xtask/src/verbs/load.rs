//! `cargo xtask load`

use std::fs::{self, File};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use crate::command::Tool;
use crate::guard::Loaded;
use crate::{ebpf, guard, machine};

/// Build, start the guard in the background, and wait until its ports are protected
///
/// Its process id and its log are put into `load/` in cargo's target directory. `cargo xtask status` and
/// `cargo xtask unload` then need no `--config`. Needs root.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The guard's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// How long to wait until every port is protected
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    wait: u64,
    #[command(flatten)]
    profile: guard::Profile,
    #[command(flatten)]
    ebpf: ebpf::Options,
}

const POLL: Duration = Duration::from_millis(200);
/// How much of the log is shown when the guard did not come up.
const LOG_LINES: usize = 20;

pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    if !machine::is_root() {
        bail!("loading kernel programs needs root; run this as root");
    }
    let config =
        fs::canonicalize(&args.config).with_context(|| format!("finding {}", args.config.display()))?;
    let loaded = Loaded::here();
    if let Some(pid) = loaded.alive() {
        bail!("a guard from this checkout runs already (pid {pid}); `cargo xtask unload` ends it");
    }
    let guard = guard::build(&args.ebpf, args.profile)?;
    loaded.prepare()?;
    let mut child = start(&guard, &config, &loaded.log())?;
    loaded.remember(child.id(), &guard, &config)?;
    println!("mcp-guard runs as pid {}, log in {}", child.id(), loaded.log().display());
    wait_until_protected(&mut child, &guard, &config, &loaded, Duration::from_secs(args.wait))?;
    // Shows what is protected, in the guard's own words.
    Tool::new(&guard).args(["status", "--config"]).args([&config]).run()?;
    Ok(ExitCode::SUCCESS)
}

fn start(guard: &Path, config: &Path, log: &Path) -> anyhow::Result<Child> {
    let out = File::create(log).with_context(|| format!("making {}", log.display()))?;
    let err = out.try_clone()?;
    let mut guard = Tool::new(guard).args(["run", "--config"]).args([config]);
    guard
        .raw()
        // Its own process group: Ctrl-C in this terminal is not meant for it.
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(err)
        .spawn()
        .context("starting mcp-guard")
}

fn wait_until_protected(
    child: &mut Child,
    guard: &Path,
    config: &Path,
    loaded: &Loaded,
    patience: Duration,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            loaded.forget();
            bail!("mcp-guard ended at once ({status}). The end of its log:\n{}", tail(&loaded.log()));
        }
        // `status` succeeds only when every port is protected and each claim was proven.
        if Tool::new(guard).args(["status", "--config"]).args([config]).read().is_ok() {
            return Ok(());
        }
        if started.elapsed() > patience {
            bail!(
                "mcp-guard still runs (pid {}), but its ports are not protected after {} s. The end of its log:\n{}\n  \
                 `cargo xtask status` says what is not proven; `cargo xtask unload` ends it.",
                child.id(),
                patience.as_secs(),
                tail(&loaded.log())
            );
        }
        std::thread::sleep(POLL);
    }
}

fn tail(log: &Path) -> String {
    let text = fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory with a program that stands for the guard: `run` and `status` are shell commands.
    fn fake(name: &str, run: &str, status: &str) -> (Loaded, PathBuf) {
        let dir = machine::target_dir().join("xtask-tests").join(name);
        fs::create_dir_all(&dir).unwrap();
        let program = dir.join("guard.sh");
        // Written by a child: a descriptor that another test's fork inherits would make the program "busy".
        let text = format!("#!/bin/sh\ncase $1 in run) {run};; status) {status};; esac");
        Tool::new("sh")
            .args(["-c", "printf '%s\\n' \"$1\" > \"$2\" && chmod +x \"$2\"", "sh", &text])
            .args([&program])
            .run()
            .unwrap();
        (Loaded::at(dir), program)
    }

    fn load(loaded: &Loaded, program: &Path, patience: Duration) -> (anyhow::Result<()>, Child) {
        let config = Path::new("/etc/guard.yaml");
        let mut child = start(program, config, &loaded.log()).unwrap();
        let result = wait_until_protected(&mut child, program, config, loaded, patience);
        (result, child)
    }

    #[test]
    fn a_guard_that_dies_is_reported_with_the_end_of_its_log() {
        let (loaded, program) = fake("dies", "echo the port is taken; exit 3", "exit 1");
        let (result, _) = load(&loaded, &program, Duration::from_secs(60));
        let error = result.unwrap_err().to_string();
        assert!(error.contains("exit status: 3") && error.ends_with("the port is taken"), "{error}");
    }

    #[test]
    fn a_guard_that_proves_its_ports_is_loaded_and_one_that_does_not_is_not() {
        let (loaded, program) = fake("lives", "exec sleep 60", "exit 0");
        let (result, mut child) = load(&loaded, &program, Duration::from_secs(60));
        child.kill().unwrap();
        child.wait().unwrap();
        result.unwrap();

        let (loaded, program) = fake("unproven", "exec sleep 60", "exit 1");
        let (result, mut child) = load(&loaded, &program, Duration::ZERO);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(result.unwrap_err().to_string().contains("are not protected after 0 s"));
    }
}
