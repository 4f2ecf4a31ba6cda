//! Comma-separated values, RFC 4180, for a spreadsheet.

use serde_json::Value;

use super::entry::Entry;
use super::escape::plain;

/// The columns, in order.
const COLUMNS: [&str; 26] = [
    "seq",
    "time",
    "kind",
    "decision",
    "result",
    "reason",
    "agent",
    "user",
    "client",
    "profile",
    "server",
    "target_kind",
    "target",
    "intent",
    "rule",
    "risk",
    "label",
    "session",
    "id",
    "peer",
    "pid",
    "comm",
    "http_status",
    "error_code",
    "duration_micros",
    "text",
];

/// The first line.
pub(super) fn header() -> String {
    COLUMNS.join(",")
}

/// One record.
pub(super) fn line(entry: &Entry<'_>) -> String {
    let cell = |column: &&str| {
        let value = match *column {
            "target" => return entry.target().map(text).unwrap_or_default(),
            "target_kind" => return entry.target_kind().map(text).unwrap_or_default(),
            "risk" => entry.within("risk", "score"),
            "pid" | "comm" => entry.within("local", column).or_else(|| entry.own_value(column)),
            "http_status" => entry.own_value("status").or_else(|| entry.own_value("http_status")),
            "time" | "kind" | "seq" | "reason" | "result" | "error_code" | "duration_micros" => {
                entry.own_value(column)
            }
            column => entry.field(column),
        };
        match value {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(value)) => text(value),
            Some(value) => text(&value.to_string()),
        }
    };
    COLUMNS.iter().map(cell).collect::<Vec<_>>().join(",")
}

/// A cell. Spreadsheets take what begins with one of some signs for a formula, whoever wrote it: such a text gets an apostrophe in front.
fn text(text: &str) -> String {
    // Where a list is written with semicolons, a spreadsheet divides cells there.
    let text = plain(text).replace(';', r"\u003b");
    let is_number = text.parse::<i64>().is_ok();
    let text =
        if text.starts_with(['=', '+', '-', '@', '\'']) && !is_number { format!("'{text}") } else { text };
    if text.contains([',', '"', '\'']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
