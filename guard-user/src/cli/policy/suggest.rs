//! `mcp-guard policy suggest`

use std::fs::OpenOptions;
use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use crate::audit::{self, Call, Reading};
use crate::cli::output;
use crate::config::Overrides;
use crate::policy::{Became, Present, Row, Suggestion, Use, Uses, What};
use crate::types::{AgentName, IntentName, ProfileName, ServerName};

/// Propose a narrower policy: what agents did in a period, and nothing that the present policy denies
///
/// Reads the audit trail and checks it as it goes. Rules that allow or escalate are narrowed to the agents and intents that were used, and
/// agents to the servers; all else stays as it is written. The proposal is one file in place of all policy files. It goes to standard output, or to
/// --output with the table of what was used and what never was. Nothing is put in force.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The period's beginning: `90s`, `15m`, `2h`, `7d` back from now, or a time such as 2026-11-21T05:00:00Z
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = crate::cli::audit::since)]
    from: Timestamp,
    /// The period's end; not set: now
    #[arg(long, value_name = "TIME", value_parser = crate::cli::audit::since)]
    to: Option<Timestamp>,
    /// Narrow this agent's rules only
    #[arg(long, value_parser = agent)]
    agent: Option<AgentName>,
    /// Write the proposal to this new file
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// The audit directory [default: the one that guard.yaml names]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

fn agent(text: &str) -> Result<AgentName, String> {
    AgentName::parse(text).map_err(|error| error.to_string())
}

/// Between two words on how far the reading is.
const PROGRESS: Duration = Duration::from_secs(2);

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    period: Period,
    trail: &'a Reading,
    /// What keeps this from being the whole truth.
    warnings: &'a [String],
    /// SHA-256 of the present policy's files.
    policy: String,
    /// Pairs of an agent and an intent that rules let through: now, and with the proposal.
    pairs_now: usize,
    pairs_proposed: usize,
    /// Agents whose rules stay as they are, with why.
    unchanged: std::collections::BTreeMap<String, &'static str>,
    rows: &'a [Row],
    /// The policy file.
    proposal: &'a str,
}

#[derive(Debug, Serialize)]
struct Period {
    from: String,
    to: String,
}

pub(super) fn run(args: Args, config: &Overrides, json: bool) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    let present = Present::load(&config.policy_dir, &config.servers)?;
    if let Some(agent) = args.agent.as_ref().filter(|agent| present.policy().agent(agent).is_none()) {
        anyhow::bail!("there is no agent {agent} in {}", config.policy_dir.display());
    }
    let to = args.to.unwrap_or_else(Timestamp::now);
    anyhow::ensure!(args.from < to, "the period ends before it begins: --from {} --to {to}", args.from);
    let period = Period { from: written(args.from), to: written(to) };
    let dir = args.dir.unwrap_or_else(|| config.audit_dir());
    let (uses, cut, reading) = read(&dir, &period).with_context(|| {
        format!("the trail in {} is not to be trusted; `mcp-guard audit verify` tells more", dir.display())
    })?;
    let warnings = warnings(&reading, &period, (args.from, to), (&uses, cut));
    let digest = present.policy().digest().to_string();
    let mut about = vec![
        format!(
            "Suggested by `mcp-guard policy suggest` from what was used between {} and {}.",
            period.from, period.to
        ),
        format!("It takes the place of all policy files of the policy {}.", output::short(&digest)),
        "Read it before you use it: what is needed once a year is not in it.".to_owned(),
    ];
    about.extend(warnings.iter().map(|warning| format!("WARNING: {warning}")));
    let suggestion = present.suggest(&uses, args.agent.as_ref(), &about)?;
    if let Some(path) = &args.output {
        let mut file = OpenOptions::new().write(true).create_new(true).open(path);
        let file =
            file.as_mut().map_err(|error| anyhow::anyhow!("{} cannot be made: {error}", path.display()))?;
        file.write_all(suggestion.yaml.as_bytes())
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    if json {
        let report = Report {
            period,
            trail: &reading,
            warnings: &warnings,
            policy: digest,
            pairs_now: suggestion.pairs.0,
            pairs_proposed: suggestion.pairs.1,
            unchanged: suggestion.whole.iter().map(|(agent, why)| (agent.to_string(), *why)).collect(),
            rows: &suggestion.rows,
            proposal: &suggestion.yaml,
        };
        output::print(&serde_json::to_string_pretty(&report)?)?;
    } else if args.output.is_some() {
        output::print(&text(&suggestion, &warnings))?;
    } else {
        output::print(suggestion.yaml.trim_end())?;
        eprintln!("{}", text(&suggestion, &warnings));
    }
    Ok(ExitCode::SUCCESS)
}

/// In the form of the records, so that texts compare as times do.
fn written(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S.%6fZ").to_string()
}

