//! What the guard changes in the head of a request that goes on, and of an answer that comes back.

use http::Uri;
use http::header::{
    ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, FORWARDED, HOST, HeaderMap,
    HeaderName, HeaderValue, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING,
    UPGRADE,
};

use super::credential::Shown;
use crate::config::Server;
use crate::identity;

/// Fields that belong to one connection, not to the message (RFC 9110 7.6.1), beside those that `Connection` names.
const PER_CONNECTION: [HeaderName; 9] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The agent's credential for the guard; it ends here.
const CLIENT_ID: HeaderName = HeaderName::from_static("x-client-id");
const PROFILE_ID: HeaderName = HeaderName::from_static("x-profile-id");

/// What a server believes of a proxy that it trusts. To the server all calls come from the guard, on loopback, which
/// many trust unasked (uvicorn does): a client must not speak to it in the guard's name. The method
/// overrides and URLs at the end would make it answer another request than the one that was judged.
const PROXY_SAYS: [HeaderName; 13] = [
    FORWARDED,
    // What a proxy that ends TLS says of its client's certificate (RFC 9440).
    HeaderName::from_static("client-cert"),
    HeaderName::from_static("client-cert-chain"),
    HeaderName::from_static("x-client-ip"),
    HeaderName::from_static("x-forwarded"),
    HeaderName::from_static("x-forwarded-for"),
    HeaderName::from_static("x-real-ip"),
    HeaderName::from_static("true-client-ip"),
    HeaderName::from_static("x-http-method"),
    HeaderName::from_static("x-http-method-override"),
    HeaderName::from_static("x-method-override"),
    HeaderName::from_static("x-original-url"),
    HeaderName::from_static("x-rewrite-url"),
];
/// `X-Forwarded-Host`, `-Proto`, `-Port`, `-Prefix`, `-Client-Cert`, and what else proxies and frameworks made up, also for
/// clients' certificates.
const PROXY_SAYS_PREFIXES: [&str; 7] = [
    "x-forwarded-",
    "x-client-cert",
    "x-client-verify",
    "x-ssl-",
    "ssl-client-",
    "x-amzn-mtls-",
    "x-tls-client-",
];

/// What proxies that sign users in tell the server behind them of its user.
const USER_SAYS: [HeaderName; 8] = [
    HeaderName::from_static("remote-user"),
    HeaderName::from_static("x-remote-user"),
    HeaderName::from_static("x-remote-group"),
    HeaderName::from_static("x-remote-groups"),
    HeaderName::from_static("remote-groups"),
    HeaderName::from_static("remote-name"),
    HeaderName::from_static("remote-email"),
    HeaderName::from_static("x-arr-clientcert"),
];
const USER_SAYS_PREFIXES: [&str; 13] = [
    "x-auth-request-",
    "x-authenticated-",
    "x-authentik-",
    "x-goog-authenticated-",
    "x-goog-iap-",
    "x-ms-client-principal",
    "x-ms-token-aad-",
    "x-amzn-oidc-",
    "x-remote-extra-",
    "x-webauth-",
    "cf-access-",
    "cf-client-cert-",
    "tailscale-user-",
];

/// The head that the server sees: the client's, less what was meant for this connection or for the guard, and with what the guard
/// itself shows to the server.
pub(super) fn to_server(client: &HeaderMap, uri: &Uri, server: &Server, shown: Option<Shown>) -> HeaderMap {
    let mut head = end_to_end(client);
    head.remove(CLIENT_ID);
    head.remove(PROFILE_ID);
    head.remove(EXPECT);
    let said: Vec<HeaderName> = head.keys().filter(|name| is_of_proxies(name.as_str())).cloned().collect();
    for name in said {
        head.remove(name);
    }
    // A server must never hold what lets it speak as the agent, whatever its entry says.
    let is_guards = head.get_all(AUTHORIZATION).iter().any(|value| identity::is_guards(value.as_bytes()));
    if !server.forward_authorization || is_guards {
        head.remove(AUTHORIZATION);
    }
    // HTTP/2 clients say in `:authority` what HTTP/1.1 says in `Host`.
    if !head.contains_key(HOST)
        && let Some(authority) = uri.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        head.insert(HOST, host);
    }
    // The guard reads every message of the answer, so it must come as it is.
    head.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    if let Some(Shown { name, value }) = shown {
        remove_all_spellings(&mut head, &name);
        head.insert(name, value);
    }
    head
}

