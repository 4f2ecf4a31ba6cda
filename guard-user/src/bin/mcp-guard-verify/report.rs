//! The report, for people and for programs.

use std::fmt::Write;

use super::trail::{Report, Verdict};

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
    writeln!(out, "records   {} in {} files", report.records, report.segments)?;
    writeln!(
        out,
        "calls     {} forwarded ({} outcomes, {} lost, {} open), {} refused",
        report.calls, report.outcomes, report.lost_outcomes, report.open_calls, report.refusals
    )?;
    writeln!(out, "signed    {} checkpoint records, {} gaps", report.checkpoints, report.gaps)?;
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
        Verdict::Tampered => writeln!(out, "TAMPERED after record count {}", report.records),
        Verdict::Incomplete => writeln!(out, "INCOMPLETE"),
        Verdict::Unreadable => writeln!(out, "UNREADABLE"),
    }
}

pub(crate) fn json(report: &Report) -> serde_json::Value {
    let verdict = match report.verdict() {
        Verdict::Sound => "sound",
        Verdict::Tampered => "tampered",
        Verdict::Incomplete => "incomplete",
        Verdict::Unreadable => "unreadable",
    };
    serde_json::json!({
        "verdict": verdict,
        "fault": report.fault.as_ref().map(|fault| serde_json::json!({
            "file": fault.file.display().to_string(),
            "line": fault.line,
            "reason": fault.reason,
        })),
        "origin": report.origin,
        "key_from_trail": report.key_from_trail,
        "segments": report.segments,
        "records": report.records,
        "calls": report.calls,
        "refusals": report.refusals,
        "outcomes": report.outcomes,
        "lost_outcomes": report.lost_outcomes,
        "open_calls": report.open_calls,
        "gaps": report.gaps,
        "checkpoints": report.checkpoints,
        "unsigned_records": report.unsigned_records,
    })
}
