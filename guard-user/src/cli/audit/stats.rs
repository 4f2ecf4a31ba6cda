//! `mcp-guard audit stats`

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::process::ExitCode;

use serde::Serialize;
use serde_json::Value;

use super::Place;
use super::query::{Wanted, open};
use crate::audit::{Order, Outcomes, ascii, search};
use crate::cli::output;

/// Rows of each table; the JSON has all.
const ROWS_SHOWN: usize = 20;
/// Longest bar.
const BAR_CELLS: u64 = 40;

/// Count calls: by agent, intent, tool, decision and reason, and over time
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    wanted: Wanted,
    /// How finely to count over time
    #[arg(long, value_enum, default_value_t = Every::Hour)]
    every: Every,
    #[command(flatten)]
    pub(super) place: Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Every {
    Minute,
    Hour,
    Day,
}

impl Every {
    /// The beginning of a record's time that is the same for all of one span.
    fn digits(self) -> usize {
        match self {
            Self::Minute => "2026-11-21T14:30".len(),
            Self::Hour => "2026-11-21T14".len(),
            Self::Day => "2026-11-21".len(),
        }
    }
}

/// How many calls there were, and how many of each decision on a call to a server.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
struct Count {
    calls: u64,
    allow: u64,
    deny: u64,
    hold: u64,
}

/// What was counted.
#[derive(Debug, Default, Serialize)]
struct Stats {
    total: Count,
    agents: BTreeMap<String, Count>,
    servers: BTreeMap<String, Count>,
    intents: BTreeMap<String, Count>,
    tools: BTreeMap<String, Count>,
    reasons: BTreeMap<String, Count>,
    /// By the beginning of the time, UTC.
    times: BTreeMap<String, Count>,
}

impl Count {
    fn add(&mut self, decision: &str) {
        self.calls += 1;
        match decision {
            "allow" => self.allow += 1,
            "deny" => self.deny += 1,
            "hold" => self.hold += 1,
            // What the guard told by itself is nobody's call to a server.
            _ => {}
        }
    }
}

impl Stats {
    fn add(&mut self, record: &Value, every: Every) {
        let field = |name: &str| record[name].as_str();
        let decision = field("decision").unwrap_or_default();
        let tool = (record["target"]["kind"] == "tool").then(|| record["target"]["name"].as_str()).flatten();
        let time = field("time").and_then(|time| time.get(..every.digits()));
        self.total.add(decision);
        let parts = [
            (&mut self.agents, field("agent")),
            (&mut self.servers, field("server")),
            (&mut self.intents, field("intent")),
            (&mut self.tools, tool),
            (&mut self.reasons, field("reason")),
            (&mut self.times, time),
        ];
        for (counts, name) in parts {
            if let Some(name) = name {
                // Most names were counted before.
                match counts.get_mut(name) {
                    Some(count) => count.add(decision),
                    None => counts.entry(name.to_owned()).or_default().add(decision),
                }
            }
        }
    }

    fn show(&self) -> String {
        let Count { calls, allow, deny, hold } = self.total;
        let mut parts = vec![format!("{calls} calls: {allow} allowed, {deny} denied, {hold} held")];
        let tables = [
            ("AGENT", &self.agents),
            ("SERVER", &self.servers),
            ("INTENT", &self.intents),
            ("TOOL", &self.tools),
            ("REASON", &self.reasons),
        ];
        parts.extend(
            tables.iter().filter(|(_, counts)| !counts.is_empty()).map(|(name, counts)| show(name, counts)),
        );
        if !self.times.is_empty() {
            parts.push(self.show_times());
        }
        parts.join("\n\n")
    }

    /// A bar for each span of time, the longest for the busiest.
    fn show_times(&self) -> String {
        let most = self.times.values().map(|count| count.calls).max().unwrap_or(0).max(1);
        let mut table = output::table(["TIME (UTC)", "CALLS", "REFUSED", ""]);
        for (time, count) in &self.times {
            let cells = usize::try_from((count.calls * BAR_CELLS).div_ceil(most)).unwrap_or(0);
            let refused = count.deny + count.hold;
            table.add_row([
                output::plain(time).replace('T', " "),
                count.calls.to_string(),
                refused.to_string(),
                "#".repeat(cells),
            ]);
        }
        table.to_string()
    }
}

