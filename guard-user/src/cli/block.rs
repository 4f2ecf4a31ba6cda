//! `mcp-guard block` and `mcp-guard unblock`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::bail;
use serde_json::json;

use super::output;
use crate::admin::{self, Ask, ClientError};
use crate::config::{Config, Overrides};
use crate::kernel::{self, BlockStatus, Done, Target};
use crate::rules::Rules;
use crate::types::{AgentName, ServerName};

/// How long the running guard may take to heed and record it. The kernel refuses before it is asked.
const PATIENCE: Duration = Duration::from_secs(2);

/// Refuse all connections to a server, of an agent, from a cgroup, or to everything, at once
///
/// The block is written into the kernel by this command itself: it needs no running guard, survives its death and its
/// next start, and ends connections that are open. `unblock` takes it back; so does `unload`, which opens the ports. An
/// agent is known to the running guard alone: with no guard alive nobody is let through anyway. Exit code 0: the block
/// holds.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    #[command(flatten)]
    target: What,
    /// Show every block that holds
    #[arg(long, conflicts_with_all = ["server", "agent", "cgroup", "all"])]
    list: bool,
    /// Why; shown by `status` and kept in the audit trail
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

/// Take a block back: what it refused is decided by the policy again
///
/// Works with or without a running guard. Exit code 0: nothing of the kind is blocked now.
#[derive(Debug, clap::Args)]
pub struct UnblockArgs {
    #[command(flatten)]
    config: Overrides,
    #[command(flatten)]
    target: What,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

#[derive(Debug, clap::Args)]
#[group(multiple = false)]
struct What {
    /// A server of guard.yaml: every connection to it is refused
    #[arg(long, value_name = "NAME", value_parser = ServerName::parse)]
    server: Option<ServerName>,
    /// An agent of the policy: its requests are refused, its streams end
    #[arg(long, value_name = "NAME", value_parser = AgentName::parse)]
    agent: Option<AgentName>,
    /// A cgroup and all below it: its processes may connect to no protected port. A path below the cgroup2 root, such as
    /// /system.slice/agent.service
    #[arg(long, value_name = "PATH")]
    cgroup: Option<PathBuf>,
    /// Every protected port
    #[arg(long)]
    all: bool,
}

impl What {
    fn target(self) -> anyhow::Result<Target> {
        Ok(match self {
            Self { server: Some(name), .. } => Target::Server(name),
            Self { agent: Some(name), .. } => Target::Agent(name),
            Self { cgroup: Some(path), .. } => Target::Cgroup(path),
            Self { all: true, .. } => Target::All,
            _ => bail!("say what: --server NAME, --agent NAME, --cgroup PATH or --all"),
        })
    }
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    if args.list {
        return list(&config, args.json);
    }
    let target = args.target.target()?;
    check(&config, &target)?;
    let done = kernel::block(&config.kernel, &target, &args.reason)?;
    tell(&config, &done, "blocked", args.json)
}

pub fn unblock(args: UnblockArgs) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let done = kernel::unblock(&config.kernel, &args.target.target()?)?;
    tell(&config, &done, "unblocked", args.json)
}

/// A name with a typing error would refuse nobody. A policy that cannot be read is no reason to wait.
fn check(config: &Config, target: &Target) -> anyhow::Result<()> {
    match target {
        Target::Server(name) if !config.servers.iter().any(|server| server.name == *name) => {
            bail!("guard.yaml has no server {name}; `mcp-guard status` lists them, --all blocks every one")
        }
        Target::Agent(name) => {
            let rules = Rules::load(config);
            if rules.is_ok_and(|rules| !rules.policy.agents().any(|(agent, _)| agent == name)) {
                bail!("the policy has no agent {name}; a request of an unknown agent is refused as it is");
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The running guard heeds and records it; one that does not answer finds it by itself.
fn tell(config: &Config, done: &Done, word: &str, json: bool) -> anyhow::Result<ExitCode> {
    let told = admin::ask_within(&config.admin_socket(), &Ask::Blocks, PATIENCE);
    let guard = match &told {
        Ok(_) => "told",
        Err(ClientError::NotRunning { .. }) => "not running",
        Err(_) => "no answer",
    };
    let Done { block, unchanged, written_microseconds, ended, problems } = done;
    if json {
        let object = json!({
            "done": word, "block": block, "unchanged": unchanged,
            "written_microseconds": written_microseconds, "ended": ended, "problems": problems, "guard": guard,
        });
        output::print(&object.to_string())?;
        return Ok(ExitCode::SUCCESS);
    }
    let what = describe(block);
    match (*unchanged, word) {
        (true, "blocked") => println!("{what} was blocked already, and is."),
        (true, _) => println!("{what} was not blocked."),
        (false, _) => println!("{what} is {word}."),
    }
    if *ended > 0 {
        println!("{ended} open connections were ended.");
    }
    match told {
        Ok(_) if *unchanged => {}
        Ok(_) => println!("The running guard has recorded it."),
        Err(ClientError::NotRunning { .. }) if *unchanged => println!("No guard is running."),
        Err(ClientError::NotRunning { .. }) => {
            println!("No guard is running; the next one that starts records it.");
        }
        Err(error) => println!("The running guard did not answer ({error}); it records it when it can."),
    }
    for problem in problems {
        println!("NOT DONE   {problem}");
    }
    Ok(ExitCode::SUCCESS)
}

fn list(config: &Config, json: bool) -> anyhow::Result<ExitCode> {
    let blocks = kernel::blocks(&config.kernel)?;
    if json {
        output::print(&json!({ "blocks": blocks }).to_string())?;
    } else if blocks.is_empty() {
        output::print("nothing is blocked")?;
    } else {
        let mut table = output::table(["BLOCKED", "SINCE", "BY UID", "REASON"]);
        for block in &blocks {
            table.add_row([describe(block), time(block.since), block.uid.to_string(), block.reason.clone()]);
        }
        output::print(&table.to_string())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn describe(block: &BlockStatus) -> String {
    match block.kind {
        "all" => "every protected port".into(),
        kind => format!("{kind} {}", block.name),
    }
}

/// In UTC, to the second.
pub(super) fn time(milliseconds: u64) -> String {
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_millisecond(milliseconds)
        .map_or_else(|_| "-".into(), |time| time.strftime("%Y-%m-%d %H:%M:%S UTC").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_written_in_utc() {
        assert_eq!(time(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(time(u64::MAX), "-");
    }
}