/// What was used in the period, and how many records had a name that was cut.
fn read(dir: &Path, period: &Period) -> std::io::Result<(Uses, u64, Reading)> {
    let (mut uses, mut cut) = (Uses::default(), 0_u64);
    let is_terminal = std::io::stderr().is_terminal();
    let (mut last, mut told) = (Instant::now(), false);
    let mut progress = |bytes: u64, total: u64| {
        if is_terminal && last.elapsed() >= PROGRESS {
            last = Instant::now();
            told = true;
            let percent = bytes.saturating_mul(100).checked_div(total).unwrap_or(100).min(100);
            eprint!("\rread {percent} % of {} MiB ", total >> 20);
        }
    };
    let mut each = |call: Call| {
        if (period.from.as_str()..period.to.as_str()).contains(&call.time.as_str())
            && !count(&mut uses, &call)
        {
            cut = cut.saturating_add(1);
        }
    };
    let reading = audit::calls(dir, &mut each, &mut progress)?;
    if told {
        eprintln!();
    }
    Ok((uses, cut, reading))
}

/// `false`: its names are not whole.
fn count(uses: &mut Uses, call: &Call) -> bool {
    let became = match call.decision.as_str() {
        "allow" => Became::Allowed,
        "hold" => Became::Held,
        _ => Became::Refused,
    };
    // A request that got no agent, or asked for nothing that could be read, used nothing.
    let Some(agent) = call.agent.as_deref().and_then(|name| AgentName::parse(name).ok()) else { return true };
    let Ok(server) = ServerName::parse(&call.server) else { return true };
    let profile = call.profile.as_deref().and_then(|name| ProfileName::parse(name).ok());
    let intent = call.intent.as_deref().and_then(|name| IntentName::parse(name).ok());
    let Some(target) = &call.target else { return true };
    if target.kind == "task" {
        if let (Some(intent), true) = (intent, became != Became::Refused) {
            uses.add_task(agent, server, intent);
        }
        return true;
    }
    // A longer name ends in `…` and how long it was.
    if target.name.len() > audit::NAME_BYTES_MAX {
        if let (Some(intent), true) = (intent, became != Became::Refused) {
            uses.add_task(agent, server, intent);
        }
        return became == Became::Refused;
    }
    let what = match target.kind.as_str() {
        // The method of a task is judged as what made it.
        "tool" | "resource" | "prompt" | "method" | "server_request" => {
            What::parse(&target.kind, &target.name)
        }
        _ => return true,
    };
    if let Ok(what) = what {
        uses.add(Use { agent, profile, server, what }, became, intent, &call.time);
    }
    true
}

/// What keeps the proposal from resting on the whole period.
fn warnings(
    reading: &Reading,
    period: &Period,
    (from, to): (Timestamp, Timestamp),
    (uses, cut): (&Uses, u64),
) -> Vec<String> {
    /// The guard records a heartbeat a minute, if nothing else.
    const QUIET: SignedDuration = SignedDuration::from_mins(10);
    let mut warnings = Vec::new();
    match (&reading.fault, reading.verified) {
        (Some(fault), _) => warnings.push(format!("the trail was not verified to its end: {fault}")),
        (None, false) => warnings.push("the trail was not verified".to_owned()),
        (None, true) => {}
    }
    let time = |text: &Option<String>| text.as_deref().and_then(|text| text.parse::<Timestamp>().ok());
    match (time(&reading.begins), time(&reading.ends)) {
        (Some(begins), Some(ends)) => {
            if begins > from {
                let begins = reading.begins.as_deref().unwrap_or_default();
                warnings.push(format!(
                    "the period is not covered: the trail begins at {begins}, not at {}",
                    period.from
                ));
            }
            if to.duration_since(ends) > QUIET {
                let ends = reading.ends.as_deref().unwrap_or_default();
                warnings.push(format!(
                    "the period is not covered: the trail ends at {ends}, not at {}",
                    period.to
                ));
            }
        }
        _ => warnings.push("the trail has no record".to_owned()),
    }
    if uses.is_empty() {
        warnings.push("no agent called anything in this period, so the proposal allows nothing".to_owned());
    }
    if cut > 0 {
        warnings.push(format!(
            "{cut} calls had names too long for their records; their intents stay, and no count tells of them"
        ));
    }
    warnings
}

fn text(suggestion: &Suggestion, warnings: &[String]) -> String {
    let heading = ["agent", "server", "what", "intents", "calls", "refused", "last", "standing"];
    let mut table = output::table(heading);
    for row in &suggestion.rows {
        let last = row.count.last.as_deref().and_then(|last| last.get(..16)).unwrap_or("").replace('T', " ");
        table.add_row([
            row.agent.clone(),
            row.server.clone(),
            output::plain(&format!("{} {}", row.kind, row.name)),
            row.intents.join(", "),
            row.count.passed().to_string(),
            row.count.refused.to_string(),
            last,
            row.standing.as_str().to_owned(),
        ]);
    }
    let mut lines = vec![table.to_string()];
    lines.extend(
        suggestion.whole.iter().map(|(agent, why)| format!("{agent} keeps its rules as they are: {why}")),
    );
    let (before, after) = suggestion.pairs;
    lines.push(format!("{before} pairs of agent and intent are let through now, {after} with the proposal"));
    lines.extend(warnings.iter().map(|warning| format!("WARNING: {warning}")));
    lines.push("before it is in force: read it, put it in place of the policy files, `mcp-guard check`, `mcp-guard policy test`".into());
    lines.join("\n")
}
