//! The end of a trail, for a person to look at. Verifies nothing.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::path::Path;

use serde_json::Value;

use super::walk::{Found, Lines, segments};

/// Which records are wanted: those that fit all that is said, and the outcomes of calls that do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    pub agent: Option<String>,
    /// For whom it worked.
    pub user: Option<String>,
    pub server: Option<String>,
    /// What a call or a record of the kind `tool` is about.
    pub tool: Option<String>,
    /// The beginning of the session's name.
    pub session: Option<String>,
    /// The record's word for why.
    pub reason: Option<String>,
    /// In the form of the records: UTC, to the microsecond.
    pub since: Option<String>,
}

impl Filter {
    fn takes(&self, record: &Value) -> bool {
        let field = |name: &str| record.get(name).and_then(Value::as_str);
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.is_none() || wanted.as_deref() == found;
        let target = record.get("target").filter(|target| target.get("kind") == Some(&"tool".into()));
        let tool = target.and_then(|target| target.get("name")).and_then(Value::as_str);
        is(&self.agent, field("agent"))
            && is(&self.user, field("user"))
            && is(&self.server, field("server"))
            && is(&self.tool, tool.or_else(|| field("tool")))
            && is(&self.reason, field("reason"))
            && self
                .session
                .as_deref()
                .is_none_or(|wanted| field("session").is_some_and(|session| session.starts_with(wanted)))
            && self.since.as_deref().is_none_or(|since| field("time").is_some_and(|time| time >= since))
    }
}

/// The last `count` whole lines of the trail in `dir` that `filter` takes, oldest first.
pub fn last(dir: &Path, count: usize, filter: &Filter) -> io::Result<Vec<String>> {
    if *filter == Filter::default() { last_of_all(dir, count) } else { last_of(dir, count, filter) }
}

/// Reads all of the trail.
fn last_of(dir: &Path, count: usize, filter: &Filter) -> io::Result<Vec<String>> {
    let mut kept = VecDeque::new();
    // Calls that were taken and whose outcome is to come.
    let mut open: HashSet<String> = HashSet::new();
    for (_, path) in segments(dir)? {
        let mut lines = Lines::open(&path)?;
        while let Some(Found::Line(line)) = lines.next()? {
            let Ok(record) = serde_json::from_slice::<Value>(line) else { continue };
            let id = record.get("id").and_then(Value::as_str);
            let is_taken = match record.get("kind").and_then(Value::as_str) {
                Some("outcome") => id.is_some_and(|id| open.remove(id)),
                _ => filter.takes(&record),
            };
            if !is_taken {
                continue;
            }
            if record.get("decision") == Some(&"allow".into()) {
                open.extend(id.map(str::to_owned));
            }
            kept.push_back(String::from_utf8_lossy(line).into_owned());
            if kept.len() > count {
                kept.pop_front();
            }
        }
    }
    Ok(kept.into())
}

fn last_of_all(dir: &Path, count: usize) -> io::Result<Vec<String>> {
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
                let user = field("user");
                if !user.is_empty() {
                    summary.agent = format!("{} for {user}", summary.agent);
                }
                let target = record.get("target").and_then(|target| target.get("name"));
                let (method, target) = (field("rpc_method"), shown(target));
                summary.what = if target == method { method } else { [method, target].join(" ") };
                summary.result = field("decision");
                if summary.result != "allow" {
                    summary.why = first_of(&[field("text"), field("reason")]);
                }
                if let Some(score) = record.pointer("/risk/score").and_then(Value::as_u64) {
                    summary.result = format!("{} (risk {score})", summary.result);
                }
            }
            "outcome" => {
                summary.what = format!("of {}", field("call_seq"));
                summary.result = field("result");
                let micros = format!("{} us", field("duration_micros"));
                let reason = field("reason");
                summary.why = if reason.is_empty() { micros } else { format!("{reason}, {micros}") };
            }
            "blocked" | "unblocked" => {
                summary.what = format!("{} {}", field("what"), field("name"));
                summary.why = field("reason");
            }
            "session_ended" => {
                summary.what = field("session");
                summary.server = field("server");
                summary.from = field("agent");
                summary.why = field("reason");
            }
            "denied" => {
                summary.what = format!("{} {}", field("reason"), field("address"));
                summary.why = format!("pid {} ({}, uid {})", field("pid"), field("comm"), field("uid"));
            }
            "policy" => {
                summary.what = field("digest").chars().take(DIGEST_SHOWN).collect();
                summary.why = by(record.get("uid")).unwrap_or_else(|| field("cause"));
            }
            "gap" if record.get("uid").is_some() => {
                summary.what = field("reason");
                summary.why = format!("{} (by uid {})", field("text"), field("uid"));
                if record.get("lost_from").is_some_and(Value::is_u64) {
                    summary.result = format!("records {} to {}", field("lost_from"), field("lost_to"));
                }
            }
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
                summary.why = by(record.get("by_uid")).unwrap_or_default();
            }
            "tool" => {
                summary.what = field("tool");
                summary.result = field("change");
                summary.why = by(record.get("uid")).unwrap_or_else(|| field("text"));
            }
            "sessions_ended" => {
                let which = [field("agent"), field("server"), field("sessions")];
                let which: Vec<_> =
                    which.iter().filter(|which| !which.is_empty()).map(String::as_str).collect();
                summary.what = if which.is_empty() { "all".into() } else { which.join(" ") };
                (summary.agent, summary.server) = (String::new(), String::new());
                summary.result = format!("{} ended", field("count"));
                summary.why = format!("by uid {}", field("uid"));
            }
            "clock" => {
                summary.what = format!("by {} ms", field("by_milliseconds"));
                summary.why = format!("it would have been {}", field("expected"));
            }
            "key" => summary.what = field("epoch"),
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
        Some(other) => other.to_string().escape_default().to_string(),
    }
}