/// The names with most calls first.
fn show(name: &str, counts: &BTreeMap<String, Count>) -> String {
    let mut rows: Vec<_> = counts.iter().collect();
    rows.sort_by_key(|(_, count)| std::cmp::Reverse(count.calls));
    let mut table = output::table([name, "CALLS", "ALLOWED", "DENIED", "HELD"]);
    for (name, count) in rows.iter().take(ROWS_SHOWN) {
        let numbers = [count.calls, count.allow, count.deny, count.hold].map(|number| number.to_string());
        table.add_row(std::iter::once(output::plain(name)).chain(numbers));
    }
    match rows.len().checked_sub(ROWS_SHOWN) {
        None | Some(0) => table.to_string(),
        Some(more) => format!("{table}\n... and {more} more (--json has all)"),
    }
}

pub(super) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let dir = args.place.dir()?;
    let mut query = args.wanted.query(&dir)?;
    query.kind = Some("call".into());
    let mut stats = Stats::default();
    search(&open(&dir)?, &query, (Order::Oldest, Outcomes::LeftOut), |found| {
        if let Ok(record) = serde_json::from_str(&found.line) {
            stats.add(&record, args.every);
        }
        ControlFlow::Continue(())
    })?;
    output::print(&if args.place.json { ascii(&stats)? } else { stats.show() })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::audit::odd_lines;

    #[test]
    fn each_call_counts_once_for_each_of_its_names() {
        let mut stats = Stats::default();
        for (agent, decision, hour) in
            [("a", "allow", "14"), ("a", "deny", "14"), ("b", "hold", "15"), ("b", "tell", "15")]
        {
            let record = json!({
                "time": format!("2026-11-21T{hour}:10:00.000000Z"), "agent": agent, "decision": decision, "server": "crm",
                "target": {"kind": "tool", "name": "get"}, "intent": null, "reason": "x",
            });
            stats.add(&record, Every::Hour);
        }
        assert_eq!(stats.total, Count { calls: 4, allow: 1, deny: 1, hold: 1 });
        assert_eq!(stats.agents["a"], Count { calls: 2, allow: 1, deny: 1, hold: 0 });
        assert_eq!(stats.tools["get"].calls, 4);
        assert_eq!(stats.times.keys().collect::<Vec<_>>(), ["2026-11-21T14", "2026-11-21T15"]);
        assert!(stats.intents.is_empty());
        let text = stats.show();
        assert!(
            text.contains("4 calls: 1 allowed, 1 denied, 1 held") && text.contains(&"#".repeat(40)),
            "{text}"
        );
    }

    proptest! {
        #[test]
        fn no_name_adds_a_line_or_a_sign_to_the_tables(lines in prop::collection::vec(odd_lines(), 0..60)) {
            let mut stats = Stats::default();
            for line in &lines {
                stats.add(&serde_json::from_str(line).unwrap(), Every::Minute);
            }
            let (text, json) = (stats.show(), ascii(&stats).unwrap());
            prop_assert!(json.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{:?}", json);
            prop_assert!(text.bytes().all(|byte| byte == b'\n' || (b' '..=b'~').contains(&byte)), "{:?}", text);
            if output::width().is_none() {
                let names = [&stats.agents, &stats.servers, &stats.intents, &stats.tools, &stats.reasons].map(BTreeMap::len);
                // A blank line, the head, the names, and that there are more.
                let of = |names: usize| if names == 0 { 0 } else { 2 + names.min(ROWS_SHOWN) + usize::from(names > ROWS_SHOWN) };
                let times = stats.times.len();
                let expected = 1 + names.into_iter().map(of).sum::<usize>() + if times == 0 { 0 } else { 2 + times };
                prop_assert_eq!(text.split('\n').count(), expected, "{}", text);
            }
        }
    }
}
