//! What rules are made of, once they are read and checked.

use std::fmt;
use std::sync::Arc;

use crate::types::{AgentName, IntentName, NameError};

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

/// How many calls of an agent with an intent may begin within any span of `window_milliseconds`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VelocityRule {
    pub name: RuleName,
    pub agent: AgentName,
    pub intent: IntentPattern,
    pub window_milliseconds: u64,
    pub max_calls: u64,
    pub action: ExceededAction,
    pub reason: Option<Arc<str>>,
}

/// What happens to the call over the limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ExceededAction {
    Deny,
    /// A person decides.
    Escalate,
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
