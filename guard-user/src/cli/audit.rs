//! `mcp-guard audit`

mod checkpoints;
mod export;
mod hash;
mod prove;
mod prune;
mod query;
mod stats;

#[cfg(test)]
pub(super) use checkpoints::DENIED;
#[cfg(test)]
pub(super) use export::NOT_THE_SAME;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use comfy_table::{ColumnConstraint, Table, Width};
use jiff::{SignedDuration, Timestamp};

use super::output;
use crate::audit::{
    Balance, Filter, Interval, RECORD_SCHEMA_TEXT, Report, Summary, Verdict, VerifierKey, last, reconcile,
    verify,
};
use crate::config::Overrides;

/// Read and verify the audit trail
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Check every record, every link and every signature. Exit code: 0 sound, 1 tampered, 2 incomplete, 3 unreadable
    Verify {
        #[command(flatten)]
        place: Place,
        /// The trail's verifier key, or a file that holds it; kept apart from the trail it proves more
        #[arg(long, value_name = "FILE_OR_KEY")]
        key: Option<String>,
        /// A file with an older checkpoint of the trail, copied off the host before: the trail must go on from it
        #[arg(long, value_name = "CHECKPOINT")]
        since: Option<PathBuf>,
    },
    Checkpoints(checkpoints::Args),
    Export(export::Args),
    Prove(prove::Args),
    Prune(prune::Args),
    Query(query::Args),
    Hash(hash::Args),
    Stats(stats::Args),
    /// Print the JSON Schema of the records, for programs that read them
    Schema,
    /// Compare the connections in the trail with those that kernel and guard counted. Exit code: 0 complete, 2 not, 3
    /// unreadable
    ///
    /// From one heartbeat record to the next, and for each server: the handshakes that the kernel finished, the
    /// connections that the guard accepted, and those with a record or another explanation. It trusts the records;
    /// `verify` says whether they are genuine.
    Reconcile {
        /// The audit directory [default: the one that guard.yaml names]
        #[arg(value_name = "DIR")]
        dir: Option<PathBuf>,
        #[command(flatten)]
        config: Overrides,
        /// Show every interval, not only those with connections or differences
        #[arg(long)]
        all: bool,
        /// Print one JSON object, also on an error
        #[arg(long)]
        json: bool,
    },
    /// Show the last records, oldest first
    ///
    /// What is said about the records wanted must all hold. With a call comes its outcome. Any such word makes it read the
    /// whole trail.
    List {
        #[command(flatten)]
        place: Place,
        /// How many records
        #[arg(long, value_name = "N", default_value_t = 20)]
        last: usize,
        #[command(flatten)]
        wanted: Wanted,
    },
}

#[derive(Debug, clap::Args)]
struct Wanted {
    /// Those of this agent
    #[arg(long)]
    agent: Option<String>,
    /// Those for this user, by the word of the agent's token
    #[arg(long)]
    user: Option<String>,
    /// Those about this server
    #[arg(long)]
    server: Option<String>,
    /// Calls of this tool, and what became of its definition
    #[arg(long)]
    tool: Option<String>,
    /// Those of this session, by the beginning of its name in `sessions list`
    #[arg(long)]
    session: Option<String>,
    /// Those with this reason, such as `default_deny`
    #[arg(long)]
    reason: Option<String>,
    /// Not older than this: `90s`, `15m`, `2h`, `7d`, or a time such as 2026-11-21T05:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Timestamp>,
}

impl From<Wanted> for Filter {
    fn from(wanted: Wanted) -> Self {
        let Wanted { agent, user, server, tool, session, reason, since } = wanted;
        let since = since.map(|since| since.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string());
        Self { agent, user, server, tool, session, reason, since }
    }
}

/// A span back from now, or a point of time.
pub(super) fn since(text: &str) -> Result<Timestamp, String> {
    let wrong = || format!("{text:?} is neither a span (90s, 15m, 2h, 7d) nor a time (2026-11-21T05:00:00Z)");
    let units = [("s", 1), ("m", 60), ("h", 3600), ("d", 24 * 3600)];
    let span = units.iter().find_map(|(unit, seconds)| {
        let number: i64 = text.strip_suffix(unit)?.parse().ok().filter(|number| *number >= 0)?;
        number.checked_mul(*seconds)
    });
    match span {
        Some(seconds) => {
            Timestamp::now().checked_sub(SignedDuration::from_secs(seconds)).map_err(|_early| wrong())
        }
        None => text.parse().map_err(|_no_time| wrong()),
    }
}

#[derive(Debug, clap::Args)]
struct Place {
    /// The audit directory [default: the one that guard.yaml names]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(flatten)]
    config: Overrides,
    /// Print JSON, also on an error: `list` the records as they are, one a line, the others one object
    #[arg(long)]
    json: bool,
}

