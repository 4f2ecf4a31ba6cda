//! The operator's commands, one file each: `Args` is its command line, `run` does it.

pub mod audit;
pub mod block;
pub mod check;
pub mod doctor;
pub mod explain;
pub mod metrics;
mod output;
pub mod policy;
pub mod reload;
pub mod run;
pub mod servers;
pub mod sessions;
pub mod status;
pub mod stop;
pub mod tokens;
pub mod tools;
pub mod top;
pub mod unload;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Exit code where the command line is wrong, unless that is a verdict.
const WRONG_WORDS: u8 = 2;

/// Host network guard for MCP servers.
///
/// Where a command has --json, its errors are JSON too: one object with "error" (text) and, for mistakes in files,
/// "problems", on standard output. Exit code 1 means that it failed, 2 that its command line is wrong; `status`,
/// `audit verify` and some others tell more by theirs (docs/commands.md).
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
    Explain(explain::Args),
    Policy(policy::Args),
    Status(status::Args),
    Reload(reload::Args),
    Stop(stop::Args),
    Unload(unload::Args),
    Block(block::Args),
    Unblock(block::UnblockArgs),
    Servers(servers::Args),
    Sessions(sessions::Args),
    Tools(tools::Args),
    Top(top::Args),
    Metrics(metrics::Args),
    Tokens(tokens::Args),
    Audit(audit::Args),
    Doctor(doctor::Args),
}

impl Cli {
    /// Runs the command, and tells its error: what happened, the likely cause, what to do next.
    pub fn run(self) -> ExitCode {
        let (json, failure) = (self.command.wants_json(), self.command.failure());
        self.command.run().unwrap_or_else(|error| {
            output::print_error(&error, json);
            ExitCode::from(failure)
        })
    }
}

/// Prints what is wrong with the command line, or the help that it asks for. `words` are those of the command line.
pub fn misread(error: &clap::Error, words: impl Iterator<Item = OsString>) -> ExitCode {
    // Whoever closed the terminal reads nothing.
    let _ = error.print();
    ExitCode::from(misread_code(error, words))
}

fn misread_code(error: &clap::Error, words: impl Iterator<Item = OsString>) -> u8 {
    let mut verbs = words.filter(|word| !word.as_encoded_bytes().starts_with(b"-"));
    let is_of_audit = verbs.next().is_some_and(|verb| verb == "audit");
    match verbs.next() {
        _ if !error.use_stderr() => 0,
        Some(verb) if is_of_audit && audit::gives_verdicts(&verb) => audit::UNREADABLE,
        _ => WRONG_WORDS,
    }
}

impl Command {
    fn wants_json(&self) -> bool {
        match self {
            Self::Run(_) | Self::Metrics(_) => false,
            Self::Check(args) => args.json,
            Self::Explain(args) => args.json,
            Self::Policy(args) => args.json,
            Self::Status(args) => args.json,
            Self::Reload(args) => args.json,
            Self::Stop(args) => args.json,
            Self::Unload(args) => args.json,
            Self::Block(args) => args.json,
            Self::Unblock(args) => args.json,
            Self::Servers(args) => args.json,
            Self::Sessions(args) => args.json,
            Self::Tokens(args) => args.json,
            Self::Tools(args) => args.json,
            Self::Top(args) => args.json,
            Self::Audit(args) => args.wants_json(),
            Self::Doctor(args) => args.json,
        }
    }

