//! A server for which the guard is the OAuth 2.1 resource server: `authorize` of a server's entry.
//!
//! The guard tells clients where to get a token (RFC 9728), and takes those alone that were made for this server (RFC 8707).

use std::fmt;

use http::Method;
use serde::{Deserialize, Serialize};

use super::{HttpsUrl, Server};
use crate::types::IssuerName;

/// Below this, clients look for the document about a resource: here, or with the resource's path after it.
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

/// Longest name of a scope, in bytes.
pub const SCOPE_BYTES_MAX: usize = 128;

/// What a token must say to be good at a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorize {
    /// The server's URL as its clients know it, and the `aud` of its tokens, byte for byte.
    pub resource: HttpsUrl,
    /// Whose tokens are taken; empty: those of every issuer.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub issuers: Vec<IssuerName>,
    /// What a token must be allowed to do, all of it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<Scope>,
}

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

impl Authorize {
    /// Where the document about the resource is.
    pub fn metadata_url(&self) -> String {
        let path = self.resource.path();
        format!("https://{}{METADATA_PATH}{}", self.resource.authority(), if path == "/" { "" } else { path })
    }
}

impl Server {
    /// Whether a request is for that document, which the guard itself has.
    pub fn is_asked_for_metadata(&self, method: &Method, path: &str) -> bool {
        let is_document =
            || path.strip_prefix(METADATA_PATH).is_some_and(|rest| rest.is_empty() || rest == self.path);
        self.authorize.is_some() && *method == Method::GET && is_document()
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

    #[test]
    fn the_document_is_beside_the_resource_and_at_the_root() {
        let server = |more: &str| -> Server {
            serde_json::from_str(&format!(r#"{{"name": "a", "port": 1{more}}}"#)).unwrap()
        };
        let guarded = server(r#", "authorize": {"resource": "https://a.example:3001/mcp"}"#);
        let url = guarded.authorize.as_ref().unwrap().metadata_url();
        assert_eq!(url, "https://a.example:3001/.well-known/oauth-protected-resource/mcp");
        for (method, path, is) in [
            (Method::GET, "/.well-known/oauth-protected-resource/mcp", true),
            (Method::GET, "/.well-known/oauth-protected-resource", true),
            (Method::POST, "/.well-known/oauth-protected-resource", false),
            (Method::GET, "/.well-known/oauth-protected-resource/other", false),
            (Method::GET, "/.well-known/oauth-protected-resource/mcp/", false),
            (Method::GET, "/.well-known/oauth-authorization-server", false),
            (Method::GET, "/mcp", false),
        ] {
            assert_eq!(guarded.is_asked_for_metadata(&method, path), is, "{method} {path}");
            assert!(!server("").is_asked_for_metadata(&method, path));
        }
    }
}
