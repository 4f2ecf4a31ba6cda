//! `mcp-guard audit query`

use std::io::{IsTerminal, Write, stderr};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp};

use super::hash::digests;
use super::{Place, table};
use crate::audit::{Follower, Found, Index, Order, Outcomes, Query, search};
use crate::cli::output;
use crate::policy::IntentPattern;

/// Between two looks for new records.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);
/// Between two signs of progress, on a terminal.
const PROGRESS_EVERY: Duration = Duration::from_millis(200);

/// Find records: who did what, when, and what became of it
///
/// All that is said must hold. With a call that was forwarded comes its outcome, if it is known and not more than 64 MiB of records
/// later; with --follow it comes when it is there. The first query of a long trail reads all of it and
/// keeps an index beside it (`index/` in its directory, if it may write there), later ones only what is new. It verifies nothing:
/// `audit verify` does.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// The oldest first
    #[arg(long)]
    oldest_first: bool,
    /// At most so many records, outcomes not counted
    #[arg(long, value_name = "N", default_value_t = 100, conflicts_with = "all")]
    limit: usize,
    /// All of them
    #[arg(long)]
    all: bool,
    /// Go on with new records as they are written, until interrupted. Only those from now on, unless --from says otherwise
    #[arg(long, conflicts_with_all = ["oldest_first", "to"])]
    follow: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

/// Which records.
#[derive(Debug, clap::Args)]
pub(super) struct Wanted {
    /// Not earlier than this: a time (`2026-11-21T14:00Z`, `14:00` today, `yesterday 14:00`, `2026-11-21 14:00`; UTC unless it says
    /// otherwise) or a span back from now (`90s`, `15m`, `2h`, `7d`)
    #[arg(long, value_name = "TIME", value_parser = time)]
    from: Option<Timestamp>,
    /// Earlier than this
    #[arg(long, value_name = "TIME", value_parser = time)]
    to: Option<Timestamp>,
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
    /// Calls with this intent; `financial.refund.*` is all below that point
    #[arg(long, value_name = "PATTERN", value_parser = IntentPattern::parse)]
    intent: Option<IntentPattern>,
    /// What was decided
    #[arg(long, value_parser = ["allow", "deny", "hold", "tell"])]
    decision: Option<String>,
    /// Those with this reason, such as `default_deny`
    #[arg(long)]
    reason: Option<String>,
    /// Calls of at least this risk, 0 to 100
    #[arg(long, value_name = "SCORE", value_parser = clap::value_parser!(u8).range(0..=100))]
    min_risk: Option<u8>,
    /// Those of this session, by the beginning of its name in `sessions list`
    #[arg(long)]
    session: Option<String>,
    /// The call with this id, and its outcome; a refusal tells it as the decision's id
    #[arg(long)]
    id: Option<String>,
    /// Those of this kind, such as `call`, `policy` or `gap`
    #[arg(long)]
    kind: Option<String>,
    /// Those with this text anywhere, whatever its case
    #[arg(long)]
    text: Option<String>,
    /// Calls with this value as an argument, which records have as a digest: a text, or as JSON what is none (`120.5`, `true`)
    #[arg(long, value_name = "VALUE")]
    argument: Option<String>,
    /// Outcomes of calls that were answered with this; `audit hash --result` makes the digest of an answer
    #[arg(long, value_name = "DIGEST")]
    result: Option<String>,
}