/// CGI-style servers read `X_Api_Key` as `X-Api-Key`.
fn remove_all_spellings(head: &mut HeaderMap, name: &HeaderName) {
    let is_it = |other: &&HeaderName| other.as_str().replace('_', "-") == name.as_str();
    let spellings: Vec<HeaderName> = head.keys().filter(is_it).cloned().collect();
    for spelling in spellings {
        head.remove(spelling);
    }
}

/// In whatever spelling.
fn is_of_proxies(name: &str) -> bool {
    let name = name.replace('_', "-");
    PROXY_SAYS_PREFIXES.iter().chain(&USER_SAYS_PREFIXES).any(|prefix| name.starts_with(prefix))
        || PROXY_SAYS.iter().chain(&USER_SAYS).any(|said| said.as_str() == name)
}

/// `head` without the fields that concern one connection only. The length is dropped with them: whoever sends the
/// message next measures it anew.
pub fn end_to_end(head: &HeaderMap) -> HeaderMap {
    let mut kept = head.clone();
    for named in head.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok()) {
        for name in named.split(',').filter_map(|name| HeaderName::try_from(name.trim()).ok()) {
            kept.remove(name);
        }
    }
    for name in PER_CONNECTION {
        kept.remove(name);
    }
    kept.remove(CONTENT_LENGTH);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::ServerName;

    fn server(forward_authorization: bool) -> Server {
        Server {
            name: ServerName::parse("crm").unwrap(),
            port: 3001.try_into().unwrap(),
            place: crate::config::Place::Host,
            path: "/mcp".into(),
            sse_path: None,
            batches: crate::config::Batches::default(),
            plaintext: crate::config::Plaintext::Refuse,
            forward_authorization,
            oauth_paths: Vec::new(),
            authorize: None,
            credential: None,
            egress: None,
            other_ports: crate::config::OtherPorts::default(),
            tools: crate::config::ToolRules::default(),
        }
    }

    fn head(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn the_guards_own_credential_ends_at_the_guard() {
        let client = head(&[
            ("x-client-id", "a"),
            ("x-profile-id", "b"),
            ("authorization", "Bearer c"),
            ("host", "h"),
        ]);
        let uri = Uri::from_static("/mcp");
        let sent = to_server(&client, &uri, &server(false), None);
        assert_eq!(sent, head(&[("host", "h"), ("accept-encoding", "identity")]));
        assert_eq!(to_server(&client, &uri, &server(true), None)["authorization"], "Bearer c");
        for guards in ["Bearer mcpg_x", "bearer  MCPG_x", "mcpg_x", "Token token=\"mcpg_x\"", "Bearer=mcpg_x"]
        {
            let client = head(&[("authorization", guards), ("host", "h")]);
            assert!(!to_server(&client, &uri, &server(true), None).contains_key("authorization"), "{guards}");
        }
    }

    #[test]
    fn fields_of_one_connection_do_not_go_on() {
        let client = head(&[
            ("connection", "keep-alive, X-Hop"),
            ("x-hop", "1"),
            ("keep-alive", "5"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("content-length", "7"),
            ("mcp-session-id", "s"),
        ]);
        assert_eq!(end_to_end(&client), head(&[("mcp-session-id", "s")]));
    }

    #[test]
    fn what_a_proxy_would_say_of_a_certificate_ends_at_the_guard() {
        let kept = head(&[("x-client-kind", "a"), ("client-certainty", "a"), ("x-sslx", "b"), ("host", "h")]);
        let mut client = kept.clone();
        client.extend(head(&[
            ("x-forwarded-client-cert", "By=spiffe://corp.example/x"),
            ("client-cert", ":MIIB:"),
            ("client-cert-chain", ":MIIB:"),
            ("x-client-cert", "a"),
            ("x-client-certificate", "a"),
            ("x-ssl-client-cert", "a"),
            ("x-ssl-client-s-dn", "CN=billing"),
            ("x-ssl-client-verify", "SUCCESS"),
            ("x_ssl_client_verify", "SUCCESS"),
            ("x_forwarded_for", "127.0.0.1"),
            ("ssl-client-cert", "a"),
            ("x-amzn-mtls-clientcert", "a"),
            ("x-tls-client-subject", "a"),
            ("x-client-verify", "SUCCESS"),
        ]));
        let mut sent = to_server(&client, &Uri::from_static("/mcp"), &server(false), None);
        sent.remove(ACCEPT_ENCODING);
        assert_eq!(sent, kept);
    }

    #[test]
    fn what_tells_a_server_who_its_user_is_ends_at_the_guard() {
        let kept =
            head(&[("remote-username", "a"), ("x-auth-requests", "a"), ("x-user", "a"), ("host", "h")]);
        let mut client = kept.clone();
        for name in [
            "remote-user",
            "remote_user",
            "remote-groups",
            "x-remote-user",
            "x-remote-group",
            "x-remote-extra-scopes",
            "x-auth-request-user",
            "x-auth-request-access-token",
            "x-authenticated-user",
            "x-authenticated-userid",
            "x-authentik-username",
            "x-webauth-user",
            "x-webauth-role",
            "x-ms-client-principal",
            "x-ms-client-principal-id",
            "x-ms-token-aad-access-token",
            "x-goog-authenticated-user-email",
            "x-goog-iap-jwt-assertion",
            "x-amzn-oidc-identity",
            "x-amzn-oidc-data",
            "cf-access-authenticated-user-email",
            "cf-access-jwt-assertion",
            "cf-client-cert-sha256",
            "tailscale-user-login",
            "x-arr-clientcert",
        ] {
            client.insert(HeaderName::from_static(name), HeaderValue::from_static("root"));
        }
        let mut sent = to_server(&client, &Uri::from_static("/mcp"), &server(false), None);
        sent.remove(ACCEPT_ENCODING);
        assert_eq!(sent, kept);
    }

    #[test]
    fn what_only_a_trusted_proxy_may_say_ends_at_the_guard() {
        let client = head(&[
            ("forwarded", "for=10.0.0.1"),
            ("x-forwarded-for", "10.0.0.1"),
            ("x-forwarded-host", "a"),
            ("x-forwarded-proto", "https"),
            ("x-real-ip", "10.0.0.1"),
            ("x-http-method-override", "DELETE"),
            ("x-original-url", "/admin"),
            ("x-rewrite-url", "/admin"),
            ("host", "h"),
        ]);
        let sent = to_server(&client, &Uri::from_static("/mcp"), &server(false), None);
        assert_eq!(sent, head(&[("host", "h"), ("accept-encoding", "identity")]));
    }

    #[test]
    fn the_guards_credential_takes_the_place_of_all_that_a_client_sends_by_its_name() {
        let client = head(&[("x-api-key", "a"), ("x_api_key", "b"), ("x-api_key", "c"), ("host", "h")]);
        let mut client = client;
        client.append("x-api-key", HeaderValue::from_static("d"));
        let shown =
            Shown { name: HeaderName::from_static("x-api-key"), value: HeaderValue::from_static("guard") };
        let sent = to_server(&client, &Uri::from_static("/mcp"), &server(false), Some(shown));
        assert_eq!(sent, head(&[("host", "h"), ("accept-encoding", "identity"), ("x-api-key", "guard")]));
    }

    #[test]
    fn the_authority_of_http2_becomes_the_host() {
        let uri = Uri::from_static("https://crm.internal:3001/mcp");
        assert_eq!(to_server(&HeaderMap::new(), &uri, &server(false), None)["host"], "crm.internal:3001");
    }
}
