//! What a reader makes of a message, as one line that all readers can write: what decides first, then `params`, then
//! all of it. `peers/read.mjs` and `peers/read.py` write the same.
//!
//! Numbers are compared as 64-bit floats, which is what JavaScript makes of them: a tool that is written in Python may
//! see more digits of an argument. Ids are compared to the last digit, and no condition of a policy takes a number
//! that a float does not hold.

use std::fmt::Write as _;

use mcp_guard::rpc::reply::{Reply, ReplyKind};
use mcp_guard::rpc::{Id, Json, Kind, Message, Target};
use serde_json::{Number, Value};

const SAFE: f64 = 9_007_199_254_740_991.0;

/// The line of a JSON text that `serde_json` took.
pub fn value(message: &Value) -> String {
    let Some(members) = message.as_object() else { return format!("other\t-\t{}", canon(Some(message))) };
    let params = members.get("params");
    let method = members.get("method");
    let token = params.and_then(|params| params.get("_meta")?.get("progressToken"));
    format!(
        "method={} id={} result={} error={} target={} token={}\t{}\t{}",
        canon(method),
        id(members.get("id")),
        u8::from(members.contains_key("result")),
        u8::from(members.contains_key("error")),
        target(method.and_then(Value::as_str), params),
        id(token),
        canon(params),
        canon(Some(message)),
    )
}

/// What the guard knows of a message, which is the line without its last part.
pub fn message(message: &Message, is_error: bool) -> String {
    let method = if message.method().is_empty() { "-".to_owned() } else { text(message.method()) };
    let is_response = matches!(message.kind(), Kind::Response { .. });
    let target = about(message.target());
    format!(
        "method={method} id={} result={} error={} target={target} token={}\t{}\t",
        exact(message.id()),
        u8::from(is_response && !is_error),
        u8::from(is_response && is_error),
        exact(message.progress_token()),
        message.params().map_or("-".to_owned(), strict),
    )
}

/// The lists of a result, and what names their entries.
const LISTS: [(&str, &str, &str); 5] = [
    ("tools", "name", "tool"),
    ("prompts", "name", "prompt"),
    ("resources", "uri", "resource"),
    ("resourceTemplates", "uriTemplate", "resource"),
    ("tasks", "taskId", "task"),
];

/// The line of a server's message that `serde_json` took.
pub fn reply_value(message: &Value) -> String {
    if !message.is_object() {
        return format!("other\t{}", canon(Some(message)));
    }
    let there = |key: &str| message.get(key).filter(|value| !value.is_null());
    let result = message.get("result");
    let mut shown = Vec::new();
    for (list, name, kind) in LISTS {
        let entries = result.and_then(|result| result.get(list)?.as_array());
        shown.extend(entries.into_iter().flatten().map(|entry| named(kind, Some(entry), name)));
    }
    format!(
        "method={} id={} result={} error={} failed={} shown=[{}]\t{}",
        canon(there("method")),
        id(there("id")),
        u8::from(result.is_some()),
        u8::from(there("error").is_some()),
        u8::from(result.and_then(|result| result.get("isError")) == Some(&Value::Bool(true))),
        shown.join(","),
        canon(Some(message)),
    )
}

/// What the guard knows of a server's message, with the names in its lists that it passes on.
pub fn reply(reply: &Reply, shown: &[String]) -> String {
    let (method, result, failed) = match &reply.kind {
        ReplyKind::Error { .. } => (None, 0, false),
        ReplyKind::Notification(notice) => (Some(&notice.method), 0, false),
        ReplyKind::Request { method } => (Some(method), 0, false),
        ReplyKind::Result(outcome) => (None, 1, outcome.is_error),
    };
    format!(
        "method={} id={} result={result} error={} failed={} shown=[{}]\t",
        method.map_or("-".to_owned(), |method| text(method)),
        exact(reply.id.as_ref()),
        u8::from(matches!(reply.kind, ReplyKind::Error { .. })),
        u8::from(failed),
        shown.join(","),
    )
}

