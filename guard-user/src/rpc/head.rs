//! Request headers that must be read the same way by everyone on the path.

use http::HeaderMap;
use http::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName};

use super::Fault;

/// Headers that may stand once. Every `mcp-*` header is one too.
const SINGLE: [&str; 10] = [
    "authorization",
    "content-encoding",
    "content-length",
    "content-type",
    "host",
    "last-event-id",
    "origin",
    "transfer-encoding",
    "x-client-id",
    "x-profile-id",
];

/// What a client may ask for one hop. Any other token names a header that the next hop would drop, and so a way to
/// make a server not see what we judged.
const CONNECTION_TOKENS: [&str; 5] = ["close", "keep-alive", "te", "upgrade", "http2-settings"];

fn is_single(name: &str) -> bool {
    name.starts_with("mcp-") || SINGLE.contains(&name)
}

/// For every request, whatever its method: nothing that matters stands twice or in disguise.
pub fn check(headers: &HeaderMap) -> Result<(), Fault> {
    for name in headers.keys() {
        let text = name.as_str();
        if headers.len() != headers.keys_len() && is_single(text) && is_repeated(headers, name) {
            return Err(Fault::RepeatedHeader(text.to_owned()));
        }
        // CGI-style servers read `Mcp_Name` as `Mcp-Name`.
        if text.contains('_') && is_single(&text.replace('_', "-")) {
            return Err(Fault::LookalikeHeader(text.to_owned()));
        }
    }
    for value in headers.get_all(CONNECTION) {
        let value = String::from_utf8_lossy(value.as_bytes());
        let tokens = value.split(',').map(|token| token.trim_matches([' ', '\t']));
        for token in tokens.filter(|token| !token.is_empty()) {
            if !CONNECTION_TOKENS.iter().any(|known| token.eq_ignore_ascii_case(known)) {
                return Err(Fault::ConnectionToken(token.to_owned()));
            }
        }
    }
    Ok(())
}

fn is_repeated(headers: &HeaderMap, name: &HeaderName) -> bool {
    headers.get_all(name).iter().nth(1).is_some()
}

/// For a request with a body: it says that it is JSON in UTF-8, as it stands.
pub(super) fn check_json(headers: &HeaderMap) -> Result<(), Fault> {
    check_encoding(headers)?;
    if is_kind(headers, "application/json") { Ok(()) } else { Err(Fault::ContentType) }
}

/// Whether the body is a form, as it stands; if not, it is JSON.
pub(super) fn check_form(headers: &HeaderMap) -> Result<bool, Fault> {
    if !is_kind(headers, "application/x-www-form-urlencoded") {
        return check_json(headers).map(|()| false);
    }
    check_encoding(headers).map(|()| true)
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Fault> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING)
        && !encoding.as_bytes().eq_ignore_ascii_case(b"identity")
    {
        return Err(Fault::ContentEncoding(String::from_utf8_lossy(encoding.as_bytes()).into_owned()));
    }
    Ok(())
}

fn is_kind(headers: &HeaderMap, wanted: &str) -> bool {
    let value = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let mut parts = value.unwrap_or_default().split(';').map(str::trim);
    parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case(wanted)) && parts.all(is_utf8_charset)
}

pub(super) fn is_utf8_charset(parameter: &str) -> bool {
    let parameter = parameter.trim();
    let Some((name, value)) = parameter.split_once('=') else { return parameter.is_empty() };
    let bare = value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value);
    name.eq_ignore_ascii_case("charset") && bare.eq_ignore_ascii_case("utf-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&str, &str)]) -> HeaderMap {
        list.iter()
            .map(|(name, value)| (HeaderName::try_from(*name).unwrap(), value.parse().unwrap()))
            .collect::<Vec<_>>()
            .into_iter()
            .fold(HeaderMap::new(), |mut map, (name, value): (_, http::HeaderValue)| {
                map.append(name, value);
                map
            })
    }

    #[test]
    fn a_header_that_matters_stands_once() {
        for name in
            ["Host", "Mcp-Name", "Mcp-Param-Region", "MCP-Protocol-Version", "X-Client-ID", "Authorization"]
        {
            let twice = headers(&[(name, "a"), ("accept", "x"), (name, "a")]);
            assert_eq!(check(&twice), Err(Fault::RepeatedHeader(name.to_ascii_lowercase())));
        }
        assert_eq!(check(&headers(&[("accept", "a"), ("accept", "b"), ("host", "h")])), Ok(()));
    }

    #[test]
    fn an_underscore_does_not_disguise_a_header() {
        assert!(matches!(check(&headers(&[("Mcp_Name", "a")])), Err(Fault::LookalikeHeader(_))));
        assert!(matches!(check(&headers(&[("x_client-id", "a")])), Err(Fault::LookalikeHeader(_))));
        assert_eq!(check(&headers(&[("x_trace", "a")])), Ok(()));
    }

    #[test]
    fn connection_cannot_name_a_header_to_drop() {
        assert_eq!(check(&headers(&[("connection", "keep-alive")])), Ok(()));
        assert_eq!(check(&headers(&[("connection", "Close, , TE")])), Ok(()));
        assert_eq!(
            check(&headers(&[("connection", "close, Mcp-Name")])),
            Err(Fault::ConnectionToken("Mcp-Name".to_owned()))
        );
    }

    #[test]
    fn a_body_is_plain_json_in_utf8() {
        for value in
            ["application/json", "Application/JSON; charset=UTF-8", "application/json;charset=\"utf-8\";"]
        {
            assert_eq!(check_json(&headers(&[("content-type", value)])), Ok(()), "{value}");
        }
        for value in [
            "text/plain",
            "application/json; charset=utf-16",
            "application/json; x=y",
            "application/jsonp",
            "",
        ] {
            assert_eq!(check_json(&headers(&[("content-type", value)])), Err(Fault::ContentType), "{value}");
        }
        assert_eq!(check_json(&headers(&[])), Err(Fault::ContentType));
        let json = ("content-type", "application/json");
        assert_eq!(check_json(&headers(&[json, ("content-encoding", "identity")])), Ok(()));
        for value in ["gzip", "bogus", "identity, gzip", ""] {
            let fault = check_json(&headers(&[json, ("content-encoding", value)]));
            assert_eq!(fault, Err(Fault::ContentEncoding(value.to_owned())));
        }
    }
}
