//! `mcp-guard tools`

mod approve;
mod diff;
mod forget;
mod known;
mod list;

use std::process::ExitCode;

use clap::Subcommand;

use crate::config::Overrides;

/// Exit code of `diff`: something is held.
pub(super) const HELD: u8 = 3;

/// See what servers' tools were when they were pinned, what has changed, and approve changes
///
/// The guard pins each tool's definition when it first comes by in a list. One that changes is held: no list shows it and
/// nobody calls it, until the server goes back or an operator approves the change. Each step is in the audit trail.
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
    /// Show each tool that has come by: whether it is as pinned, and what looks wrong in its texts
    ///
    /// States: pinned; changed (held: the server offers another definition); new (held: nobody has approved it yet);
    /// unreadable (held: parsers would read its definition differently). Works without a running guard.
    List {
        /// Only those of this server
        server: Option<String>,
    },
    /// Show how what a server offers differs from what is pinned
    ///
    /// Characters that a terminal does not show, or obeys, are written out, such as \u{202e}. Exit code 3 means that something
    /// is held, 0 that all is as pinned. Works without a running guard.
    Diff {
        server: String,
        /// Only this tool; one that is not held is shown whole
        tool: Option<String>,
    },
    /// Pin what a server offers now, so that agents see and call it again
    ///
    /// It is recorded, with the user who did it, before it counts; without a running guard, by the next one at its start.
    Approve {
        server: String,
        #[arg(value_name = "TOOL", required_unless_present = "all", conflicts_with = "all")]
        tools: Vec<String>,
        /// Every tool of the server that is held and can be read
        #[arg(long)]
        all: bool,
        /// Only if the definition still has this digest, as `tools diff` shows it; 16 of its digits are enough
        #[arg(long, value_name = "DIGEST", conflicts_with = "all")]
        digest: Option<String>,
    },
    /// Forget what was pinned, so that the server's next list shows it for the first time
    ///
    /// With `first_sight: trust` it is then pinned as the server offers it, whatever that is: `approve` is for changes that
    /// were looked at, `forget` for a server that became another one, or tools that it has no more. It is recorded, with the
    /// user who did it, before it counts; without a running guard, by the next one at its start.
    Forget {
        server: String,
        #[arg(value_name = "TOOL", required_unless_present = "all", conflicts_with = "all")]
        tools: Vec<String>,
        /// Every tool of the server
        #[arg(long)]
        all: bool,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { command, config, json } = args;
    let config = config.load()?;
    match command {
        Command::List { server } => list::run(&config, server.as_deref(), json),
        Command::Diff { server, tool } => diff::run(&config, &server, tool.as_deref(), json),
        Command::Approve { server, tools, all: _, digest } => {
            approve::run(&config, &server, &tools, digest.as_deref(), json)
        }
        Command::Forget { server, tools, all: _ } => forget::run(&config, &server, tools, json),
    }
}
