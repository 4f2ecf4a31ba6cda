//! What the conformance suite starts as the client of a scenario: it leaves scenarios out, and can put a guard before
//! the scenario's server.

use std::net::SocketAddr;
use std::process::{Command, ExitCode};

use anyhow::Context;
use clap::Parser;
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
    /// The client and its arguments; the last one is the server's URL
    #[arg(required = true, num_args = 2.., trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

fn main() -> anyhow::Result<ExitCode> {
    let mut options = Options::parse();
    if options.leave_out.iter().any(|beginning| options.scenario.starts_with(beginning)) {
        return Ok(ExitCode::SUCCESS);
    }
    let mut url = options.command.pop().context("no URL")?;
    let slot = options.slots.map(|slots| Slots::ask(slots, &url)).transpose()?;
    if let Some((guarded, _stream)) = &slot {
        url.clone_from(guarded);
    }
    let (program, arguments) = options.command.split_first().context("no client")?;
    let status = Command::new(program).args(arguments).arg(url).status().context("cannot start it")?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.map_or(ExitCode::FAILURE, ExitCode::from))
}
