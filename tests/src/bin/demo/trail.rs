//! The audit trail against the server's own journal, and against somebody who changes it.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use guard_tests::ledger::{Ledger, segments};
use guard_tests::process::eventually;
use serde_json::Value;

use crate::agent::finish;
use crate::interrupt;
use crate::screen::{Mark, Screen};
use crate::stage::Stage;

/// How long the last records may stay without a signature.
const SIGNED_LIMIT: Duration = Duration::from_secs(10);
/// Records shown from the trail's end.
const LAST: &str = "5";

/// Calls that the trail says went on, against calls that the server executed since the guard's start.
pub(crate) fn compare(stage: &Stage, before: usize, screen: &Screen) -> anyhow::Result<()> {
    let executed = stage.executed()? - before;
    let ledger = Ledger::read(&stage.daemon.config.audit_dir())?;
    let calls = |decision: &str| {
        ledger
            .of_kind("call")
            .filter(|call| call["target"]["kind"] == "tool" && call["decision"] == decision)
            .count()
    };
    let (allowed, denied, held) = (calls("allow"), calls("deny"), calls("hold"));
    screen
        .fact("server", &format!("its own journal: {executed} tool calls executed since the guard's start"));
    screen.fact("trail", &format!("{allowed} tool calls allowed, {denied} denied, {held} need an approval"));
    ensure!(
        executed == allowed,
        "{executed} calls reached the server, but {allowed} are recorded as allowed"
    );
    for line in last(stage)? {
        Screen::line(&line);
    }
    screen
        .why("The counts are equal: no call goes on before its record is on disk. Refusals are in it, too.");
    Ok(())
}

/// A copy with one changed byte does not verify.
pub(crate) fn tamper(stage: &Stage, screen: &Screen) -> anyhow::Result<()> {
    // The guard signs what it has written a few times in a second.
    let mut verified = stage.daemon.verify()?;
    eventually(SIGNED_LIMIT, || {
        verified = stage.daemon.verify()?;
        interrupt::check()?;
        Ok((verified.report["unsigned_records"] == 0).then_some(()))
    })?;
    let report = &verified.report;
    ensure!(
        verified.code == Some(0) && report["verdict"] == "sound" && report["unsigned_records"] == 0,
        "mcp-guard-verify says {report}"
    );
    let said = format!("{} linked records, all of them signed", report["records"]);
    screen.row("verifier", "checks the trail", Mark::Good, "sound", &said);

    let copy = stage.daemon.dir().join("copy");
    let (file, line) = change_one_byte(&stage.daemon.config.audit_dir(), &copy)?;
    let verified = stage.daemon.verify_copy(&copy)?;
    let (report, fault) = (&verified.report, &verified.report["fault"]);
    ensure!(
        verified.code == Some(1) && report["verdict"] == "tampered",
        "one byte of {}, line {line}, was changed, and mcp-guard-verify says {report}",
        file.display()
    );
    let name = fault["file"].as_str().map(Path::new).and_then(Path::file_name).unwrap_or_default();
    let reason = fault["reason"].as_str().unwrap_or_default();
    let said = format!("{} line {}: {reason}", name.display(), fault["line"]);
    screen.fact("forger", &format!("changes one digit of a copy: when the first refusal was, line {line}"));
    screen.row("verifier", "a copy, one digit changed", Mark::Bad, "tampered", &said);
    Ok(())
}

/// Copies the trail with another digit in the time of its first denied call, as somebody with an alibi to make would.
/// Returns the file and the line, from 1.
fn change_one_byte(trail: &Path, copy: &Path) -> anyhow::Result<(PathBuf, usize)> {
    fs::create_dir(copy)?;
    for entry in fs::read_dir(trail)? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), copy.join(entry.file_name()))?;
        }
    }
    for file in segments(copy)? {
        let text = fs::read_to_string(&file)?;
        let mut lines: Vec<String> = text.split_inclusive('\n').map(str::to_owned).collect();
        let denied = lines.iter().position(|line| line.contains("\"decision\":\"deny\""));
        if let Some(index) = denied
            && let Some(line) = lines.get_mut(index)
        {
            *line = another_minute(line).context("the record has no time")?;
            fs::write(&file, lines.concat())?;
            return Ok((file, index + 1));
        }
    }
    bail!("the trail holds no denied call")
}

/// The record with the last digit of its time's minutes changed: `"time":"2026-01-31T12:3x:..."`.
fn another_minute(line: &str) -> Option<String> {
    const START: &str = "\"time\":\"";
    const MINUTE: usize = "2026-01-31T12:3".len();
    let at = line.find(START)? + START.len() + MINUTE;
    let digit = line.get(at..=at)?.parse::<u8>().ok()?;
    let (before, after) = (line.get(..at)?, line.get(at + 1..)?);
    Some(format!("{before}{}{after}", (digit + 1) % 10))
}

/// The last records, one line each.
fn last(stage: &Stage) -> anyhow::Result<Vec<String>> {
    let mut command = stage.daemon.command("audit list");
    command.args(["--last", LAST, "--json"]);
    let (_, out, complaint) = finish(command)?;
    ensure!(!out.is_empty(), "mcp-guard audit list: {complaint}");
    out.lines().map(row).collect()
}

fn row(line: &str) -> anyhow::Result<String> {
    let record: Value = serde_json::from_str(line).context("a record is no JSON")?;
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let time = text(&record["time"]);
    let time = time.get(11..23).unwrap_or(&time);
    let rest = match record["kind"].as_str() {
        Some("call") => format!(
            "{:<16}{:<28}{} ({})",
            text(&record["agent"]),
            what(&record),
            text(&record["decision"]),
            text(&record["reason"])
        ),
        Some("outcome") => format!(
            "{:<16}{:<28}{} in {} us",
            "",
            format!("answer to record {}", record["call_seq"]),
            text(&record["result"]),
            record["duration_micros"]
        ),
        Some("policy") => format!("{:<16}{}", "", text(&record["digest"]).get(..12).unwrap_or_default()),
        _ => String::new(),
    };
    let kind = text(&record["kind"]);
    Ok(format!("{:>4}  {time}  {kind:<11}{rest}", record["seq"]).trim_end().to_owned())
}

fn what(record: &Value) -> String {
    let method = record["rpc_method"].as_str().unwrap_or_default();
    match (record["target"]["kind"].as_str(), record["target"]["name"].as_str()) {
        (Some("tool"), Some(tool)) => format!("{method} {tool}"),
        _ => method.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_byte_of_the_time_differs() {
        let line = "{\"seq\":1,\"time\":\"2026-11-21T04:39:06.491Z\"}";
        assert_eq!(another_minute(line).unwrap(), "{\"seq\":1,\"time\":\"2026-11-21T04:30:06.491Z\"}");
        assert_eq!(another_minute("{}"), None);
    }
}
