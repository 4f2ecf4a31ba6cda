//! `mcp-guard stop`

use std::fs;
use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use crate::admin::{self, Ask, ClientError};
use crate::config::Overrides;
use crate::kernel::{self, Remains};

/// How long the guard may take beyond `limits.drain_seconds`.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks whether it has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Stop the running guard; the ports stay CLOSED
///
/// Calls under way get `limits.drain_seconds`, the audit trail is closed, and from then on every connection to the servers'
/// ports is refused, until `mcp-guard run` serves again or `mcp-guard unload` opens them. A guard that systemd started is
/// stopped by systemd. Exit code 0: no guard runs any more.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config.load()?;
    let stopped = match admin::ask(&config.admin_socket(), &Ask::Status { prove: false }) {
        Ok(status) => Some(stop(&status, Duration::from_secs(config.limits.drain_seconds) + PATIENCE)?),
        Err(ClientError::NotRunning { .. }) => None,
        Err(error) => return Err(error.into()),
    };
    let is_closed = kernel::remains(&config.kernel) == Remains::Here;
    if args.json {
        println!("{}", json!({ "stopped": stopped, "closed": is_closed }));
        return Ok(ExitCode::SUCCESS);
    }
    let ports: Vec<String> = config.servers.iter().map(|server| server.port.to_string()).collect();
    let ports = ports.join(", ");
    match stopped {
        Some(pid) => println!("The guard (pid {pid}) has ended."),
        None => println!("No guard is running here."),
    }
    if is_closed {
        println!(
            "The servers' ports ({ports}) stay CLOSED: `mcp-guard run` serves again, `mcp-guard unload` opens them."
        );
    } else {
        println!("`mcp-guard status` tells whether the servers' ports ({ports}) are closed here.");
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the guard that gave this status, and waits for its end.
fn stop(status: &Value, patience: Duration) -> anyhow::Result<i32> {
    let pid = status.get("pid").and_then(Value::as_i64).and_then(|pid| i32::try_from(pid).ok());
    let pid = pid.and_then(Pid::from_raw).context("the guard does not say which process it is")?;
    let number = pid.as_raw_nonzero().get();
    if status.get("managed").and_then(Value::as_bool).unwrap_or_default() {
        bail!(
            "a service manager started the guard (pid {number}) and would start it again: `systemctl stop mcp-guard` stops it, and \
             the ports stay closed then, too"
        );
    }
    let process = match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(process) => process,
        // It has ended since it answered.
        Err(rustix::io::Errno::SRCH) => return Ok(number),
        Err(error) => return Err(error).with_context(|| format!("cannot take hold of process {number}")),
    };
    pidfd_send_signal(&process, Signal::TERM).with_context(|| format!("cannot end process {number}"))?;
    let end = Instant::now() + patience;
    while is_alive(number) {
        if Instant::now() > end {
            bail!(
                "the guard (pid {number}) takes longer than its drain time to end; it accepts nothing any more. Look at its log"
            );
        }
        sleep(LOOK);
    }
    Ok(number)
}

/// A process whose parent has not yet heard of its end is over all the same.
fn is_alive(pid: i32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, None | Some('Z' | 'X'))
}
