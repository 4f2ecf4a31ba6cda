//! Whether a stateless request's headers say what its body says.
//!
//! The policy looks at the body only. Where a header says something else, or is missing, the server must answer with
//! −32020 itself, so such a request goes on only if its body alone would be allowed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;

use super::message::META_VERSION;
use super::{Era, Json, Kind, Message, Target};

/// What [`Message::headers_agree`] found.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderAgreement {
    /// Headers and body say the same, or the message's era has no such headers.
    Agree,
    /// `header` is missing, unreadable, or differs from the body. Allow nothing on the strength of this request:
    /// forward it for the server to refuse if the body alone would be allowed, else deny.
    Disagree { header: &'static str },
}

impl Message {
    /// Compares `MCP-Protocol-Version`, `Mcp-Method` and `Mcp-Name` with the body, values byte for byte.
    pub fn headers_agree(&self, headers: &HeaderMap) -> HeaderAgreement {
        let is_request = matches!(self.kind(), Kind::Request { .. });
        if self.era() == Era::Legacy || matches!(self.kind(), Kind::Response { .. }) {
            return HeaderAgreement::Agree;
        }
        let version = self.meta(META_VERSION);
        // A notification need not repeat the version in its body.
        let version_agrees = match version.and_then(Json::as_str) {
            Some(version) => value(headers, "mcp-protocol-version").as_deref() == Some(version),
            None => version.is_none() && !is_request,
        };
        if !version_agrees {
            return HeaderAgreement::Disagree { header: "MCP-Protocol-Version" };
        }
        if value(headers, "mcp-method").as_deref() != Some(self.method()) {
            return HeaderAgreement::Disagree { header: "Mcp-Method" };
        }
        let name_agrees = match self.header_name() {
            HeaderName::Is(name) => value(headers, "mcp-name").as_deref() == Some(name),
            HeaderName::NotAsked => true,
            HeaderName::Missing => false,
        };
        if name_agrees { HeaderAgreement::Agree } else { HeaderAgreement::Disagree { header: "Mcp-Name" } }
    }

    /// What `Mcp-Name` has to say.
    fn header_name(&self) -> HeaderName<'_> {
        match (self.method(), self.target()) {
            (
                "tools/call" | "prompts/get" | "resources/read" | "tasks/get" | "tasks/update"
                | "tasks/cancel",
                target,
            ) => match target {
                Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) | Target::Task(name) => {
                    HeaderName::Is(name)
                }
                Target::ServerRequest(_) | Target::Method | Target::Unnamed => HeaderName::Missing,
            },
            _ => HeaderName::NotAsked,
        }
    }
}

enum HeaderName<'a> {
    Is(&'a str),
    Missing,
    NotAsked,
}

/// A header's meaning: trimmed, and decoded if it is written as `=?base64?...?=`. None if it cannot be read for sure.
pub(super) fn value(headers: &HeaderMap, name: &str) -> Option<String> {
    let text = headers.get(name)?.to_str().ok()?.trim_matches([' ', '\t']);
    match text.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok(),
        None => Some(text.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::rpc::decode;

    const VERSION: (&str, &str) = ("mcp-protocol-version", "2026-07-28");
    const CALL: (&str, &str) = ("mcp-method", "tools/call");

    fn agreement(pairs: &[(&'static str, &str)], body: &str) -> HeaderAgreement {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        for (name, value) in pairs {
            headers.append(*name, http::HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        decode(&headers, Bytes::copy_from_slice(body.as_bytes()), 64).unwrap().headers_agree(&headers)
    }

    fn call(name: &str) -> String {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}"#;
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":{name},{meta}}}}}"#)
    }

    #[test]
    fn a_legacy_message_needs_no_headers() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
        assert_eq!(agreement(&[], body), HeaderAgreement::Agree);
        assert_eq!(agreement(&[("mcp-protocol-version", "2025-11-25")], body), HeaderAgreement::Agree);
    }

    #[test]
    fn every_header_is_compared_with_the_body() {
        let disagree = |header| HeaderAgreement::Disagree { header };
        let body = call("\"a\"");
        let name = |value| [VERSION, CALL, ("mcp-name", value)];
        assert_eq!(agreement(&name("a"), &body), HeaderAgreement::Agree);
        assert_eq!(agreement(&name(" \ta "), &body), HeaderAgreement::Agree);
        assert_eq!(agreement(&name("=?base64?YQ==?="), &body), HeaderAgreement::Agree);
        for other in
            ["b", "A", "", "=?base64?YQ?=", "=?base64?YR==?=", "=?base64?Yg==?=", "=?BASE64?YQ==?=", "ä"]
        {
            assert_eq!(agreement(&name(other), &body), disagree("Mcp-Name"), "{other:?}");
        }
        assert_eq!(agreement(&[VERSION, CALL], &body), disagree("Mcp-Name"));
        assert_eq!(agreement(&[VERSION, ("mcp-method", "TOOLS/CALL")], &body), disagree("Mcp-Method"));
        assert_eq!(agreement(&[VERSION], &body), disagree("Mcp-Method"));
        assert_eq!(agreement(&[CALL], &body), disagree("MCP-Protocol-Version"));
        assert_eq!(
            agreement(&[("mcp-protocol-version", "2026-12-01"), CALL], &body),
            disagree("MCP-Protocol-Version")
        );
    }

    #[test]
    fn a_name_beyond_ascii_is_compared_decoded() {
        let name = ("mcp-name", "=?base64?w6Q=?=");
        assert_eq!(agreement(&[VERSION, CALL, name], &call("\"ä\"")), HeaderAgreement::Agree);
        // A body whose name looks like the coded form must itself be coded.
        let body = call("\"=?base64?w6Q=?=\"");
        assert_eq!(
            agreement(&[VERSION, CALL, name], &body),
            HeaderAgreement::Disagree { header: "Mcp-Name" }
        );
    }

    #[test]
    fn modern_headers_on_a_body_without_version_disagree() {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a"}}"#;
        let headers = [VERSION, CALL, ("mcp-name", "a")];
        assert_eq!(agreement(&headers, body), HeaderAgreement::Disagree { header: "MCP-Protocol-Version" });
        let unnamed = call("5");
        assert_eq!(agreement(&headers, &unnamed), HeaderAgreement::Disagree { header: "Mcp-Name" });
    }

    #[test]
    fn a_modern_notification_may_leave_the_version_out() {
        let body = r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#;
        let method = ("mcp-method", "notifications/cancelled");
        assert_eq!(agreement(&[VERSION, method], body), HeaderAgreement::Agree);
    }
}
