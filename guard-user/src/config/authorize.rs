//! A server for which the guard is the OAuth 2.1 resource server: `authorize` of a server's entry.
//!
//! The guard tells clients where to get a token (RFC 9728), and takes those alone that were made for this server (RFC 8707).

use http::Method;
use serde::{Deserialize, Serialize};

use super::{HttpsUrl, Scope, Server};
use crate::types::IssuerName;

/// Below this, clients look for the document about a resource: here, or with the resource's path after it.
pub const METADATA_PATH: &str = "/.well-known/oauth-protected-resource";

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
