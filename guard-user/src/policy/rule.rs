//! What rules are made of, once they are read and checked.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};

use crate::types::{AgentName, IntentName, NameError, ProfileName, ServerName};

/// The rule that decided: its `name`, or where it stands (`seed.yaml:14`; `seed.yaml:14:5` if others begin there too).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName(Arc<str>);

impl RuleName {
    pub(super) fn new(text: &str) -> Self {
        Self(text.into())
    }

    #[cfg(test)]
    pub(crate) fn for_tests(text: &str) -> Self {
        Self::new(text)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl serde::Serialize for RuleName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// One intent, or all below a point: `financial.refund.*`. `*` alone is every intent.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IntentPattern {
    /// As written.
    text: Arc<str>,
    /// What an intent begins with, up to and with the last dot; `None` for an exact name.
    prefix: Option<Arc<str>>,
}

impl IntentPattern {
    pub fn parse(text: &str) -> Result<Self, NameError> {
        let prefix = match text.strip_suffix('*') {
            Some("") => Some(""),
            // `a.b*` would also match `a.bc`, which nobody means.
            Some(prefix) if prefix.ends_with('.') => {
                IntentName::parse(prefix)?;
                Some(prefix)
            }
            Some(_) => return Err(NameError::Character('*')),
            None => {
                IntentName::parse(text)?;
                None
            }
        };
        Ok(Self { text: text.into(), prefix: prefix.map(Into::into) })
    }

    /// `*`
    pub(super) fn every() -> Self {
        Self { text: "*".into(), prefix: Some("".into()) }
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }

    pub fn matches(&self, intent: &str) -> bool {
        match &self.prefix {
            Some(prefix) => intent.starts_with(&**prefix),
            None => intent == &*self.text,
        }
    }

    pub(super) fn is_exact(&self) -> bool {
        self.prefix.is_none()
    }
}

impl fmt::Display for IntentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for IntentPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.text)
    }
}

/// One limit of a velocity rule: how much there may be within any span of its window, or at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VelocityRule {
    pub name: RuleName,
    /// What it is about; `None`: any.
    pub agent: Option<AgentName>,
    pub server: Option<ServerName>,
    pub tool: Option<Box<str>>,
    /// The profile in which its callers work.
    pub profile: Option<ProfileName>,
    pub intent: IntentPattern,
    pub per: Per,
    pub measure: Measure,
    /// 0 for what is counted while it is under way.
    pub window_milliseconds: u64,
    pub max: u64,
    pub action: ExceededAction,
    pub reason: Option<Arc<str>>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Measure {
    /// Calls that begin.
    Calls,
    /// The same, each with its weight.
    Cost,
    /// Calls that are under way.
    Concurrent,
}

/// What is counted apart: each user, say, or each pair of an agent and a tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Per {
    first: Part,
    second: Option<Part>,
}

/// A part of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    Agent,
    User,
    Session,
    Tool,
    Intent,
    Server,
}

/// Which window it is, whatever policy version names it: a digest of what is counted, apart by what, and for how long. A limit
/// is no part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopeId(pub [u8; 8]);

/// A rule as it counts calls of one target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meter {
    pub rule: Arc<VelocityRule>,
    pub scope: ScopeId,
    /// The intent that the key names, if it names one.
    pub intent: Option<IntentName>,
    /// What a call costs.
    pub weight: u32,
}

/// What happens to the call over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExceededAction {
    Deny,
    /// A person decides.
    Escalate,
    /// It goes on, and its record says what the rule would have done.
    Shadow,
}

/// What an inspection rule does with what it finds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The closing record tells of it.
    Count,
    /// Something else goes to the client in its place.
    Mask,
    /// Nothing of the answer goes to the client.
    Refuse,
}

impl VelocityRule {
    /// Whether it counts calls of callers in this profile.
    pub(super) fn counts_in(&self, profile: Option<&ProfileName>) -> bool {
        self.profile.is_none() || self.profile.as_ref() == profile
    }

    pub fn scope(&self) -> ScopeId {
        let [agent, server] =
            [self.agent.as_ref().map(AgentName::as_str), self.server.as_ref().map(ServerName::as_str)];
        let first = [agent, server, self.tool.as_deref()];
        let mut text = String::new();
        for part in first {
            // No name holds a line's end but a tool's, which stands last.
            text.push_str(&part.map_or_else(|| "\n".to_owned(), |part| format!("={}:{part}\n", part.len())));
        }
        let (parts, measure) = (self.per.parts().map(Part::as_str), self.measure.as_str());
        text.push_str(self.intent.as_str());
        text.extend(parts.flat_map(|part| ["\n", part]));
        text.extend(["\n", measure, " ", &self.window_milliseconds.to_string()]);
        // What counts in every profile keeps the name that its windows had before there were such rules.
        text.extend(self.profile.iter().flat_map(|profile| ["\nprofile ", profile.as_str()]));
        let mut id = [0; 8];
        id.iter_mut().zip(digest(&SHA256, text.as_bytes()).as_ref()).for_each(|(to, from)| *to = *from);
        ScopeId(id)
    }
}

impl Measure {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Calls => "calls",
            Self::Cost => "cost",
            Self::Concurrent => "concurrent",
        }
    }
}

impl Per {
    /// One part, or two in any order; `None` if they are the same.
    pub fn new(first: Part, second: Option<Part>) -> Option<Self> {
        match second {
            Some(second) if second == first => None,
            Some(second) => Some(Self { first: first.min(second), second: Some(first.max(second)) }),
            None => Some(Self { first, second: None }),
        }
    }

    pub fn parts(self) -> impl Iterator<Item = Part> {
        std::iter::once(self.first).chain(self.second)
    }

    pub(super) fn names(self, part: Part) -> bool {
        self.parts().any(|one| one == part)
    }
}

impl Default for Per {
    fn default() -> Self {
        Self { first: Part::Agent, second: None }
    }
}

impl Part {
    pub const ALL: [Self; 6] =
        [Self::Agent, Self::User, Self::Session, Self::Tool, Self::Intent, Self::Server];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::User => "user",
            Self::Session => "session",
            Self::Tool => "tool",
            Self::Intent => "intent",
            Self::Server => "server",
        }
    }
}

impl ScopeId {
    pub fn parse(hex: &str) -> Option<Self> {
        let mut id = [0; 8];
        hex::decode_to_slice(hex, &mut id).ok()?;
        Some(Self(id))
    }
}

impl fmt::Display for ScopeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_matches_whole_parts_below_its_point() {
        let below = IntentPattern::parse("financial.refund.*").unwrap();
        assert!(below.matches("financial.refund.process") && below.matches("financial.refund.a.b"));
        assert!(!below.matches("financial.refund") && !below.matches("financial.refunds.process"));
        let exact = IntentPattern::parse("financial.refund").unwrap();
        assert!(exact.matches("financial.refund") && !exact.matches("financial.refund.process"));
        assert!(IntentPattern::parse("*").unwrap().matches("anything"));
        for bad in ["financial.ref*", "*.refund", "a.*.b", "", "a b", ".."] {
            assert!(IntentPattern::parse(bad).is_err() || bad == "..", "{bad}");
        }
    }
}