/// Columns of an agent's or a server's name in the table before it is wrapped.
const NAME_SHOWN: usize = 16;
/// Blanks around each cell of a table.
const PADDING: u16 = 2;

/// Exit code of `reconcile` when a connection is not explained.
pub(super) const NOT_COMPLETE: u8 = 2;
/// Exit code of `verify`, `reconcile` and `checkpoints` when they could not look, or do not know at what.
pub(super) const UNREADABLE: u8 = 3;

/// Whether the exit code 2 of this verb says something of the trail.
pub(super) fn gives_verdicts(verb: &OsStr) -> bool {
    ["verify", "reconcile", "checkpoints"].iter().any(|name| verb == *name)
}

pub fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Verify { place, key, since } => {
            let dir = place.dir()?;
            let key = key.as_deref().map(read_key).transpose()?;
            let report = verify(&dir, key.as_ref(), since.as_deref());
            if place.json {
                println!("{}", serde_json::to_string(&report)?);
            } else {
                print_report(&report);
            }
            Ok(ExitCode::from(match report.verdict {
                Verdict::Sound => 0,
                Verdict::Tampered => 1,
                Verdict::Incomplete => 2,
                Verdict::Unreadable => UNREADABLE,
            }))
        }
        Command::Checkpoints(args) => checkpoints::run(&args),
        Command::Export(args) => export::run(&args),
        Command::Prove(args) => prove::run(&args),
        Command::Prune(args) => prune::run(&args),
        Command::Query(args) => query::run(&args),
        Command::Hash(args) => hash::run(&args),
        Command::Stats(args) => stats::run(&args),
        Command::Schema => {
            output::print(RECORD_SCHEMA_TEXT.trim_end())?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Reconcile { dir, config, all, json } => {
            let dir = Place { dir, config, json }.dir()?;
            let balance =
                reconcile(&dir).with_context(|| format!("cannot read the trail in {}", dir.display()))?;
            if json {
                output::print(&serde_json::to_string(&balance)?)?;
            } else {
                output::print(&show_balance(&balance, all))?;
            }
            Ok(if balance.complete { ExitCode::SUCCESS } else { ExitCode::from(NOT_COMPLETE) })
        }
        Command::List { place, last: count, wanted } => {
            let dir = place.dir()?;
            let lines = last(&dir, count, &wanted.into())
                .with_context(|| format!("cannot read the trail in {}", dir.display()))?;
            if place.json {
                output::print(&lines.join("\n"))?;
            } else {
                output::print(&table(&lines).to_string())?;
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

impl Args {
    pub(super) fn wants_json(&self) -> bool {
        match &self.command {
            Command::Verify { place, .. } | Command::List { place, .. } => place.json,
            Command::Reconcile { json, .. } => *json,
            Command::Checkpoints(args) => args.json,
            Command::Export(args) => args.place.json,
            Command::Prove(args) => args.place.json,
            Command::Prune(args) => args.json,
            Command::Query(args) => args.place.json,
            Command::Hash(args) => args.place.json,
            Command::Stats(args) => args.place.json,
            Command::Schema => true,
        }
    }

    /// The exit code of an error. Never 1 for a trail that could not be read: that would accuse a sound one.
    pub(super) fn failure(&self) -> u8 {
        match self.command {
            Command::Verify { .. } | Command::Reconcile { .. } | Command::Checkpoints(_) => UNREADABLE,
            Command::List { .. }
            | Command::Export(_)
            | Command::Prove(_)
            | Command::Prune(_)
            | Command::Query(_)
            | Command::Hash(_)
            | Command::Stats(_)
            | Command::Schema => 1,
        }
    }
}

impl Place {
    fn dir(&self) -> anyhow::Result<PathBuf> {
        if let Some(dir) = &self.dir {
            return Ok(dir.clone());
        }
        let config = self.config.load().context("--dir DIR names the audit directory without guard.yaml")?;
        Ok(config.audit_dir())
    }
}

fn read_key(key: &str) -> anyhow::Result<VerifierKey> {
    let text = if Path::new(key).is_file() { std::fs::read_to_string(key)? } else { key.to_owned() };
    VerifierKey::parse(&text).with_context(|| format!("--key {key}"))
}

fn print_report(report: &Report) {
    if let Some(fault) = &report.fault {
        println!("{}, line {}: {}", fault.file.display(), fault.line, fault.reason);
    }
    let counts = &report.counts;
    println!("trail     {}", report.origin.as_deref().unwrap_or("(unknown)"));
    println!("records   {} in {} files", report.records, report.segments);
    if let (Some(pruned), Some(last)) = (&report.pruned, report.first.checked_sub(1)) {
        let (cause, time) = (output::plain(&pruned.cause), output::plain(&pruned.time));
        println!("pruned    records 0 to {last} by {cause} at {time}, as record {} says", pruned.seq);
    }
    println!(
        "calls     {} forwarded ({} outcomes, {} lost, {} open), {} refused",
        counts.calls, counts.outcomes, counts.lost_outcomes, report.open_calls, counts.refusals
    );
    println!("signed    {} checkpoint records, {} gaps", counts.checkpoints, counts.gaps);
    if report.keys > 0 {
        println!("keys      {} hand-overs, each signed by the key before it", report.keys);
    }
    if counts.losses > 0 {
        println!(
            "warning   {} times an operator accepted the loss of records (gap, loss_accepted)",
            counts.losses
        );
    }
    if let (Some(since), Verdict::Sound) = (report.since, report.verdict) {
        println!("since     the older checkpoint's {since} records are the first of this trail");
    }
    if report.unsigned_records > 0 {
        println!("warning   {} records are behind the last signed checkpoint", report.unsigned_records);
    }
    if report.key_from_trail {
        println!(
            "warning   the key came from the trail's own directory; pass --key with a copy kept elsewhere"
        );
    }
    println!(
        "{}",
        match report.verdict {
            Verdict::Sound => "SOUND",
            Verdict::Tampered => "TAMPERED",
            Verdict::Incomplete => "INCOMPLETE",
            Verdict::Unreadable => "UNREADABLE",
        }
    );
}

fn show_balance(balance: &Balance, all: bool) -> String {
    let mut table = output::table([
        "SERVER",
        "FROM",
        "TO",
        "STATE",
        "KERNEL",
        "ACCEPTED",
        "RECORDED",
        "EXPLAINED",
        "OPEN",
        "DIFFERENCE",
    ]);
    let is_shown = |interval: &&Interval| {
        all || interval.established + interval.accepted + interval.recorded > 0 || !interval.faults.is_empty()
    };
    for interval in balance.intervals.iter().filter(is_shown) {
        let explained: Vec<_> =
            interval.explained.iter().map(|(name, count)| format!("{count} {name}")).collect();
        let faults: Vec<_> =
            interval.faults.iter().map(|fault| format!("{}: {}", fault.difference, fault.words)).collect();
        table.add_row([
            output::plain(&interval.server),
            interval.from.seq.to_string(),
            interval.to.seq.to_string(),
            serde_json::to_string(&interval.state).unwrap_or_default().trim_matches('"').to_owned(),
            interval.established.to_string(),
            interval.accepted.to_string(),
            interval.recorded.to_string(),
            explained.join(", "),
            interval.open.to_string(),
            faults.join("; "),
        ]);
    }
    let mut text = table.to_string();
    for fault in &balance.faults {
        text = format!("{text}\n{fault}");
    }
    let verdict = if balance.complete {
        "COMPLETE   every connection that the kernel counted is explained (`audit verify` says whether the records are genuine)"
    } else {
        "NOT COMPLETE"
    };
    format!("{text}\n{verdict}")
}

fn table(lines: &[String]) -> Table {
    let mut table = output::table(["SEQ", "TIME", "KIND", "AGENT", "FROM", "SERVER", "WHAT", "RESULT"]);
    // What people look for first stays in one piece; names do if they are not very long.
    for column in 0..3 {
        if let Some(column) = table.column_mut(column) {
            column.set_constraint(ColumnConstraint::ContentWidth);
        }
    }
    let mut names = [0; 3];
    for line in lines {
        let columns = Summary::of(line).columns();
        for (name, column) in names.iter_mut().zip([&columns[3], &columns[4], &columns[5]]) {
            *name = column.len().max(*name);
        }
        table.add_row(columns);
    }
    for (column, longest) in [3, 4, 5].into_iter().zip(names) {
        if let (Some(column), Ok(longest)) =
            (table.column_mut(column), u16::try_from(longest.min(NAME_SHOWN)))
        {
            column.set_constraint(ColumnConstraint::LowerBoundary(Width::Fixed(longest + PADDING)));
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn since_is_a_span_or_a_time() {
        let ago = |text| Timestamp::now().duration_since(since(text).unwrap()).as_secs();
        for (text, seconds) in [("90s", 90), ("15m", 900), ("2h", 7200), ("7d", 604_800)] {
            let ago = ago(text);
            assert!((seconds - 1..seconds + 60).contains(&ago), "{text}: {ago}");
        }
        let time = since("2026-11-21T05:00:00Z").unwrap();
        assert_eq!(time, since("2026-11-21T06:00:00+01:00").unwrap());
        let none = Wanted {
            agent: None,
            user: None,
            server: None,
            tool: None,
            session: None,
            reason: None,
            since: Some(time),
        };
        assert_eq!(Filter::from(none).since.as_deref(), Some("2026-11-21T05:00:00.000000Z"));
        for wrong in ["", "h", "-1h", "2w", "1.5h", "yesterday", "9999999999999999d", "2026-11-21"] {
            assert!(since(wrong).is_err(), "{wrong:?}");
        }
    }
}
