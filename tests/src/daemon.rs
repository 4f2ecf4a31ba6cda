//! The real `mcp-guard`, with files, names and a network namespace of its own, so that tests run side by side and
//! beside an installed guard.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use mcp_guard::config::{Config, Server};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::client::Endpoint;
use crate::ledger::Ledger;
use crate::process::{Process, START_LIMIT, eventually, program};
use crate::schema;

/// How long the guard may take to end after SIGTERM: its drain time and room for a busy machine.
const STOP_LIMIT: Duration = Duration::from_secs(60);
/// How long its cgroup may stay busy after its end.
const UNLOAD_LIMIT: Duration = Duration::from_secs(10);
/// How much of the guard's log is shown when it fails.
const LOG_SHOWN_BYTES_MAX: usize = 4000;

/// A guard that runs, has run or will run. Dropping it kills the guard and unloads what it left in the kernel.
#[derive(Debug)]
pub struct Daemon {
    dir: TempDir,
    pub config: Config,
    netns: Option<PathBuf>,
    /// Variables of the next start.
    pub environment: BTreeMap<String, String>,
    programs: Programs,
    process: Option<Process>,
    /// Whether a guard was started, so that there may be something to unload.
    started: bool,
}

/// The binaries under test.
#[derive(Debug, Clone)]
pub struct Programs {
    pub guard: PathBuf,
    pub verifier: PathBuf,
}

/// A credential that `mcp-guard tokens issue` made.
#[derive(Debug, Clone)]
pub struct Credential {
    pub client: String,
    pub profile: String,
    pub secret: String,
}

/// What `mcp-guard-verify` said.
#[derive(Debug, Clone)]
pub struct Verified {
    /// 0 sound, 1 tampered, 2 incomplete, 3 unreadable
    pub code: Option<i32>,
    pub report: Value,
}

impl Programs {
    /// Those that were built with this test.
    pub fn built() -> anyhow::Result<Self> {
        Ok(Self { guard: program("mcp-guard")?, verifier: program("mcp-guard-verify")? })
    }
}

impl Daemon {
    /// Writes the files of a guard for `servers`, in the network namespace of the file `netns` or in this one. The
    /// policies are (file name, text). Nothing runs yet; `config` may be changed before [`Daemon::start`].
    pub fn new(
        programs: Programs,
        netns: Option<&Path>,
        servers: &[Server],
        policies: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new().prefix("mcp-guard-test-").tempdir()?;
        let at = |name: &str| dir.path().join(name);
        let name = unique_name();
        let config = json!({
            "servers": servers,
            "policy_dir": at("policies"),
            "state_dir": at("state"),
            "runtime_dir": at("run"),
            "kernel": {"pins": name, "cgroup": name},
        });
        let config = serde_json::from_value(config)?;
        let netns = netns.map(Path::to_owned);
        let environment = BTreeMap::new();
        let daemon = Self { config, netns, environment, programs, process: None, started: false, dir };
        fs::create_dir(&daemon.config.policy_dir)?;
        for (name, text) in policies {
            daemon.write_policy(name, text)?;
        }
        Ok(daemon)
    }

    /// The `guard.yaml` of this guard: JSON, which is YAML too.
    pub fn config_file(&self) -> PathBuf {
        self.dir.path().join("guard.yaml")
    }

    /// Adds or replaces a policy file. A running guard learns of it by [`Daemon::reload`].
    pub fn write_policy(&self, name: &str, text: &str) -> anyhow::Result<()> {
        Ok(fs::write(self.config.policy_dir.join(name), text)?)
    }

    pub fn write_config(&self) -> anyhow::Result<()> {
        Ok(fs::write(self.config_file(), serde_json::to_vec_pretty(&self.config)?)?)
    }

    /// Starts the guard and waits until it says that it protects. An error holds the end of its log.
    pub fn start(&mut self) -> anyhow::Result<()> {
        self.start_within(START_LIMIT)
    }

    /// The same, of a guard that has more to do.
    pub fn start_within(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.start_by("run", limit)
    }

    /// The same with flags behind the verb.
    pub fn start_by(&mut self, verb: &str, limit: Duration) -> anyhow::Result<()> {
        self.start_with(verb, limit, |command| command)
    }

    /// Starts it by another program, such as one that narrows what it may do. `wrap` makes that command of the guard's own.
    pub fn start_through(&mut self, wrap: impl FnOnce(Command) -> Command) -> anyhow::Result<()> {
        self.start_with("run", START_LIMIT, wrap)
    }

