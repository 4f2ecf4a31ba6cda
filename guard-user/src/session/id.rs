//! Session ids.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

/// Longest session id, in bytes.
pub const SESSION_ID_BYTES_MAX: usize = 1024;

/// What stands in `Mcp-Session-Id`: visible ASCII, as the protocol wants it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SessionId(Arc<str>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a session id has 1 to {SESSION_ID_BYTES_MAX} visible ASCII characters")]
pub struct SessionIdError;

impl SessionId {
    pub fn parse(bytes: &[u8]) -> Result<Self, SessionIdError> {
        let is_visible = bytes.iter().all(|byte| matches!(byte, b'!'..=b'~'));
        match std::str::from_utf8(bytes) {
            Ok(text) if is_visible && (1..=SESSION_ID_BYTES_MAX).contains(&text.len()) => {
                Ok(Self(text.into()))
            }
            _ => Err(SessionIdError),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What names the session in records and tables: the first 8 bytes of the id's SHA-256, in hex. With many servers, who
    /// knows the id has the session.
    pub fn name(&self) -> String {
        hex::encode(digest(&SHA256, self.0.as_bytes()).as_ref().get(..8).unwrap_or_default())
    }
}

impl TryFrom<String> for SessionId {
    type Error = SessionIdError;
    fn try_from(text: String) -> Result<Self, SessionIdError> {
        Self::parse(text.as_bytes())
    }
}

impl From<SessionId> for String {
    fn from(id: SessionId) -> Self {
        id.0.as_ref().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_visible_ascii_of_bounded_length() {
        for good in ["a", "1868a90c-9a5b", "!~"] {
            assert_eq!(SessionId::parse(good.as_bytes()).unwrap().as_str(), good);
        }
        let long = "a".repeat(SESSION_ID_BYTES_MAX + 1);
        for bad in ["", "a b", "a\tb", "ä", "a\u{7f}", &long] {
            assert_eq!(SessionId::parse(bad.as_bytes()), Err(SessionIdError), "{bad:?}");
        }
    }

    #[test]
    fn the_name_of_a_session_does_not_give_it_away() {
        let name = SessionId::parse(b"secret").unwrap().name();
        assert_eq!(name, "2bb80d537b1da3e3");
    }
}
