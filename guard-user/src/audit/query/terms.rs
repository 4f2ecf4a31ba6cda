//! What a record is looked up by.

use std::borrow::Cow;

use jiff::Timestamp;
use serde::Deserialize;

/// Digits of a session's name.
pub(super) const SESSION_DIGITS: usize = 16;

/// The fields of a record that a query may name.
#[derive(Debug, Deserialize)]
pub(super) struct Fields<'a> {
    pub(super) seq: u64,
    time: &'a str,
    #[serde(borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow)]
    pub(super) id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) agent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) server: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) intent: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) decision: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) reason: Option<Cow<'a, str>>,
    #[serde(borrow)]
    pub(super) session: Option<Cow<'a, str>>,
    #[serde(borrow)]
    target: Option<Target<'a>>,
    /// Of a record about a tool's definition.
    #[serde(borrow)]
    tool: Option<Cow<'a, str>>,
    risk: Option<Risk>,
}

#[derive(Debug, Deserialize)]
struct Target<'a> {
    #[serde(borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Debug, Deserialize)]
struct Risk {
    score: u8,
}

impl<'a> Fields<'a> {
    /// `None`: the line is no record.
    pub(super) fn of(line: &'a [u8]) -> Option<Self> {
        serde_json::from_slice(line).ok()
    }

    pub(super) fn tool(&self) -> Option<&str> {
        let target = self.target.as_ref().filter(|target| target.kind == "tool");
        target.map(|target| &*target.name).or(self.tool.as_deref())
    }

    pub(super) fn score(&self) -> Option<u8> {
        self.risk.as_ref().map(|risk| risk.score)
    }

    /// When it was written, by the host's clock.
    pub(super) fn moment(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }

    pub(super) fn terms(&self, mut take: impl FnMut(Term)) {
        let fields = [
            ("kind", Some(&*self.kind)),
            ("id", self.id.as_deref()),
            ("agent", self.agent.as_deref()),
            ("user", self.user.as_deref()),
            ("server", self.server.as_deref()),
            ("decision", self.decision.as_deref()),
            ("reason", self.reason.as_deref()),
            ("session", self.session.as_deref()),
            ("tool", self.tool()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                take(Term::of(name, value));
            }
        }
        let Some(intent) = self.intent.as_deref() else { return };
        take(Term::of("intent", intent));
        for (dot, _) in intent.match_indices('.') {
            take(Term::of("below", intent.get(..=dot).unwrap_or_default()));
        }
    }
}

/// A field with its value, as a number. Two may have the same number: that costs a look, and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Term(pub(super) u64);

impl Term {
    pub(super) fn of(field: &str, value: &str) -> Self {
        /// FNV-1a, 64 bits: the same in every version of this program.
        const OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
        const PRIME: u64 = 0x0000_0100_0000_01b3;
        let bytes = field.bytes().chain([b'=']).chain(value.bytes());
        Self(bytes.fold(OFFSET, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(PRIME)))
    }

    /// Of an intent's pattern; `*` alone says nothing.
    pub(super) fn of_pattern(pattern: &str) -> Option<Self> {
        match pattern.strip_suffix('*') {
            Some("") => None,
            Some(below) => Some(Self::of("below", below)),
            None => Some(Self::of("intent", pattern)),
        }
    }
}
