//! `mcp-guard policy test`

use std::path::PathBuf;
use std::process::ExitCode;

use serde::Serialize;

use crate::cli::output;
use crate::config::Overrides;
use crate::policy::cases::{self, Case};
use crate::policy::{Decision, Effect, Explanation, Written};

/// Ask the policy each case, a call with what should become of it, and say where it decides otherwise
///
/// Cases are YAML files; without FILES, all of `tests/` in the policy directory. Read from the files alone: no guard needs to run, and
/// nothing is called or counted. Exit code 0: every case is as expected; 1: some case is not; 2: a file has a mistake, or
/// there are no cases.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Files of cases
    #[arg(value_name = "FILES")]
    files: Vec<PathBuf>,
}

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report {
    ok: bool,
    passed: usize,
    failed: usize,
    /// SHA-256 of the policy files.
    policy: String,
    cases: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    name: String,
    file: PathBuf,
    line: u64,
    ok: bool,
    expected: Effect,
    decision: Effect,
    /// What is not as expected.
    differences: Vec<String>,
    /// Why the policy decides so.
    because: String,
}

pub(super) fn run(args: Args, config: &Overrides, json: bool) -> anyhow::Result<ExitCode> {
    let config = config.load()?;
    let written = Written::load(&config.policy_dir, &config.servers)?;
    let files = if args.files.is_empty() {
        cases::files(&config.policy_dir).map_err(crate::config::Problems::from)?
    } else {
        args.files
    };
    let cases = cases::read(&files, &written)?;
    let report = report(&written, cases);
    if json {
        output::print(&serde_json::to_string_pretty(&report)?)?;
    } else {
        output::print(&report.text())?;
    }
    Ok(if report.ok { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn report(written: &Written, cases: Vec<Case>) -> Report {
    let row = |case: Case| {
        let explained = written.explain(&case.asked);
        let differences = case.differences(&explained);
        let Case { name, file, line, expected, .. } = case;
        Row {
            name,
            file,
            line,
            ok: differences.is_empty(),
            expected: expected.effect,
            decision: explained.decision.effect(),
            differences,
            because: because(&explained),
        }
    };
    let cases: Vec<Row> = cases.into_iter().map(row).collect();
    let failed = cases.iter().filter(|case| !case.ok).count();
    let passed = cases.len().saturating_sub(failed);
    Report { ok: failed == 0, passed, failed, policy: written.policy().digest().to_string(), cases }
}

/// The decision in a sentence.
fn because(explained: &Explanation) -> String {
    let hint = explained.hints.first().map_or(String::new(), |hint| format!(" ({hint})"));
    match &explained.decision {
        Decision::Allow(allow) => format!("{} allows it{hint}", allow.rule()),
        Decision::Hold(hold) => format!("{}: {}{hint}", hold.rule(), hold.reason()),
        Decision::Deny(deny) => match deny.rule() {
            Some(rule) => format!("{rule} ({}): {}{hint}", deny.code().as_str(), deny.reason()),
            None => format!("{}: {}{hint}", deny.code().as_str(), deny.reason()),
        },
    }
}

impl Report {
    fn text(&self) -> String {
        let mut lines = Vec::new();
        for case in self.cases.iter().filter(|case| !case.ok) {
            let differences = case.differences.join("; ");
            lines.push(format!("{}:{}: {}: {differences}", case.file.display(), case.line, case.name));
            lines.push(format!("  because {}", case.because));
        }
        let (all, digest) = (self.cases.len(), output::short(&self.policy));
        lines.push(match self.failed {
            0 => format!("ok: {all} cases, policy {digest}"),
            failed => format!("FAILED: {failed} of {all} cases, policy {digest}"),
        });
        lines.join("\n")
    }
}
