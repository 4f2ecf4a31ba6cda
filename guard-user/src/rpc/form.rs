//! What may be posted beside MCP: to the OAuth endpoints of a server.

use http::HeaderMap;

use super::{Fault, head, json};

/// A form cannot be read as JSON, and JSON is no message, whatever the server at that path would take for one.
pub fn check(headers: &HeaderMap, body: &[u8], depth_max: usize) -> Result<(), Fault> {
    if head::check_form(headers)? {
        let is_of_forms = |byte: &u8| byte.is_ascii_graphic() && !br#"{}[]"\<>"#.contains(byte);
        return if body.iter().all(is_of_forms) { Ok(()) } else { Err(Fault::NotAForm) };
    }
    let json = json::parse(body, depth_max)?;
    let has = |key| json.get(key).is_some() || json.has_lookalike(key);
    if json.as_object().is_none() || has("method") || has("jsonrpc") {
        return Err(Fault::MessageElsewhere);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use http::header::CONTENT_TYPE;

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
}
