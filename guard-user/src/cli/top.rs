//! `mcp-guard top`

use std::io::{self, ErrorKind, IsTerminal, Write};
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use crate::admin::{self, Ask};
use crate::cli::output::{self, plain};
use crate::config::Overrides;

/// Before a new table on a terminal: to the corner, and nothing below.
const CLEAR: &str = "\x1b[H\x1b[2J";

/// See which velocity rules are nearest to their limits
///
/// One row for each agent, user, session and the like that a rule counts apart, the fullest first, each second anew. Nothing
/// is counted by looking.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    config: Overrides,
    /// Print once and end
    #[arg(long)]
    once: bool,
    /// At most so many rows
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..))]
    rows: u16,
    /// Print one JSON object a line, also on an error
    #[arg(long)]
    pub(super) json: bool,
}

pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let socket = args.config.load()?.admin_socket();
    loop {
        let text = ask(&socket, args)?;
        let is_screen = !args.once && !args.json && io::stdout().is_terminal();
        if !show(if is_screen { CLEAR } else { "" }, &text)? || args.once {
            return Ok(ExitCode::SUCCESS);
        }
        thread::sleep(Duration::from_secs(1));
    }
}

fn ask(socket: &Path, args: &Args) -> anyhow::Result<String> {
    let answer = admin::ask(socket, &Ask::Velocity { rows: args.rows, about: None })?;
    Ok(if args.json { answer.to_string() } else { table(&answer) })
}

/// Whether somebody still reads.
fn show(before: &str, text: &str) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{before}{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        written => written.map(|()| true),
    }
}

fn table(answer: &Value) -> String {
    let rows = answer["rows"].as_array().map_or(&[][..], Vec::as_slice);
    if rows.is_empty() {
        return "No velocity rule counts anything now.".into();
    }
    let mut table = output::table(["RULE", "OF", "COUNTS", "USED", "MAX", "%", "ROOM IN", "THEN"]);
    for row in rows {
        let text = |key: &str| plain(row[key].as_str().unwrap_or("-"));
        let (used, max) = (row["used"].as_u64().unwrap_or_default(), row["max"].as_u64().unwrap_or_default());
        let profile =
            row["profile"].as_str().map_or(String::new(), |name| format!(", in profile {}", plain(name)));
        table.add_row([
            text("rule"),
            format!("{}{profile}", key(&row["key"])),
            text("measure"),
            used.to_string(),
            max.to_string(),
            (u128::from(used) * 100 / u128::from(max.max(1))).to_string(),
            room(&row["room_in_milliseconds"]),
            text("action"),
        ]);
    }
    format!("{table}\n{} of {} keys", rows.len(), answer["keys"])
}

/// `agent a, tool t`
pub(super) fn key(parts: &Value) -> String {
    let parts = parts.as_array().map_or(&[][..], Vec::as_slice);
    let parts = parts.iter().map(|part| {
        let [part, name] = [0, 1].map(|at| plain(part[at].as_str().unwrap_or_default()));
        // A call that has none is counted for its agent.
        match name.strip_prefix("~none:") {
            Some(agent) => format!("no {part} (agent {agent})"),
            None => format!("{part} {name}"),
        }
    });
    parts.collect::<Vec<_>>().join(", ")
}

pub(super) fn room(milliseconds: &Value) -> String {
    match milliseconds.as_u64() {
        None => "when one ends".into(),
        Some(0) => "now".into(),
        Some(milliseconds) => {
            let seconds = milliseconds.div_ceil(1000);
            let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
            match (days, hours, minutes) {
                (0, 0, 0) => format!("{seconds}s"),
                (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
                (0, hours, minutes) => format!("{hours}h {minutes}m"),
                (days, hours, _) => format!("{days}d {hours}h"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn names_that_somebody_else_chose_cannot_move_the_cursor() {
        let row = json!({"rule": "a\u{1b}[2Jb", "key": [["user", "x\u{1b}]0;y\u{7}"], ["tool", "~none:a"]], "measure": "calls",
            "action": "deny", "used": 5, "max": 10, "room_in_milliseconds": 61_500});
        let text = table(&json!({"rows": [row], "keys": 1}));
        assert!(!text.chars().any(|c| c.is_control() && c != '\n'), "{text:?}");
        for words in ["no tool (agent a)", "1m 2s", " 50 "] {
            assert!(text.contains(words), "no {words:?} in {text}");
        }
    }

    #[test]
    fn the_time_until_there_is_room_is_told_in_words() {
        let told =
            [(json!(0), "now"), (json!(1), "1s"), (json!(3_600_000), "1h 0m"), (json!(90_000_000), "1d 1h")];
        for (milliseconds, words) in told {
            assert_eq!(room(&milliseconds), words);
        }
        assert_eq!(room(&Value::Null), "when one ends");
    }
}