fn first_of(texts: &[String]) -> String {
    texts.iter().find(|text| !text.is_empty()).cloned().unwrap_or_default()
}

/// Which operator, if a record names one.
fn by(uid: Option<&Value>) -> Option<String> {
    uid.and_then(Value::as_u64).map(|uid| format!("by uid {uid}"))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, json};

    use super::*;
    use crate::audit::ascii;

    /// Kinds that have columns of their own, and one that nobody knows.
    const KINDS: [&str; 16] = [
        "call",
        "outcome",
        "blocked",
        "session_ended",
        "denied",
        "policy",
        "gap",
        "listener",
        "tool",
        "sessions_ended",
        "clock",
        "key",
        "genesis",
        "start",
        "later",
        "unblocked",
    ];
    const FIELDS: &str = "seq time agent server user rpc_method decision text reason call_seq result duration_micros what name session address \
        pid comm uid digest refused open_count cause state cgroup tool change sessions count by_milliseconds expected origin version \
        lost_from intent peer target local risk";

    /// Lines whose fields are what nobody would expect there, as the guard spells them and otherwise.
    pub(crate) fn odd_lines() -> impl Strategy<Value = String> {
        let text = r"[\x00-\u{10ffff}\n\x1b\x7f\u{9b}\u{202e}\u{2028}]{0,20}";
        let fields = prop::collection::vec((text, 0_u8..5), FIELDS.split_whitespace().count());
        (prop::sample::select(&KINDS[..]), fields, any::<bool>()).prop_map(|(kind, fields, is_ascii)| {
            let mut record: Map<String, Value> = FIELDS
                .split_whitespace()
                .zip(fields)
                .map(|(name, (text, shape))| {
                    let value = match shape {
                        0 => Value::Null,
                        1 => json!([text]),
                        2 => json!({"kind": "tool", "name": text, "score": 7, "comm": text, "uid": text, "container": text, "relay": text}),
                        _ => json!(text),
                    };
                    (name.to_owned(), value)
                })
                .collect();
            record.insert("kind".into(), kind.into());
            let record = Value::Object(record);
            if is_ascii { ascii(&record).unwrap() } else { record.to_string() }
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3_000))]
        #[test]
        fn no_record_has_a_column_that_is_not_printable_ascii(line in odd_lines()) {
            for column in Summary::of(&line).columns() {
                prop_assert!(column.bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{:?} of {:?}", column, line);
            }
        }
    }

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
    fn a_filter_takes_what_fits_and_the_outcomes_of_it() {
        let call = |seq: u64, agent: &str, more: &str| {
            format!(
                r#"{{"seq":{seq},"time":"2026-11-21T05:00:0{seq}.000000Z","kind":"call","id":"c{seq}","decision":"allow","agent":"{agent}"{more}}}"#
            )
        };
        let get = r#","server":"crm","reason":"allowed","target":{"kind":"tool","name":"get"},"session":"abcdef0123456789""#;
        let lines = [
            call(0, "a", get),
            call(
                1,
                "b",
                r#","server":"crm","reason":"default_deny","target":{"kind":"prompt","name":"get"},"session":null"#,
            ),
            r#"{"seq":2,"time":"2026-11-21T05:00:02.000000Z","kind":"outcome","id":"c1"}"#.into(),
            r#"{"seq":3,"time":"2026-11-21T05:00:03.000000Z","kind":"outcome","id":"c0"}"#.into(),
            r#"{"seq":4,"time":"2026-11-21T05:00:04.000000Z","kind":"tool","server":"crm","tool":"get"}"#
                .into(),
            call(5, "a", r#","server":"files","reason":"allowed","user":"alice@corp""#),
        ];
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("00000000000000000000.jsonl"), lines.join("\n") + "\n").unwrap();
        let found = |filter: Filter, count: usize| {
            let found = last(dir.path(), count, &filter).unwrap();
            found
                .iter()
                .map(|line| serde_json::from_str::<Value>(line).unwrap()["seq"].as_u64().unwrap())
                .collect::<Vec<_>>()
        };
        let some = |text: &str| Some(text.to_owned());
        let any = Filter::default;
        assert_eq!(found(any(), 100), [0, 1, 2, 3, 4, 5]);
        assert_eq!(found(Filter { agent: some("a"), ..any() }, 100), [0, 3, 5]);
        assert_eq!(found(Filter { agent: some("a"), ..any() }, 2), [3, 5]);
        assert_eq!(found(Filter { server: some("files"), ..any() }, 100), [5]);
        assert_eq!(found(Filter { tool: some("get"), ..any() }, 100), [0, 3, 4]);
        assert_eq!(found(Filter { session: some("abcd"), ..any() }, 100), [0, 3]);
        assert_eq!(found(Filter { reason: some("default_deny"), ..any() }, 100), [1, 2]);
        assert_eq!(found(Filter { since: some("2026-11-21T05:00:04"), ..any() }, 100), [4, 5]);
        assert_eq!(found(Filter { agent: some("a"), server: some("crm"), ..any() }, 100), [0, 3]);
        assert_eq!(found(Filter { user: some("alice@corp"), ..any() }, 100), [5]);
        assert!(found(Filter { agent: some("nobody"), ..any() }, 100).is_empty());
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
