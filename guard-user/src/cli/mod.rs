//! The operator's commands, one file each: `Args` is its command line, `run` does it.

pub mod audit;
pub mod check;
pub mod doctor;
mod output;
pub mod reload;
pub mod run;
pub mod status;
pub mod tokens;
pub mod unload;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Host network guard for MCP servers.
#[derive(Debug, Parser)]
#[command(name = "mcp-guard", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Check(check::Args),
    Status(status::Args),
    Reload(reload::Args),
    Unload(unload::Args),
    Tokens(tokens::Args),
    Audit(audit::Args),
    Doctor(doctor::Args),
}

impl Cli {
    /// Runs the command. An `Err` is for the operator's eyes: what happened, the likely cause, what to do next.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Run(args) => run::run(&args),
            Command::Check(args) => check::run(args),
            Command::Status(args) => status::run(&args),
            Command::Reload(args) => reload::run(&args),
            Command::Unload(args) => unload::run(&args),
            Command::Tokens(args) => tokens::run(args),
            Command::Audit(args) => audit::run(args),
            Command::Doctor(args) => doctor::run(args),
        }
    }
}
