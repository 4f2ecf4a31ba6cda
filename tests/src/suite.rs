//! The official MCP conformance suite, run as the program that it is, and what its checks said.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::peers;
use crate::process::Process;

/// How long all scenarios of a run may take together. They take seconds; only a failing run waits.
const RUN_LIMIT: Duration = Duration::from_secs(600);
/// How long one scenario may take. None needs ten seconds; but the suite starts all at once, and some wait for their turn.
const SCENARIO_LIMIT: Duration = Duration::from_secs(400);
/// What follows a scenario's name in the name of its folder, as in `-2026-11-21T16-08-22-339Z`.
const TIMESTAMP_CHARS: usize = 25;

/// The dated revisions that the suite knows.
pub const REVISIONS: [&str; 4] = ["2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"];
/// Those with a frozen set of scored scenarios.
pub const REQUIREMENTS: [&str; 2] = ["2025-11-25", "2026-07-28"];

/// Which scenarios to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Selection {
    /// All of a revision
    All(&'static str),
    /// What a revision requires, and what it only reports
    Required(&'static str),
}

impl Selection {
    /// All of each revision, and what each one requires.
    pub fn every() -> impl Iterator<Item = Self> {
        REVISIONS.map(Self::All).into_iter().chain(REQUIREMENTS.map(Self::Required))
    }

    fn arguments(self) -> Vec<&'static str> {
        match self {
            Self::All(revision) => vec!["--suite", "all", "--spec-version", revision],
            Self::Required(revision) => vec!["--requirements", revision],
        }
    }
}

impl fmt::Display for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All(revision) => write!(f, "{revision}"),
            Self::Required(revision) => write!(f, "{revision} required"),
        }
    }
}

/// One check of one scenario. A scenario may make a check several times.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Check {
    pub scenario: String,
    pub id: String,
    pub ordinal: usize,
}

/// How a check ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ended {
    /// `SUCCESS`, `FAILURE`, `WARNING` or `SKIPPED`
    pub status: String,
    /// What went wrong, in the words of the suite.
    pub error: Option<String>,
}

/// What a run of the suite said. Checks that only inform are left out.
#[derive(Debug, Clone)]
pub struct Report {
    pub checks: BTreeMap<Check, Ended>,
    /// Whether the suite's program ended with success. With [`Selection::Required`] it does if all that is scored passes.
    pub is_success: bool,
    /// All that the program printed.
    pub log: String,
}

#[derive(Deserialize)]
struct Line {
    id: String,
    status: String,
    #[serde(rename = "errorMessage")]
    error: Option<String>,
}

/// Runs server scenarios against the server at `url`, from the network of the calling thread.
pub fn server(url: &str, selection: Selection) -> anyhow::Result<Report> {
    run(&[&["server", "--url", url], &*selection.arguments()].concat(), |command| command)
}

/// Runs the suite's program. `prepare` may add to the command.
pub fn run(arguments: &[&str], prepare: impl FnOnce(&mut Command) -> &mut Command) -> anyhow::Result<Report> {
    let folder = peers::folder()?;
    let output = tempfile::tempdir()?;
    let log = output.path().join("log");
    let written = File::create(&log)?;
    let mut command = Command::new(peers::node(&folder));
    command.arg(folder.join("node_modules/@modelcontextprotocol/conformance/dist/index.js"));
    command.args(arguments).args(["--timeout", &SCENARIO_LIMIT.as_millis().to_string()]);
    command.arg("--output-dir").arg(output.path().join("results"));
    command.stdin(Stdio::null()).stdout(written.try_clone()?).stderr(written);
    prepare(&mut command);
    let status = Process::spawn(None, command)?.wait_for_end(RUN_LIMIT);
    let log = fs::read_to_string(log)?;
    let status = status.with_context(|| format!("the suite {arguments:?} said:\n{log}"))?;
    let checks = read(&output.path().join("results"), arguments[0])
        .with_context(|| format!("the suite said:\n{log}"))?;
    Ok(Report { checks, is_success: status.success(), log })
}