    fn start_with(
        &mut self,
        verb: &str,
        limit: Duration,
        wrap: impl FnOnce(Command) -> Command,
    ) -> anyhow::Result<()> {
        ensure!(self.process.is_none(), "this guard runs already");
        self.write_config()?;
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = wrap(self.command(verb));
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).envs(&self.environment);
        let mut process = Process::spawn(self.netns.as_deref(), command)?;
        self.started = true;
        let protects = eventually(limit, || {
            if let Some(status) = process.ended()? {
                bail!("mcp-guard ended with {status}; its log ends:\n{}", self.log_end());
            }
            let status = self.status().ok();
            Ok(status.filter(|status| status["kernel"]["protected"] == true))
        })?;
        protects.with_context(|| format!("mcp-guard does not protect; its log ends:\n{}", self.log_end()))?;
        self.process = Some(process);
        Ok(())
    }

    /// Starts another guard that takes over from the running one, and waits until it protects and the other one has ended.
    pub fn upgrade(&mut self) -> anyhow::Result<()> {
        self.upgrade_within(START_LIMIT)
    }

    /// The same on a machine that is slow.
    pub fn upgrade_within(&mut self, limit: Duration) -> anyhow::Result<()> {
        let mut old = self.process.take().context("no guard runs")?;
        let log = File::options().create(true).append(true).open(self.log_file())?;
        let mut command = self.command("run --take-over");
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).envs(&self.environment);
        let mut new = Process::spawn(self.netns.as_deref(), command)?;
        let protects = eventually(limit, || {
            if let Some(status) = new.ended()? {
                bail!("the new guard ended with {status}; its log ends:\n{}", self.log_end());
            }
            let status = self.status().ok();
            let pid = new.pid();
            Ok(status.filter(|status| status["pid"] == pid && status["kernel"]["protected"] == true))
        });
        let protects = match protects {
            Ok(protects) => protects,
            Err(error) => {
                self.process = Some(old);
                return Err(error);
            }
        };
        protects
            .with_context(|| format!("the new guard does not protect; its log ends:\n{}", self.log_end()))?;
        let status = old.wait_for_end(STOP_LIMIT)?;
        self.process = Some(new);
        ensure!(status.success(), "the old guard ended with {status}; its log ends:\n{}", self.log_end());
        Ok(())
    }

    /// SIGTERM, and waits for the end. An error if it does not end in time or not with success.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("no guard runs")?;
        process.signal(Signal::TERM)?;
        let status = process.wait_for_end(STOP_LIMIT)?;
        ensure!(status.success(), "mcp-guard ended with {status}; its log ends:\n{}", self.log_end());
        Ok(())
    }

    /// Waits for the end of a guard that somebody else has told to end.
    pub fn wait_for_end(&mut self) -> anyhow::Result<()> {
        let status = self.process.as_mut().context("no guard runs")?.wait_for_end(STOP_LIMIT)?;
        self.process = None;
        ensure!(status.success(), "mcp-guard ended with {status}; its log ends:\n{}", self.log_end());
        Ok(())
    }

    /// `kill -9`, and waits until it is gone.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut process = self.process.take().context("no guard runs")?;
        process.signal(Signal::KILL)?;
        process.wait_for_end(STOP_LIMIT)?;
        Ok(())
    }

    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Process::pid)
    }

    /// An operator's command for this guard.
    pub fn command(&self, verb: &str) -> Command {
        let mut command = Command::new(&self.programs.guard);
        command.args(verb.split(' ')).arg("--config").arg(self.config_file());
        // As on a terminal of this width.
        command.env("COLUMNS", "100");
        // Nothing of the machine's own guard.
        for name in ["CONFIG", "STATE_DIR", "RUNTIME_DIR", "POLICY_DIR", "PINS", "CGROUP"] {
            command.env_remove(format!("MCP_GUARD_{name}"));
        }
        command
    }

    /// Runs an operator's command to its end, in the guard's namespace.
    pub fn output(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = self.command(verb);
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A Ctrl-C in this terminal must not end `unload` halfway.
        command.process_group(0);
        Ok(crate::netns::spawn_in(self.netns.as_deref(), command)?.wait_with_output()?)
    }

    /// The same with `--json`, which must succeed.
    pub fn json(&self, verb: &str, arguments: &[&str]) -> anyhow::Result<Value> {
        let output = self.output(verb, &[arguments, &["--json"]].concat())?;
        let complaint =
            String::from_utf8_lossy(&[&output.stderr[..], &output.stdout[..]].concat()).into_owned();
        ensure!(output.status.success(), "mcp-guard {verb} ended with {}: {complaint}", output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("mcp-guard {verb} printed no JSON"))
    }

    pub fn status(&self) -> anyhow::Result<Value> {
        self.json("status", &[])
    }

    /// Makes the running guard read its policy again; an error if it refuses it.
    pub fn reload(&self) -> anyhow::Result<()> {
        let output = self.output("reload", &[])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    }

    /// Issues a credential for an agent of the policy. A running guard learns of it by [`Daemon::reload`].
    pub fn issue(&self, agent: &str) -> anyhow::Result<Credential> {
        self.write_config()?;
        let issued = self.json("tokens issue", &["--agent", agent])?;
        let field = |name: &str| {
            issued[name].as_str().map(str::to_owned).with_context(|| format!("no {name} in {issued}"))
        };
        Ok(Credential { client: field("client_id")?, profile: field("profile")?, secret: field("secret")? })
    }

    /// Where an agent with this credential reaches the server on `port`, through the guard.
    pub fn endpoint(&self, port: u16, credential: &Credential) -> Endpoint {
        Endpoint::plain(format!("https://localhost:{port}/mcp")).trusting(&self.ca()).identified(
            &credential.client,
            &credential.profile,
            &credential.secret,
        )
    }

    /// The guard's local CA, once it has started.
    pub fn ca(&self) -> PathBuf {
        self.config.tls_dir().join("ca.pem")
    }

    /// What its trail says, all of it as the published schema has it.
    pub fn ledger(&self) -> anyhow::Result<Ledger> {
        let ledger = Ledger::read(&self.config.audit_dir())?;
        schema::follows(&ledger.records)?;
        Ok(ledger)
    }

    /// Runs `mcp-guard-verify` on this guard's trail.
    pub fn verify(&self) -> anyhow::Result<Verified> {
        self.verify_copy(&self.config.audit_dir())
    }

    /// Runs `mcp-guard-verify` on another directory, such as a tampered copy.
    pub fn verify_copy(&self, trail: &Path) -> anyhow::Result<Verified> {
        let output = Command::new(&self.programs.verifier).arg(trail).arg("--json").output()?;
        let complaint = String::from_utf8_lossy(&output.stderr);
        let report = serde_json::from_slice(&output.stdout)
            .with_context(|| format!("mcp-guard-verify printed no JSON: {complaint}"))?;
        Ok(Verified { code: output.status.code(), report })
    }

    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(self.process.as_ref().context("no guard runs")?.signal(signal)?)
    }

    /// Everything that this guard has logged so far.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(fs::read_to_string(self.log_file())?)
    }

    /// Ends the guard at once and opens its ports.
    ///
    /// # Panics
    /// If it does not run, or something of it is left.
    pub fn unload_after_kill(&mut self) {
        self.kill().expect("it runs");
        self.unload().expect("nothing is left");
    }

    /// Removes what a guard of this name left in the kernel; returns what it said.
    pub fn unload(&mut self) -> anyhow::Result<Value> {
        let mut report = Value::Null;
        // The cgroup is busy for a moment after its last process died.
        let all_gone = eventually(UNLOAD_LIMIT, || {
            let unloaded = self.json("unload", &[])?;
            let is_done = unloaded["left"].as_array().is_none_or(Vec::is_empty);
            if report.is_null() {
                report = unloaded;
            } else {
                for member in ["cgroup", "left"] {
                    report[member] = unloaded[member].clone();
                }
            }
            Ok(is_done.then_some(()))
        })?;
        all_gone.with_context(|| format!("mcp-guard unload leaves {}", report["left"]))?;
        self.started = false;
        Ok(report)
    }

    /// The guard's own files: configuration, policies, state, log. Only root may look in.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn log_file(&self) -> PathBuf {
        self.dir.path().join("guard.log")
    }

    fn log_end(&self) -> String {
        let log = fs::read(self.log_file()).unwrap_or_default();
        let start = log.len().saturating_sub(LOG_SHOWN_BYTES_MAX);
        String::from_utf8_lossy(&log[start..]).into_owned()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.process.take());
        // A port left closed would fail every later test in this namespace.
        if self.started
            && let Err(error) = self.unload()
        {
            eprintln!("mcp-guard unload after the test: {error:#}");
        }
    }
}

/// A name that no other guard on this host has.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("mcp-guard-test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

#[cfg(test)]
mod tests;
