//! What the conformance suite starts as the client of a scenario: it leaves scenarios out, and can put a guard before
//! the scenario's server: at a slot of a guard that runs, or one of its own at the server's own port.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Parser;
use guard_tests::own_guard::OwnGuard;
use guard_tests::slots::Slots;

/// Runs the client COMMAND, whose last argument is the server's URL
#[derive(Parser)]
#[command(name = "scenario-client")]
struct Options {
    /// The scenario that the suite runs
    #[arg(long, env = "MCP_CONFORMANCE_SCENARIO", hide = true)]
    scenario: String,
    /// Do nothing in scenarios whose names begin so
    #[arg(long, value_name = "TEXT")]
    leave_out: Vec<String>,
    /// Where a slot at a protected port is to be had
    #[arg(long, value_name = "ADDR:PORT")]
    slots: Option<SocketAddr>,
    /// Do nothing in any but scenarios whose names begin so
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Put a guard at the server's own port; what it saw is told in this directory
    #[arg(long, value_name = "DIR", conflicts_with = "slots")]
    own_guard: Option<PathBuf>,
    /// The client and its arguments; the last one is the server's URL
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut options = Options::parse();
    let is_left_out = options.leave_out.iter().any(|beginning| options.scenario.starts_with(beginning));
    if is_left_out || !options.scenario.starts_with(&options.only) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut url = options.command.pop().context("no URL")?;
    let slot = options.slots.map(|slots| Slots::ask(slots, &url)).transpose()?;
    if let Some((guarded, _stream)) = &slot {
        url.clone_from(guarded);
    }
    let guard = options.own_guard.map(|dir| OwnGuard::start(&dir, &url)).transpose()?;
    let (program, arguments) = options.command.split_first().context("no client")?;
    let status = Command::new(program).args(arguments).arg(url).status().context("cannot start it")?;
    if let Some(guard) = guard {
        guard.finish(&options.scenario)?;
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
