//! What the guard itself shows to a server: `credential` of a server's entry.

use std::path::PathBuf;

use http::HeaderName;
use http::header::AUTHORIZATION;
use serde::{Deserialize, Serialize};

/// Fields that say how a message is framed, whom it is for or what it is; the guard or the client writes them.
const TAKEN: [&str; 14] = [
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "last-event-id",
    "origin",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];
/// Beginnings of such names.
const TAKEN_PREFIXES: [&str; 2] = ["accept", "mcp-"];

/// A secret that goes into a header of each request to a server, and the place where it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    /// Whatever a client sends by this name ends at the guard.
    #[serde(default = "default_header")]
    pub header: String,
    /// What stands before the secret, such as `Bearer`. Left out: `Bearer` in `Authorization`, else nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The secret, alone on one line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// The same, by the name of a credential that systemd hands to the guard's unit (`LoadCredential=`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd: Option<String>,
}

impl Credential {
    /// The header, if a credential may stand there.
    pub fn header_name(&self) -> Option<HeaderName> {
        let name = HeaderName::from_bytes(self.header.as_bytes()).ok()?;
        let text = name.as_str();
        let is_taken = TAKEN.contains(&text) || TAKEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
        // Servers that read headers as variables take `_` for `-`.
        (!is_taken && !text.contains('_')).then_some(name)
    }

    /// What stands before the secret.
    pub fn scheme(&self) -> Option<&str> {
        let is_authorization = self.header.eq_ignore_ascii_case(AUTHORIZATION.as_str());
        self.scheme.as_deref().or(is_authorization.then_some("Bearer"))
    }

    /// Whether `systemd` is the name of a file, and nothing that leads elsewhere.
    pub fn has_plain_name(&self) -> bool {
        self.systemd.as_deref().is_none_or(|name| {
            !name.is_empty()
                && name.len() <= 255
                && !name.starts_with('.')
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.@".contains(&b))
        })
    }
}

fn default_header() -> String {
    "Authorization".into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn credential(header: &str) -> Credential {
        Credential { header: header.into(), scheme: None, file: None, systemd: None }
    }

    #[test]
    fn a_credential_stands_in_no_header_that_means_something_else() {
        for header in ["Authorization", "X-API-Key", "Cookie", "x-client-id"] {
            assert!(credential(header).header_name().is_some(), "{header}");
        }
        for header in [
            "",
            "a b",
            "a:b",
            "Host",
            "CONTENT-LENGTH",
            "Accept-Encoding",
            "Mcp-Session-Id",
            "X_Api_Key",
            "TE",
        ] {
            assert_eq!(credential(header).header_name(), None, "{header}");
        }
    }

    #[test]
    fn bearer_stands_before_what_is_in_authorization_alone() {
        assert_eq!(credential("authorization").scheme(), Some("Bearer"));
        assert_eq!(credential("X-API-Key").scheme(), None);
        let basic = Credential { scheme: Some("Basic".into()), ..credential("Authorization") };
        assert_eq!(basic.scheme(), Some("Basic"));
    }
}
