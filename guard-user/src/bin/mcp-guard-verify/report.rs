//! The report, for people and for programs.

use std::fmt::Write;

use super::proof::Proved;
use super::trail::{Fault, Pruned, Report, Verdict};

pub(crate) fn text(report: &Report) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write_text(&mut out, report);
    out
}

fn write_text(out: &mut String, report: &Report) -> std::fmt::Result {
    if let Some(fault) = &report.fault {
        writeln!(out, "{}, line {}: {}", fault.file.display(), fault.line, fault.reason)?;
    }
    if let Some(origin) = &report.origin {
        writeln!(out, "trail     {origin}")?;
    }
    writeln!(out, "records   {} in {} files", report.records(), report.segments)?;
    if let (Some(pruned), true) = (&report.pruned, report.first > 0) {
        let last = report.first - 1;
        let Pruned { seq, time, cause, .. } = pruned;
        writeln!(
            out,
            "pruned    records 0 to {last} by {} at {}, as record {seq} says",
            plain(cause),
            plain(time)
        )?;
    }
    writeln!(
        out,
        "calls     {} forwarded ({} outcomes, {} lost, {} open), {} refused",
        report.calls, report.outcomes, report.lost_outcomes, report.open_calls, report.refusals
    )?;
    writeln!(out, "signed    {} checkpoint records, {} gaps", report.checkpoints, report.gaps)?;
    if report.keys > 0 {
        writeln!(out, "keys      {} hand-overs, each signed by the key before it", report.keys)?;
    }
    if report.losses > 0 {
        writeln!(
            out,
            "warning   {} times an operator accepted the loss of records (gap, loss_accepted)",
            report.losses
        )?;
    }
    if let (Some(since), Verdict::Sound) = (report.since, report.verdict()) {
        writeln!(out, "since     the older checkpoint's {since} records are the first of this trail")?;
    }
    if report.unsigned_records > 0 {
        writeln!(out, "warning   {} records are behind the last signed checkpoint", report.unsigned_records)?;
    }
    if report.key_from_trail {
        writeln!(
            out,
            "warning   the key came from the trail's own directory; pass --key with a copy kept elsewhere"
        )?;
    }
    match report.verdict() {
        Verdict::Sound => writeln!(out, "SOUND"),
        // The counts above are those of the records before the fault.
        Verdict::Tampered => writeln!(out, "TAMPERED after record count {}", report.next),
        Verdict::Incomplete => writeln!(out, "INCOMPLETE"),
        Verdict::Unreadable => writeln!(out, "UNREADABLE"),
    }
}

pub(crate) fn json(report: &Report) -> serde_json::Value {
    serde_json::json!({
        "verdict": word(report.verdict()),
        "fault": report.fault.as_ref().map(fault_json),
        "since": report.since,
        "origin": report.origin,
        "key_from_trail": report.key_from_trail,
        "segments": report.segments,
        "records": report.records(),
        "first": report.first,
        "pruned": report.pruned.as_ref().map(|pruned| serde_json::json!({
            "to": pruned.to,
            "seq": pruned.seq,
            "time": pruned.time,
            "cause": pruned.cause,
        })),
        "calls": report.calls,
        "refusals": report.refusals,
        "outcomes": report.outcomes,
        "lost_outcomes": report.lost_outcomes,
        "open_calls": report.open_calls,
        "gaps": report.gaps,
        "losses": report.losses,
        "checkpoints": report.checkpoints,
        "keys": report.keys,
        "unsigned_records": report.unsigned_records,
    })
}

/// What a terminal may be sent of a text.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect()
}

/// What a proof proves.
pub(crate) fn proof_text(proved: &Result<Proved, Fault>) -> String {
    match proved {
        Ok(Proved::Record { number, record, size }) => {
            format!(
                "{record}\nSOUND     this is record {number} of the {size} that the signed checkpoint covers\n"
            )
        }
        Ok(Proved::Grown { old, size }) => {
            format!(
                "SOUND     the {size} records of the signed checkpoint begin with the {old} of the older one\n"
            )
        }
        Err(fault) => {
            let word = word(fault.verdict).to_uppercase();
            format!("{}: {}\n{word}\n", fault.file.display(), fault.reason)
        }
    }
}

pub(crate) fn proof_json(proved: &Result<Proved, Fault>) -> serde_json::Value {
    match proved {
        Ok(Proved::Record { number, record, size }) => {
            serde_json::json!({ "verdict": "sound", "record": record, "number": number, "size": size })
        }
        Ok(Proved::Grown { old, size }) => {
            serde_json::json!({ "verdict": "sound", "old": old, "size": size })
        }
        Err(fault) => {
            serde_json::json!({ "verdict": word(fault.verdict), "fault": fault_json(fault) })
        }
    }
}

fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Sound => "sound",
        Verdict::Tampered => "tampered",
        Verdict::Incomplete => "incomplete",
        Verdict::Unreadable => "unreadable",
    }
}

fn fault_json(fault: &Fault) -> serde_json::Value {
    serde_json::json!({
        "file": fault.file.display().to_string(),
        "line": fault.line,
        "reason": fault.reason,
    })
}