/// The checks of all scenarios below `results`. Folders of some scenarios begin with their `kind`.
fn read(results: &Path, kind: &str) -> anyhow::Result<BTreeMap<Check, Ended>> {
    let mut checks = BTreeMap::new();
    for file in files(results)? {
        let folder = file.parent().context("a file is in a folder")?.strip_prefix(results)?;
        let folder = folder.to_str().context("scenarios have plain names")?;
        let at = folder.len().checked_sub(TIMESTAMP_CHARS).context("no time behind the scenario's name")?;
        let scenario = folder[..at].strip_prefix(&format!("{kind}-")).unwrap_or(&folder[..at]).to_owned();
        let lines: Vec<Line> = serde_json::from_slice(&fs::read(&file)?)?;
        ensure!(!lines.is_empty(), "{scenario} checked nothing");
        let mut counts = BTreeMap::<String, usize>::new();
        for line in lines.into_iter().filter(|line| line.status != "INFO") {
            let count = counts.entry(line.id.clone()).or_default();
            let check = Check { scenario: scenario.clone(), id: line.id, ordinal: *count };
            *count += 1;
            ensure!(!checks.contains_key(&check), "{scenario} ran twice");
            checks.insert(check, Ended { status: line.status, error: line.error });
        }
    }
    Ok(checks)
}

/// Every `checks.json`; names of scenarios may have slashes.
fn files(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(files(&path)?);
        } else if path.ends_with("checks.json") {
            found.push(path);
        }
    }
    Ok(found)
}

impl Report {
    pub fn passed(&self) -> usize {
        self.count("SUCCESS")
    }

    pub fn failed(&self) -> usize {
        self.count("FAILURE")
    }

    fn count(&self, status: &str) -> usize {
        self.checks.values().filter(|ended| ended.status == status).count()
    }

    pub fn scenarios(&self) -> usize {
        let mut names: Vec<_> = self.checks.keys().map(|check| &check.scenario).collect();
        names.dedup();
        names.len()
    }

    /// Every check that another run did not end alike, one line each; nothing if there is none.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut all: Vec<_> = self.checks.keys().chain(other.checks.keys()).collect();
        all.sort();
        all.dedup();
        let status = |report: &Self, check| report.checks.get(check).map(|ended| ended.status.clone());
        let told = |report: &Self, check| match report.checks.get(check) {
            Some(Ended { status, error: Some(error) }) => format!("{status} ({error})"),
            Some(Ended { status, error: None }) => status.clone(),
            None => "not made".into(),
        };
        all.into_iter()
            .filter(|check| status(self, check) != status(other, check))
            .map(|check| {
                let Check { scenario, id, ordinal } = check;
                format!("{scenario}: {id} #{ordinal}: {}, then {}", told(self, check), told(other, check))
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn results(scenarios: &[(&str, serde_json::Value)]) -> BTreeMap<Check, Ended> {
        let dir = tempfile::tempdir().unwrap();
        for (name, checks) in scenarios {
            let folder = dir.path().join(format!("{name}-2026-11-21T16-08-22-339Z"));
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("checks.json"), checks.to_string()).unwrap();
        }
        read(dir.path(), "server").unwrap()
    }

    fn report(scenarios: &[(&str, serde_json::Value)]) -> Report {
        Report { checks: results(scenarios), is_success: true, log: String::new() }
    }

    #[test]
    fn a_check_that_ends_otherwise_or_is_not_made_is_a_difference() {
        let good = json!([{"id": "a", "status": "SUCCESS"}, {"id": "a", "status": "SUCCESS"}]);
        let bad =
            json!([{"id": "a", "status": "SUCCESS"}, {"id": "a", "status": "FAILURE", "errorMessage": "no"}]);
        let once = json!([{"id": "a", "status": "SUCCESS"}]);
        let before = report(&[("auth/one", good.clone()), ("server-two", good.clone())]);
        assert_eq!((before.scenarios(), before.passed(), before.failed()), (2, 4, 0));
        assert!(before.differences(&before).is_empty());
        let after = report(&[("auth/one", bad), ("server-two", once)]);
        assert_eq!(
            before.differences(&after),
            ["auth/one: a #1: SUCCESS, then FAILURE (no)", "two: a #1: SUCCESS, then not made"]
        );
    }

    #[test]
    fn what_only_informs_is_no_check() {
        let checks = json!([{"id": "a", "status": "INFO"}, {"id": "b", "status": "SUCCESS"}]);
        assert_eq!(results(&[("one", checks)]).len(), 1);
    }
}
