//! `mcp-guard sessions`

use std::process::ExitCode;

use anyhow::bail;
use clap::Subcommand;
use jiff::Timestamp;
use serde_json::Value;

use crate::admin::{self, Ask, WhichSessions};
use crate::cli::output::{self, plain, print};
use crate::config::Overrides;

/// See the open MCP sessions, and end them
///
/// A session belongs to the agent that opened it, and to the user and cgroup of its process where that is on this host.
/// Nobody else can use its id. It ends when its client or its server says so, after `limits.session_idle_seconds` without a
/// request, and after `limits.session_seconds_max`. Stateless requests (2026-07-28) have no sessions.
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
    /// Show the open sessions, the newest first
    ///
    /// SESSION is the beginning of the id's SHA-256, as in the audit trail: whoever knows an id could try to use it. STATE is `open`;
    /// or, as long as a request or stream of it is under way, `denied` (its server has said 404) or `ended` (by its client).
    List,
    /// End sessions: here at once, with their open streams, and then at their servers
    ///
    /// Their next request is answered with 404, as if the session had never been; the application has to connect anew. All that
    /// is said must hold: `--agent a --server s` ends those of a at s. Without SESSION, tasks are forgotten too, so that a server
    /// that was started again may give their ids anew. Exit code 1: there was none to end.
    End {
        /// As `sessions list` shows it
        #[arg(required_unless_present_any = ["agent", "server", "all"])]
        session: Vec<String>,
        /// Those of this agent
        #[arg(long)]
        agent: Option<String>,
        /// Those at this server
        #[arg(long)]
        server: Option<String>,
        /// All
        #[arg(long, conflicts_with_all = ["session", "agent", "server"])]
        all: bool,
    },
    /// Forget what agents have read, and end their sessions
    ///
    /// Flow rules go by the labels of what an agent has read before. Clear that when the agent itself has forgotten it: it was started anew, or its
    /// conversation was. What is under way is ended, and the sessions of that agent are closed at their servers. Exit code 1: nothing was
    /// read.
    Clear {
        /// Of this agent
        #[arg(long, required_unless_present = "all")]
        agent: Option<String>,
        /// Of all
        #[arg(long, conflicts_with = "agent")]
        all: bool,
    },
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    let Args { command, config, json } = args;
    let socket = config.load()?.admin_socket();
    match command {
        Command::List => {
            let answer = admin::ask(&socket, &Ask::Sessions)?;
            let tables = || format!("{}{}", table(&answer["sessions"]), contexts(&answer["contexts"]));
            print(&if json { answer.to_string() } else { tables() })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Clear { agent, all: _ } => {
            let answer = admin::ask(&socket, &Ask::ClearContexts { agent })?;
            let [count, sessions] =
                ["cleared", "sessions"].map(|what| answer[what].as_u64().unwrap_or_default());
            if count == 0 {
                bail!("nothing is marked as read there; `mcp-guard sessions list` shows what is");
            }
            let words = format!("{count} cleared, {sessions} sessions ended");
            print(&if json { answer.to_string() } else { words })?;
            Ok(ExitCode::SUCCESS)
        }
        Command::End { session, agent, server, all } => {
            let which = WhichSessions { sessions: session, agent, server, all };
            let answer = admin::ask(&socket, &Ask::EndSessions(which))?;
            let [count, tasks] = ["ended", "tasks"].map(|what| answer[what].as_u64().unwrap_or_default());
            if count == 0 && tasks == 0 {
                bail!("no such session is open; `mcp-guard sessions list` shows those that are");
            }
            let more = |count: u64| if count == 1 { "" } else { "s" };
            let mut words = format!("{count} session{} ended", more(count));
            if tasks > 0 {
                words = format!("{words}, {tasks} task{} forgotten", more(tasks));
            }
            print(&if json { answer.to_string() } else { words })?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn table(sessions: &Value) -> String {
    let sessions = sessions.as_array().map_or(&[][..], Vec::as_slice);
    if sessions.is_empty() {
        return "No session is open.".into();
    }
    let mut table = output::table([
        "SESSION", "SERVER", "AGENT", "FROM", "VERSION", "OPENED", "USED", "REQUESTS", "STATE",
    ]);
    for one in sessions {
        let text = |key: &str| plain(one[key].as_str().unwrap_or("-"));
        table.add_row([
            text("session"),
            text("server"),
            agent(one),
            from(&one["from"]),
            text("version"),
            time(&one["opened_at"]),
            time(&one["used_at"]),
            one["requests"].to_string(),
            text("state"),
        ]);
    }
    table.to_string()
}

/// With the user for whom it works, if its token says.
fn agent(session: &Value) -> String {
    let agent = session["agent"].as_str().unwrap_or("-");
    match session["user"].as_str() {
        Some(user) => plain(&format!("{agent} for {user}")),
        None => plain(agent),
    }
}

/// What agents have read; nothing if none has read anything with a label.
fn contexts(contexts: &Value) -> String {
    let contexts = contexts.as_array().map_or(&[][..], Vec::as_slice);
    if contexts.is_empty() {
        return String::new();
    }
    let mut table = output::table(["AGENT", "USER", "HAS READ", "USED"]);
    for one in contexts {
        let text = |value: &Value| plain(value.as_str().unwrap_or("-"));
        let labels = one["labels"].as_array().map_or(&[][..], Vec::as_slice).iter().map(text);
        let user = if one["is_shared"] == true { "(all others)".into() } else { text(&one["user"]) };
        table.add_row([
            text(&one["agent"]),
            user,
            labels.collect::<Vec<_>>().join(", "),
            time(&one["used_at"]),
        ]);
    }
    format!("\n\n{table}")
}

fn from(origin: &Value) -> String {
    match origin.get("process") {
        Some(process) => {
            plain(&format!("uid {} in {}", process["uid"], process["cgroup"].as_str().unwrap_or_default()))
        }
        None => origin.as_str().unwrap_or_default().to_owned(),
    }
}

fn time(milliseconds: &Value) -> String {
    let time = milliseconds.as_i64().and_then(|at| Timestamp::from_millisecond(at / 1000 * 1000).ok());
    time.map_or_else(|| "-".into(), |time| time.to_string())
}
