//! `mcp-guard servers`

mod decide;
mod discover;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

use crate::config::Overrides;

/// See which MCP servers are protected, find those that are not, and decide about new ones
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    config: Overrides,
    /// Print one JSON object, also on an error
    #[arg(long, global = true)]
    pub(super) json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the configured servers: where they run, which process is taken for them, and whether they are protected
    List,
    /// Find listening MCP servers that are not in guard.yaml, and print entries to paste
    ///
    /// Looks at this host and at every network namespace of it. A listener counts if its command line says so: npx, uvx,
    /// node, python and other runtimes with the word "mcp", packages of @modelcontextprotocol, programs such as
    /// mcp-server-git or fastmcp. Asks nobody anything, unless --probe is given. Works without a running guard.
    Discover {
        /// Also ask listeners that give no hint: one MCP `initialize` to /mcp, at own addresses only
        ///
        /// At most 64 ports, half a second to connect and two to answer, never ports of well-known other protocols. The
        /// request says who asks (User-Agent: mcp-guard). A session that a server opens for it is ended.
        #[arg(long)]
        probe: bool,
    },
    /// Open a new listener in a watched cgroup, or make it a protected server
    ///
    /// Listeners in the cgroups of `kernel.watch` that are not in guard.yaml are closed until they are approved. The guard
    /// must run. What was decided holds for that cgroup and port, also after a restart of either side.
    Approve {
        #[command(flatten)]
        target: decide::Target,
        /// Protect it as a server of this name, from the next start of the guard on; closed until then
        #[arg(long = "as", value_name = "NAME")]
        name: Option<String>,
    },
    /// Keep a new listener in a watched cgroup closed
    Refuse {
        #[command(flatten)]
        target: decide::Target,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { command, config, json } = args;
    match command {
        Command::List => list::run(&config.load()?, json),
        Command::Discover { probe } => discover::run(&config, probe, json),
        Command::Approve { target, name } => decide::approve(&config.load()?, target, name, json),
        Command::Refuse { target } => decide::refuse(&config.load()?, target, json),
    }
}
