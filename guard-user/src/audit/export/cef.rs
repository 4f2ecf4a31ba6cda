//! `ArcSight` Common Event Format, version 0: `CEF:0|vendor|product|version|class|name|severity|key=value ...`

use serde_json::Value;

use super::entry::Entry;
use super::escape::plain;

/// One event.
pub(super) fn line(entry: &Entry<'_>, origin: &str) -> String {
    let header = [
        "mcp-guard",
        "mcp-guard",
        env!("CARGO_PKG_VERSION"),
        &format!("{}:{}", entry.kind, entry.verdict()),
        &entry.told(),
    ];
    let mut line = String::from("CEF:0");
    for field in header {
        line.push('|');
        line.push_str(&plain(field).replace('\\', r"\\").replace('|', r"\|"));
    }
    let mut extension = Extension::default();
    extension.number("rt", entry.millis);
    extension.text("deviceExternalId", origin);
    extension.number("externalId", entry.seq);
    extension.text("cat", entry.kind);
    extension.text("act", entry.verdict());
    for (key, name) in [("reason", "reason"), ("suser", "user"), ("requestClientApplication", "agent")] {
        if let Some(text) = entry.text(name) {
            extension.text(key, text);
        }
    }
    if let Some(server) = entry.text("server") {
        extension.text("destinationServiceName", server);
    }
    for (name, address, port) in [("peer", "src", "spt"), ("original_dst", "dst", "dpt")] {
        if let Some((ip, number)) = super::address(entry, name) {
            // The dictionary has keys for what is longer, and says how to label them.
            let (key, label) = match (ip.is_ipv6(), address) {
                (true, "src") => ("c6a2", Some(("c6a2Label", "Source IPv6 Address"))),
                (true, _) => ("c6a3", Some(("c6a3Label", "Destination IPv6 Address"))),
                (false, key) => (key, None),
            };
            if let Some((key, label)) = label {
                extension.text(key, label);
            }
            extension.text(key, &ip.to_string());
            extension.number(port, number);
        }
    }
    for (key, name) in [("sproc", "comm"), ("spid", "pid"), ("suid", "uid")] {
        if let Some(value) = entry.within("local", name) {
            extension.value(key, value);
        }
    }
    if let Some(method) = entry.text("http_method") {
        extension.text("requestMethod", method);
    }
    let strings = [
        ("intent", entry.text("intent")),
        ("rule", entry.text("rule")),
        ("target", entry.target()),
        ("session", entry.text("session")),
        ("decision id", entry.text("id")),
        ("profile", entry.text("profile")),
    ];
    for (number, (label, text)) in (1..).zip(strings) {
        if let Some(text) = text {
            extension.text(&format!("cs{number}Label"), label);
            extension.text(&format!("cs{number}"), text);
        }
    }
    let numbers = [("risk", entry.risk()), ("http status", entry.number("status"))];
    for (number, (label, value)) in (1..).zip(numbers) {
        if let Some(value) = value {
            extension.text(&format!("cn{number}Label"), label);
            extension.number(&format!("cn{number}"), value);
        }
    }
    // In the dictionary's words: `in` is what flows from the source to the destination, `out` what flows back.
    for (key, name) in [("in", "body_bytes"), ("out", "response_bytes")] {
        if let Some(bytes) = entry.field(name).and_then(Value::as_u64) {
            extension.number(key, bytes);
        }
    }
    if let Some(text) = entry.text("text") {
        extension.text("msg", text);
    }
    format!("{line}|{}|{}", entry.severity().cef(), extension.0.join(" "))
}

/// Keys with their values.
#[derive(Default)]
struct Extension(Vec<String>);

impl Extension {
    fn text(&mut self, key: &str, text: &str) {
        self.0.push(format!("{key}={}", plain(text).replace('\\', r"\\").replace('=', r"\=")));
    }

    fn number(&mut self, key: &str, number: impl std::fmt::Display) {
        self.text(key, &number.to_string());
    }

    fn value(&mut self, key: &str, value: &Value) {
        match value {
            Value::String(text) => self.text(key, text),
            value => self.text(key, &value.to_string()),
        }
    }
}