    /// The exit code of an error.
    fn failure(&self) -> u8 {
        match self {
            Self::Status(_) => status::NOT_ASKED,
            Self::Audit(args) => args.failure(),
            Self::Explain(_) => explain::WRONG_INPUT,
            Self::Policy(_) => policy::WRONG_INPUT,
            _ => 1,
        }
    }

    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Command::Run(args) => run::run(&args),
            Command::Check(args) => check::run(args),
            Command::Explain(args) => explain::run(args),
            Command::Policy(args) => policy::run(args),
            Command::Status(args) => status::run(&args),
            Command::Reload(args) => reload::run(&args),
            Command::Stop(args) => stop::run(&args),
            Command::Unload(args) => unload::run(&args),
            Command::Block(args) => block::run(args),
            Command::Unblock(args) => block::unblock(args),
            Command::Servers(args) => servers::run(args),
            Command::Sessions(args) => sessions::run(args),
            Command::Tokens(args) => tokens::run(args),
            Command::Tools(args) => tools::run(args),
            Command::Top(args) => top::run(&args),
            Command::Metrics(args) => metrics::run(&args),
            Command::Audit(args) => audit::run(args),
            Command::Doctor(args) => doctor::run(args),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use clap::CommandFactory;

    use super::*;

    const PAGE: &str = include_str!("../../../docs/commands.md");

    /// Each command that does something, with the names of those that it belongs to.
    fn verbs(command: &clap::Command, path: &str, found: &mut BTreeMap<String, Vec<u8>>) {
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
            let name = format!("{path}{}", verb.get_name());
            if verb.has_subcommands() {
                verbs(verb, &format!("{name} "), found);
            } else {
                found.insert(name, vec![0, 1]);
            }
        }
    }

    #[test]
    fn a_wrong_command_line_is_no_verdict() {
        let mut all = BTreeMap::new();
        verbs(&Cli::command(), "", &mut all);
        for verb in all.keys() {
            let code = |more: &str| {
                let words = verb.split(' ').chain([more]);
                let error = Cli::try_parse_from(["mcp-guard"].into_iter().chain(words.clone())).unwrap_err();
                misread_code(&error, words.map(OsString::from))
            };
            let verdicts = ["audit verify", "audit reconcile", "audit checkpoints"];
            let expected = if verdicts.contains(&verb.as_str()) { audit::UNREADABLE } else { WRONG_WORDS };
            assert_eq!((code("--bogus"), code("--help")), (expected, 0), "{verb}");
        }
        let error = Cli::try_parse_from(["mcp-guard", "verify"]).unwrap_err();
        assert_eq!(misread_code(&error, ["verify".into()].into_iter()), WRONG_WORDS);
    }

    #[test]
    fn the_page_names_every_command_with_its_exit_codes() {
        let mut expected = BTreeMap::new();
        verbs(&Cli::command(), "", &mut expected);
        let unreadable = |verb: &[&str]| {
            let cli = Cli::try_parse_from([&["mcp-guard"], verb].concat()).unwrap();
            cli.command.failure()
        };
        let others = [
            ("status", vec![0, 1, 3, unreadable(&["status"])]),
            ("metrics", vec![0, 1, metrics::NOT_RUNNING]),
            ("explain", vec![0, explain::WRONG_INPUT]),
            ("policy packs", vec![0, policy::WRONG_INPUT]),
            ("policy suggest", vec![0, policy::WRONG_INPUT]),
            ("policy test", vec![0, 1, policy::WRONG_INPUT]),
            ("tools diff", vec![0, 1, tools::HELD]),
            ("audit verify", vec![0, 1, 2, unreadable(&["audit", "verify"])]),
            ("audit export", vec![0, 1, 2, audit::NOT_THE_SAME]),
            ("audit checkpoints", vec![0, audit::DENIED, unreadable(&["audit", "checkpoints"])]),
            ("audit reconcile", vec![0, audit::NOT_COMPLETE, unreadable(&["audit", "reconcile"])]),
        ];
        expected.extend(others.map(|(verb, codes)| (verb.to_owned(), codes)));
        let commands = PAGE.split("\n## ").next().unwrap();
        let rows = commands.lines().filter(|line| line.starts_with("| `"));
        let told: BTreeMap<String, Vec<u8>> = rows
            .map(|row| {
                let cells: Vec<_> = row.split('|').map(str::trim).collect();
                let codes = cells[2].split(", ").map(|code| code.parse().unwrap()).collect();
                (cells[1].replace('`', ""), codes)
            })
            .collect();
        assert_eq!(told, expected);
    }
}