/// What something is about, as this module writes it.
pub fn about(target: Target<'_>) -> String {
    match target {
        Target::Tool(name) => format!("tool:{}", text(name)),
        Target::Prompt(name) => format!("prompt:{}", text(name)),
        Target::Resource(uri) => format!("resource:{}", text(uri)),
        Target::Task(id) => format!("task:{}", text(id)),
        Target::ServerRequest(method) => format!("server_request:{}", text(method)),
        Target::Method => "method".to_owned(),
        Target::Unnamed => "unnamed".to_owned(),
    }
}

fn exact(id: Option<&Id>) -> String {
    match id {
        None => "-".to_owned(),
        Some(Id::Number(number)) => format!("n{number}"),
        Some(Id::String(string)) => text(string),
    }
}

fn named(kind: &str, holder: Option<&Value>, key: &str) -> String {
    match holder.and_then(|holder| holder.get(key)) {
        Some(Value::String(name)) => format!("{kind}:{}", text(name)),
        _ => "unnamed".to_owned(),
    }
}

/// As `message["id"]` shows in a program: whole numbers to the last digit, and told from others.
fn id(id: Option<&Value>) -> String {
    match id {
        Some(Value::Number(number)) if number.is_f64() => format!("f{}", float(number)),
        Some(Value::Number(number)) => format!("n{number}"),
        other => canon(other),
    }
}

fn target(method: Option<&str>, params: Option<&Value>) -> String {
    match method {
        Some("tools/call") => named("tool", params, "name"),
        Some("prompts/get") => named("prompt", params, "name"),
        Some("resources/read" | "resources/subscribe" | "resources/unsubscribe") => {
            named("resource", params, "uri")
        }
        Some("tasks/get" | "tasks/result" | "tasks/update" | "tasks/cancel") => {
            named("task", params, "taskId")
        }
        Some("completion/complete") => {
            let reference = params.and_then(|params| params.get("ref"));
            match reference.and_then(|reference| reference.get("type")).and_then(Value::as_str) {
                Some("ref/prompt") => named("prompt", reference, "name"),
                Some("ref/resource") => named("resource", reference, "uri"),
                _ => "unnamed".to_owned(),
            }
        }
        _ => "method".to_owned(),
    }
}

/// One spelling for each value; `-` for none.
pub fn canon(value: Option<&Value>) -> String {
    match value {
        None => "-".to_owned(),
        Some(Value::Null) => "null".to_owned(),
        Some(Value::Bool(value)) => value.to_string(),
        Some(Value::Number(number)) => float(number),
        Some(Value::String(string)) => text(string),
        Some(Value::Array(items)) => list(items.iter().map(|item| canon(Some(item)))),
        Some(Value::Object(members)) => {
            object(members.iter().map(|(key, value)| (key.as_str(), canon(Some(value)))))
        }
    }
}

/// The same for what the guard read.
fn strict(value: &Json) -> String {
    match value {
        Json::Null => "null".to_owned(),
        Json::Bool(value) => value.to_string(),
        Json::Number(number) => float(number),
        Json::String(string) => text(string),
        Json::Array(items) => list(items.iter().map(strict)),
        Json::Object(members) => object(members.iter().map(|(key, value)| (key.as_str(), strict(value)))),
    }
}

fn list(items: impl Iterator<Item = String>) -> String {
    format!("[{}]", items.collect::<Vec<_>>().join(","))
}

fn object<'a>(members: impl Iterator<Item = (&'a str, String)>) -> String {
    let mut members: Vec<_> = members.map(|(key, value)| format!("{}:{value}", text(key))).collect();
    members.sort_unstable();
    format!("{{{}}}", members.join(","))
}

/// Printable ASCII as it is, anything else as UTF-16 in hex digits.
pub fn text(text: &str) -> String {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\') {
        return format!("\"{text}\"");
    }
    text.encode_utf16().fold("u".to_owned(), |mut out, unit| {
        let [low, high] = unit.to_le_bytes();
        // Writing to a string cannot fail.
        let _ = write!(out, "{low:02x}{high:02x}");
        out
    })
}

fn float(number: &Number) -> String {
    let value = number.as_f64().unwrap_or(f64::NAN);
    if value.fract() == 0.0 && value.abs() <= SAFE {
        // Without the sign of −0.
        return format!("{:.0}", value + 0.0);
    }
    format!("d{:016x}", value.to_bits())
}