impl Wanted {
    /// `dir`: where the key of digests is.
    pub(super) fn query(&self, dir: &Path) -> anyhow::Result<Query> {
        if let (Some(from), Some(to)) = (self.from, self.to)
            && from >= to
        {
            bail!("nothing is between --from {from} and --to {to}: the first must be the earlier");
        }
        Ok(Query {
            agent: self.agent.clone(),
            user: self.user.clone(),
            server: self.server.clone(),
            tool: self.tool.clone(),
            intent: self.intent.clone(),
            decision: self.decision.clone(),
            reason: self.reason.clone(),
            session: self.session.clone(),
            id: self.id.as_ref().map(|id| id.to_ascii_lowercase()),
            kind: self.kind.clone(),
            min_risk: self.min_risk,
            from: self.from,
            to: self.to,
            text: self.text.clone(),
            result: self.result.as_ref().map(|digest| digest.trim().to_ascii_lowercase()),
            arguments: match &self.argument {
                Some(value) => digests(dir, value)?.into_iter().map(|(_, digest)| digest).collect(),
                None => Vec::new(),
            },
        })
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dir = args.place.dir()?;
    let query = args.wanted.query(&dir)?;
    if args.wanted.argument.is_some() {
        output::warn(
            "records tell of at most 64 values of a call, and of none from before this version or under another digest-key: what is not found may have been there",
        );
    }
    if args.follow {
        return follow(&dir, &query, args.place.json);
    }
    let order = if args.oldest_first { Order::Oldest } else { Order::Newest };
    let limit = if args.all { usize::MAX } else { args.limit };
    let (mut shown, mut left_out) = (Vec::new(), false);
    let index = open(&dir)?;
    search(&index, &query, (order, Outcomes::Shown), |found| {
        if shown.len() >= limit {
            left_out = true;
            return ControlFlow::Break(());
        }
        shown.push(found);
        ControlFlow::Continue(())
    })?;
    let count = shown.len();
    if count == 0 {
        output::warn(&format!(
            "none of the {} records fits all of this; are the names right?",
            index.records()
        ));
    }
    print(shown, args.place.json)?;
    if left_out && !args.place.json {
        output::print(&format!("The first {count}; there are more (--limit N, --all)."))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Opens the index, and shows on a terminal how far it is.
pub(super) fn open(dir: &Path) -> anyhow::Result<Index> {
    let (is_shown, mut last) = (stderr().is_terminal(), Instant::now());
    let mut was_shown = false;
    let index = Index::open(dir, |done, all| {
        if is_shown && last.elapsed() >= PROGRESS_EVERY {
            (last, was_shown) = (Instant::now(), true);
            let percent = done.saturating_mul(100).checked_div(all).unwrap_or(100);
            // Whoever closed the terminal wants no progress.
            let _ = write!(stderr(), "\rreading what the index does not have yet: {percent} %");
        }
    });
    if was_shown {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    index.with_context(|| format!("cannot read the trail in {}", dir.display()))
}

/// Records of the trail as they are, one a line, with `json`; else a table.
fn print(found: Vec<Found>, json: bool) -> anyhow::Result<()> {
    let lines: Vec<String> =
        found.into_iter().flat_map(|found| [Some(found.line), found.outcome]).flatten().collect();
    if json {
        // Nothing found is no line, not an empty one.
        return if lines.is_empty() { Ok(()) } else { output::print(&lines.join("\n")) };
    }
    output::print(&table(&lines).to_string())
}

/// Prints what comes, until it is interrupted or nobody reads it any more.
fn follow(dir: &Path, query: &Query, json: bool) -> anyhow::Result<ExitCode> {
    let mut follower = Follower::from(if query.from.is_some() { 0 } else { open(dir)?.next() });
    loop {
        let new = follower.look(&Index::open(dir, |_, _| {})?, query)?;
        if !new.is_empty() {
            print(new, json)?;
        }
        std::thread::sleep(FOLLOW_EVERY);
    }
}

/// A point of time, or a span back from now.
pub(super) fn time(text: &str) -> Result<Timestamp, String> {
    let now = Timestamp::now();
    if let Ok(time) = super::since(text) {
        return Ok(time);
    }
    let today = now.to_zoned(TimeZone::UTC).date();
    let (day, clock) = match text.split_once([' ', 'T']) {
        Some((day, clock)) => (day, Some(clock)),
        None if text.contains(':') => ("today", Some(text)),
        None => (text, None),
    };
    let wrong = || {
        format!(
            "{text:?} is neither a time (2026-11-21T14:00Z, 14:00, yesterday 14:00) nor a span back from now (90s, 15m, 2h, 7d)"
        )
    };
    let day = match day {
        "today" => today,
        "yesterday" => today.checked_sub(Span::new().days(1)).map_err(|_early| wrong())?,
        day => day.parse::<Date>().map_err(|_no_day| wrong())?,
    };
    let clock = clock.map_or(Ok(Time::midnight()), |clock| clock.trim_end_matches('Z').parse::<Time>());
    let clock = clock.map_err(|_no_time| wrong())?;
    day.to_datetime(clock)
        .to_zoned(TimeZone::UTC)
        .map(|time| time.timestamp())
        .map_err(|_out_of_range| wrong())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::audit::odd_lines;

    proptest! {
        #[test]
        fn each_record_is_one_line_of_the_table_without_a_sign_of_its_own(lines in prop::collection::vec(odd_lines(), 0..20)) {
            let text = table(&lines).to_string();
            prop_assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{:?}", text);
            if output::width().is_none() {
                prop_assert_eq!(text.split('\n').count(), 1 + lines.len(), "{}", text);
            }
        }
    }

    #[test]
    fn a_time_is_read_as_people_write_it() {
        let at = |text: &str| time(text).unwrap().to_string();
        assert_eq!(at("2026-11-21T14:00:00Z"), "2026-11-21T14:00:00Z");
        assert_eq!(at("2026-11-21T14:00Z"), "2026-11-21T14:00:00Z");
        assert_eq!(at("2026-11-21 14:00"), "2026-11-21T14:00:00Z");
        assert_eq!(at("2026-11-21T14:00+02:00"), "2026-11-21T12:00:00Z");
        assert_eq!(at("2026-11-21"), "2026-11-21T00:00:00Z");
        let today = Timestamp::now().to_zoned(TimeZone::UTC).date().to_string();
        assert_eq!(at("14:30"), format!("{today}T14:30:00Z"));
        assert_eq!(at("today 14:30"), format!("{today}T14:30:00Z"));
        let day = time("today").unwrap().duration_since(time("yesterday").unwrap());
        assert_eq!(day.as_hours(), 24);
        let back = Timestamp::now().duration_since(time("2h").unwrap()).as_secs();
        assert!((7199..7260).contains(&back), "{back}");
        for wrong in ["", "noon", "25:00", "14:60", "2026-13-01", "tomorrow 14:00", "2026-11-21 14:00 15:00"]
        {
            assert!(time(wrong).is_err(), "{wrong:?}");
        }
    }
}
