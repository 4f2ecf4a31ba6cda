//! What a token may be used for, by name.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Longest name of a scope, in bytes.
pub const SCOPE_BYTES_MAX: usize = 128;

/// The name of a scope (RFC 6749 3.3).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Scope(String);

/// A text that is no scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a scope is 1 to {SCOPE_BYTES_MAX} printable ASCII characters without space, quote and backslash")]
pub struct ScopeError;

impl Scope {
    pub fn parse(text: &str) -> Result<Self, ScopeError> {
        let is_of_scope = |byte: u8| matches!(byte, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
        let is_one = (1..=SCOPE_BYTES_MAX).contains(&text.len()) && text.bytes().all(is_of_scope);
        is_one.then(|| Self(text.to_owned())).ok_or(ScopeError)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for Scope {
    type Error = ScopeError;
    fn try_from(text: String) -> Result<Self, ScopeError> {
        Self::parse(&text)
    }
}

impl From<Scope> for String {
    fn from(scope: Scope) -> Self {
        scope.0
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_has_no_character_that_would_end_it() {
        for good in ["a", "crm:read", "https://a/b.c", "!#[]~"] {
            assert!(Scope::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "a b", "a\"", "a\\", "a\n", "\u{e4}", &"x".repeat(SCOPE_BYTES_MAX + 1)] {
            assert_eq!(Scope::parse(bad), Err(ScopeError), "{bad}");
        }
    }
}
