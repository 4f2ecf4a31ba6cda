//! What may be posted beside MCP: to the OAuth endpoints of a server.

use http::HeaderMap;
use http::header::CONTENT_TYPE;

use super::{Fault, Json, head, json};

/// What only messages of JSON-RPC have at their top, of what OAuth could have there.
const OF_MESSAGES: [&str; 4] = ["jsonrpc", "method", "params", "result"];

/// A form cannot be read as JSON, and neither it nor JSON has what makes a message, whatever the server at that path would
/// take for one.
pub fn check(headers: &HeaderMap, body: &[u8], depth_max: usize) -> Result<(), Fault> {
    if head::check_form(headers)? {
        let is_of_forms = |byte: &u8| byte.is_ascii_graphic() && !br#"{}[]"\<>"#.contains(byte);
        return if body.iter().all(is_of_forms) { check_query(body) } else { Err(Fault::NotAForm) };
    }
    let json = json::parse(body, depth_max)?;
    if json.as_object().is_none() || is_like_a_message(&json) {
        return Err(Fault::MessageElsewhere);
    }
    Ok(())
}

/// The same for the fields of a form or a query: some servers make an object of them (`params[name]=…`).
pub fn check_query(query: &[u8]) -> Result<(), Fault> {
    let fields = query.split(|byte| matches!(byte, b'&' | b';'));
    for field in fields {
        let key = field.split(|byte| *byte == b'=').next().unwrap_or_default();
        let key = percent_decode(key);
        let root = key.split(|c: char| !c.is_ascii_alphanumeric()).find(|part| !part.is_empty());
        if OF_MESSAGES.iter().any(|name| root.is_some_and(|root| root.eq_ignore_ascii_case(name))) {
            return Err(Fault::MessageElsewhere);
        }
    }
    Ok(())
}

/// An answer beside MCP, in which no client could find a message: JSON that everybody reads alike, or no JSON.
pub fn is_no_message(headers: &HeaderMap, body: &[u8], depth_max: usize) -> bool {
    let mut kinds = headers.get_all(CONTENT_TYPE).iter();
    let (kind, another) = (kinds.next(), kinds.next());
    let kind =
        kind.map(|kind| String::from_utf8_lossy(kind.as_bytes()).to_ascii_lowercase()).unwrap_or_default();
    if another.is_some()
        || kind.contains("event-stream")
        || !kind.split(';').skip(1).all(head::is_utf8_charset)
    {
        return false;
    }
    let first = body.iter().find(|byte| !byte.is_ascii_whitespace());
    let is_marked = body.starts_with(&[0xef, 0xbb, 0xbf]) || body.contains(&0);
    if !is_marked && !kind.contains("json") && !matches!(first, Some(b'{' | b'[')) {
        return true;
    }
    body.is_empty()
        || json::parse(body, depth_max)
            .is_ok_and(|json| json.as_object().is_some() && !is_like_a_message(&json))
}

fn is_like_a_message(json: &Json) -> bool {
    OF_MESSAGES.iter().any(|name| json.get(name).is_some() || json.has_lookalike(name))
}

/// Bytes that are no text become what no key has.
fn percent_decode(text: &[u8]) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text;
    while let [first, after @ ..] = rest {
        let byte = match (first, after) {
            (b'%', [high, low, ..]) => hex_pair(*high, *low),
            _ => None,
        };
        decoded.push(byte.unwrap_or(*first));
        rest = if byte.is_some() { after.get(2..).unwrap_or_default() } else { after };
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_pair(high: u8, low: u8) -> Option<u8> {
    let digit = |byte| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_could_be_a_message_is_refused() {
        let sent =
            |kind: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]);
        let (form, json) = (sent("application/x-www-form-urlencoded"), sent("application/json"));
        assert_eq!(check(&form, b"grant_type=authorization_code&code=a%7Bb", 9), Ok(()));
        assert_eq!(
            check(&json, br#"{"client_name": "a", "redirect_uris": ["http://localhost/"]}"#, 9),
            Ok(())
        );
        for body in [r#"{"method":"ping"}"#, "[1]", r#""text""#, "a=1 b", "a=\u{e9}", "a=1\n"] {
            assert_eq!(check(&form, body.as_bytes(), 9), Err(Fault::NotAForm), "{body}");
        }
        for body in [
            r#"{"method":"ping"}"#,
            r#"{"Method":"ping"}"#,
            r#"{"jsonrpc":"2.0"}"#,
            "[]",
            "1",
            r#"{"m\u0065thod":"ping"}"#,
        ] {
            assert_eq!(check(&json, body.as_bytes(), 9), Err(Fault::MessageElsewhere), "{body}");
        }
        for kind in
            ["text/plain", "application/x-www-form-urlencoded; charset=utf-16", "application/json-rpc"]
        {
            assert_eq!(check(&sent(kind), b"a=1", 9), Err(Fault::ContentType), "{kind}");
        }
        assert_eq!(check(&HeaderMap::new(), b"a=1", 9), Err(Fault::ContentType));
    }

    #[test]
    fn a_query_or_form_holds_no_message_however_it_is_written() {
        for query in [
            "method=tools%2Fcall",
            "a=1&Method=x",
            "a=1;jsonrpc=2.0",
            "%6dethod=x",
            "params%5Bname%5D=delete",
            "params[name]=delete",
            "[params][name]=delete",
            "params.name=delete",
            "result",
            "%20method=x",
        ] {
            assert_eq!(check_query(query.as_bytes()), Err(Fault::MessageElsewhere), "{query}");
        }
        for query in [
            "",
            "client_id=a&code_challenge_method=S256&state=method",
            "%",
            "%4=%zz",
            "resource=a%26method%3Db",
        ] {
            assert_eq!(check_query(query.as_bytes()), Ok(()), "{query}");
        }
    }

    #[test]
    fn an_answer_beside_mcp_holds_nothing_that_a_client_could_take_for_a_message() {
        let is_no = |kind: &'static str, body: &[u8]| {
            is_no_message(&HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(kind))]), body, 9)
        };
        let json = "application/json";
        for (kind, body) in [
            (json, r#"{"resource": "x", "authorization_servers": []}"#),
            ("application/jwk-set+json; charset=utf-8", r#"{"keys": []}"#),
            (json, r#"{"error": "invalid_grant"}"#),
            (json, ""),
            ("text/html; charset=utf-8", "<html>"),
            ("text/plain", "Not found"),
        ] {
            assert!(is_no(kind, body.as_bytes()), "{kind} {body}");
        }
        for (kind, body) in [
            (json, r#"[{"a": 1}]"#),
            (json, r#"{"result": {"tools": []}}"#),
            ("text/plain", r#" {"Result": {"tools": []}}"#),
            (json, r#"{"a": 1, "a": 2}"#),
            ("text/html", "[1]"),
            (json, "{\"a\": "),
            (json, "\u{feff}{}"),
            (json, "{\u{0}\"\u{0}"),
            ("text/plain", "\u{feff}x"),
            ("application/json; charset=utf-16", "{}"),
            ("text/event-stream", "data: 1"),
        ] {
            assert!(!is_no(kind, body.as_bytes()), "{kind} {body}");
        }
    }
}
