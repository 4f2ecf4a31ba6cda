//! The end of a trail, for a person to look at. Verifies nothing.

use std::collections::VecDeque;
use std::io;
use std::path::Path;

use serde_json::Value;

use super::walk::{Found, Lines, segments};

/// The last `count` whole lines of the trail in `dir`, oldest first.
pub fn last(dir: &Path, count: usize) -> io::Result<Vec<String>> {
    let mut kept = VecDeque::new();
    for (_, path) in segments(dir)?.into_iter().rev() {
        let mut lines = Lines::open(&path)?;
        let mut here = VecDeque::new();
        while let Some(Found::Line(line)) = lines.next()? {
            here.push_back(String::from_utf8_lossy(line).into_owned());
            if here.len() + kept.len() > count {
                here.pop_front();
            }
        }
        here.append(&mut kept);
        kept = here;
        if kept.len() >= count {
            break;
        }
    }
    Ok(kept.into())
}

/// Digits of a policy's digest; the record has them all.
const DIGEST_SHOWN: usize = 12;

/// Digits of a container's id, as its engine shows it.
const CONTAINER_SHOWN: usize = 12;

/// One record in the columns of a table. Every text stays in the printable ASCII that the line has.
#[derive(Debug, Default)]
pub struct Summary {
    seq: String,
    time: String,
    kind: String,
    agent: String,
    from: String,
    server: String,
    what: String,
    result: String,
    why: String,
}

impl Summary {
    /// Of a line of a trail; what it lacks stays empty.
    pub fn of(line: &str) -> Self {
        let Ok(record) = serde_json::from_str::<Value>(line) else {
            return Self { what: "(not a record)".into(), ..Self::default() };
        };
        let field = |name: &str| shown(record.get(name));
        let mut summary = Self {
            seq: field("seq"),
            time: clock(&field("time")),
            kind: field("kind"),
            agent: field("agent"),
            server: field("server"),
            ..Self::default()
        };
        match summary.kind.as_str() {
            "call" => {
                summary.from = from(&record);
                let target = record.get("target").and_then(|target| target.get("name"));
                let (method, target) = (field("rpc_method"), shown(target));
                summary.what = if target == method { method } else { [method, target].join(" ") };
                summary.result = field("decision");
                if summary.result != "allow" {
                    summary.why = first_of(&[field("text"), field("reason")]);
                }
            }
            "outcome" => {
                summary.what = format!("of {}", field("call_seq"));
                summary.result = field("result");
                summary.why = format!("{} us", field("duration_micros"));
            }
            "blocked" | "unblocked" => {
                summary.what = format!("{} {}", field("what"), field("name"));
                summary.why = field("reason");
            }
            "denied" => {
                summary.what = format!("{} {}", field("reason"), field("address"));
                summary.why = format!("pid {} ({}, uid {})", field("pid"), field("comm"), field("uid"));
            }
            "policy" => summary.what = field("digest").chars().take(DIGEST_SHOWN).collect(),
            "gap" => {
                summary.what = field("reason");
                summary.why = field("cause");
                summary.result = format!("{} refused, {} open", field("refused"), field("open_count"));
            }
            "listener" => {
                summary.what = [field("address"), field("comm")].join(" ");
                summary.result = field("state");
                summary.server = field("server");
                summary.from = field("cgroup");
            }
            "tool" => {
                summary.what = field("tool");
                summary.result = field("change");
                let by = record.get("uid").and_then(Value::as_u64).map(|uid| format!("by uid {uid}"));
                summary.why = by.unwrap_or_else(|| field("text"));
            }
            "genesis" => summary.what = field("origin"),
            "start" => summary.what = field("version"),
            _ => {}
        }
        summary
    }

    /// Sequence number, time, kind, agent, where from, server, what, result and why.
    pub fn columns(self) -> [String; 8] {
        let separator = if self.result.is_empty() || self.why.is_empty() { "" } else { ": " };
        let result = [self.result.as_str(), self.why.as_str()].join(separator);
        [self.seq, self.time, self.kind, self.agent, self.from, self.server, self.what, result]
    }
}

/// The process that called, by the best name that it has, or where it is.
fn from(record: &Value) -> String {
    let local = record.get("local").unwrap_or(&Value::Null);
    let field = |name: &str| shown(local.get(name));
    if !local.is_object() {
        return match local.as_str() {
            Some("remote") => host(&shown(record.get("peer"))),
            _ => shown(Some(local)),
        };
    }
    let container: String = field("container").chars().take(CONTAINER_SHOWN).collect();
    let name = first_of(&[container, field("unit"), format!("{} uid {}", field("comm"), field("uid"))]);
    match field("relay") {
        relay if relay.is_empty() => name,
        relay => format!("via {relay}"),
    }
}

/// The address without its port.
fn host(peer: &str) -> String {
    peer.rsplit_once(':').map_or(peer, |(host, _port)| host).to_owned()
}

/// Day and time to the millisecond, of an RFC 3339 time in UTC.
fn clock(time: &str) -> String {
    time.get(5..23).map_or_else(|| time.to_owned(), |clock| clock.replacen('T', " ", 1))
}

fn shown(value: Option<&Value>) -> String {
    match value {
        None | Some(Value::Null) => String::new(),
        Some(Value::String(text)) => text.escape_default().to_string(),
        Some(other) => other.to_string(),
    }
}

fn first_of(texts: &[String]) -> String {
    texts.iter().find(|text| !text.is_empty()).cloned().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_digests_are_short() {
        let line = format!(
            r#"{{"seq":3,"time":"2026-11-21T05:11:34.786123Z","kind":"policy","digest":"{}"}}"#,
            "ab".repeat(32)
        );
        let columns = Summary::of(&line).columns();
        assert_eq!((columns[1].as_str(), columns[6].as_str()), ("11-21 05:11:34.786", "abababababab"));
    }

    #[test]
    fn an_attackers_text_reaches_the_table_as_printable_ascii() {
        let line = r#"{"seq":3,"kind":"call","agent":"a\u001b[2J\u202e","rpc_method":"tools/call","target":{"name":"x\ny"},"decision":"deny","reason":"default_deny","text":null}"#;
        let columns = Summary::of(line).columns();
        assert!(
            columns.iter().all(|column| column.bytes().all(|byte| (0x20..0x7f).contains(&byte))),
            "{columns:?}"
        );
        assert_eq!((columns[6].as_str(), columns[7].as_str()), ("tools/call x\\ny", "deny: default_deny"));
        assert_eq!(Summary::of("{").columns()[6], "(not a record)");
    }

    #[test]
    fn a_call_is_shown_with_who_sent_it() {
        let id = "1f2e3d4c5b6a79880123456789abcdef0123456789abcdef0123456789abcdef";
        for (local, from) in [
            (r#""remote""#.to_owned(), "10.0.0.9"),
            (r#""unknown""#.to_owned(), "unknown"),
            (r#"{"uid":7,"comm":"a\u001b[2J"}"#.to_owned(), "a\\u{1b}[2J uid 7"),
            (r#"{"uid":7,"comm":"node","unit":"agent.service"}"#.to_owned(), "agent.service"),
            (format!(r#"{{"uid":7,"comm":"node","container":"{id}"}}"#), "1f2e3d4c5b6a"),
            (
                r#"{"uid":0,"comm":"docker-proxy","unit":"docker.service","relay":"docker-proxy"}"#.into(),
                "via docker-proxy",
            ),
        ] {
            let line = format!(r#"{{"seq":1,"kind":"call","peer":"10.0.0.9:4711","local":{local}}}"#);
            assert_eq!(Summary::of(&line).columns()[4], from);
        }
    }
}
