//! A record of the trail as an exporter looks at it.

use std::borrow::Cow;

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::audit::merkle::{Hash, leaf_hash};

type Fields = Map<String, Value>;

/// A record, and for an outcome that of its call.
#[derive(Debug, Clone)]
pub(super) struct Entry<'a> {
    /// As it stands in the trail.
    pub(super) line: &'a str,
    pub(super) seq: u64,
    pub(super) kind: &'a str,
    /// Milliseconds since 1970, by the host's clock.
    pub(super) millis: i64,
    /// The same in nanoseconds, to the microsecond.
    pub(super) nanos: i128,
    fields: &'a Fields,
    call: Option<&'a Fields>,
}

/// The record's place in the trail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) seq: u64,
    /// `prev` of the next record.
    pub(super) hash: Hash,
}

impl Link {
    pub(super) fn of(seq: u64, line: &str) -> Self {
        Self { seq, hash: leaf_hash(line.as_bytes()) }
    }
}

impl<'a> Entry<'a> {
    /// `None`: it is no record.
    pub(super) fn new(line: &'a str, fields: &'a Fields, call: Option<&'a Fields>) -> Option<Self> {
        let time: Timestamp = fields.get("time")?.as_str()?.parse().ok()?;
        Some(Self {
            line,
            seq: fields.get("seq")?.as_u64()?,
            kind: fields.get("kind")?.as_str()?,
            millis: time.as_millisecond(),
            nanos: time.as_nanosecond(),
            fields,
            call,
        })
    }

    /// A field of the record itself.
    pub(super) fn own_value(&self, name: &str) -> Option<&'a Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    /// A text of the record itself.
    pub(super) fn own(&self, name: &str) -> Option<&'a str> {
        self.own_value(name)?.as_str()
    }

    /// A number of the record itself.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        self.own_value(name)?.as_u64()
    }

    /// All fields of the record itself, in its order.
    pub(super) fn fields(&self) -> impl Iterator<Item = (&'a String, &'a Value)> {
        self.fields.iter()
    }

    /// A field of the call that the record is, or is the outcome of.
    pub(super) fn of_call(&self, name: &str) -> Option<&'a Value> {
        let fields = if self.kind == "call" { Some(self.fields) } else { self.call };
        fields?.get(name)
    }

    /// A field of the record itself, or of its call. Why a call ended is not why it went on.
    pub(super) fn field(&self, name: &str) -> Option<&'a Value> {
        self.own_value(name)
            .or_else(|| self.of_call(name).filter(|value| name != "reason" && !value.is_null()))
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.field(name)?.as_str()
    }

    /// A text of `local`, `target` and the like.
    pub(super) fn within(&self, object: &str, name: &str) -> Option<&'a Value> {
        self.field(object)?.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn target(&self) -> Option<&'a str> {
        self.within("target", "name").and_then(Value::as_str).or_else(|| self.own("tool"))
    }

    pub(super) fn target_kind(&self) -> Option<&'a str> {
        self.within("target", "kind").and_then(Value::as_str).or_else(|| self.own("tool").map(|_| "tool"))
    }

    pub(super) fn risk(&self) -> Option<u64> {
        self.within("risk", "score")?.as_u64()
    }

    /// Of an outcome its result, of a call what was decided, else the kind.
    pub(super) fn verdict(&self) -> &'a str {
        let word = match self.kind {
            "outcome" => self.own("result"),
            "call" => self.own("decision"),
            _ => None,
        };
        word.unwrap_or(self.kind)
    }

    /// The call went on, and the guard kept back its answer, or the rest of it.
    pub(super) fn is_kept_back(&self) -> bool {
        self.kind == "outcome" && matches!(self.verdict(), "refused" | "cut_off")
    }

    /// In words, for people.
    pub(super) fn told(&self) -> Cow<'a, str> {
        let what = || {
            let agent = self.text("agent").unwrap_or("unknown agent");
            let target = self.target().or_else(|| self.text("rpc_method")).unwrap_or("request");
            let server = self.text("server").unwrap_or("unknown server");
            format!("{agent}: {target} at {server}")
        };
        match self.kind {
            "call" => match self.own("decision").unwrap_or_default() {
                "allow" => format!("Forwarded: {}", what()).into(),
                "hold" => format!("Held for approval: {}", what()).into(),
                "tell" => format!("Answered by the guard: {}", what()).into(),
                _ => format!("Refused ({}): {}", self.own("reason").unwrap_or("no reason"), what()).into(),
            },
            "outcome" => format!("Ended ({}): {}", self.verdict(), what()).into(),
            kind => kind.into(),
        }
    }

    pub(super) fn severity(&self) -> Severity {
        match (self.kind, self.verdict()) {
            _ if self.is_kept_back() => Severity::Medium,
            ("call", "deny") | ("blocked" | "denied" | "other_port", _) => Severity::Medium,
            ("gap" | "drift" | "clock", _) => Severity::High,
            ("call", "hold") | ("outcome", "upstream_failed" | "http_error") => Severity::Low,
            ("tool", _) if matches!(self.own("change"), Some("held" | "flagged" | "no_room")) => {
                Severity::Medium
            }
            _ => Severity::Informational,
        }
    }
}

/// How much it matters, in the words of OCSF.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Informational,
    Low,
    Medium,
    High,
}

impl Severity {
    /// OCSF `severity_id`.
    pub(super) fn ocsf(self) -> (u8, &'static str) {
        match self {
            Self::Informational => (1, "Informational"),
            Self::Low => (2, "Low"),
            Self::Medium => (3, "Medium"),
            Self::High => (4, "High"),
        }
    }

    /// CEF's scale from 0 to 10.
    pub(super) fn cef(self) -> u8 {
        match self {
            Self::Informational => 1,
            Self::Low => 3,
            Self::Medium => 5,
            Self::High => 8,
        }
    }

    /// Syslog's, RFC 5424, section 6.2.1.
    pub(super) fn syslog(self) -> u8 {
        match self {
            Self::Informational => 6,
            Self::Low => 5,
            Self::Medium => 4,
            Self::High => 3,
        }
    }

    /// OpenTelemetry's `SeverityNumber`.
    pub(super) fn otlp(self) -> (u8, &'static str) {
        match self {
            Self::Informational => (9, "INFO"),
            Self::Low => (10, "INFO2"),
            Self::Medium => (13, "WARN"),
            Self::High => (17, "ERROR"),
        }
    }
}
