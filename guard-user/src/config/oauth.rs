//! Where a server that checks tokens itself says whom it wants them from, and what else of OAuth it may be asked.

use http::Method;

use super::Server;

/// Below these, clients look for its documents (RFC 9728, RFC 8414): here, or with the endpoint's path after them.
const DOCUMENTS: [&str; 3] =
    ["/.well-known/oauth-protected-resource", "/.well-known/oauth-authorization-server", OPENID];
const OPENID: &str = "/.well-known/openid-configuration";

impl Server {
    /// Whether a request is not for the MCP endpoint, but for such a document or for one of `oauth_paths`.
    pub fn is_asked_for_oauth(&self, method: &Method, path: &str) -> bool {
        let is_get = *method == Method::GET;
        let is_named = || self.oauth_paths.iter().any(|named| named == path);
        let is_below = |endpoint: &str| is_document(endpoint, path);
        self.forward_authorization
            && ((is_get && (is_below(&self.path) || self.sse_path.as_deref().is_some_and(is_below)))
                || ((is_get || *method == Method::POST) && is_named()))
    }
}

fn is_document(endpoint: &str, path: &str) -> bool {
    let is_below = |beginning: &&str| {
        path.strip_prefix(beginning).is_some_and(|rest| rest.is_empty() || rest == endpoint)
    };
    DOCUMENTS.iter().any(is_below) || path.strip_prefix(endpoint.trim_end_matches('/')) == Some(OPENID)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_found_at_the_root_and_beside_the_endpoint() {
        for (endpoint, path, is) in [
            ("/mcp", "/.well-known/oauth-protected-resource", true),
            ("/mcp", "/.well-known/oauth-protected-resource/mcp", true),
            ("/mcp", "/.well-known/oauth-authorization-server/mcp", true),
            ("/mcp", "/.well-known/openid-configuration/mcp", true),
            ("/mcp", "/mcp/.well-known/openid-configuration", true),
            ("/", "/.well-known/openid-configuration", true),
            ("/", "/.well-known/oauth-protected-resource/", true),
            ("/mcp", "/.well-known/oauth-protected-resource/other", false),
            ("/mcp", "/.well-known/oauth-protected-resource/mcp/", false),
            ("/mcp", "/.well-known/oauth-protected-resourcemcp", false),
            ("/mcp", "/.well-known/", false),
            ("/mcp", "/mcp/.well-known/oauth-protected-resource", false),
        ] {
            assert_eq!(is_document(endpoint, path), is, "{endpoint} {path}");
        }
    }
}
