//! The text of a token: three parts in base64url, of which two hold JSON. What two readers could read differently is refused.

use base64::Engine;
use base64::alphabet::URL_SAFE;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, URL_SAFE_NO_PAD};

use super::TokenFault;
use crate::rpc::Json;
use crate::rpc::json;

/// A whole token; limits on a request's head alone would let much be decoded for nobody.
pub const TOKEN_BYTES_MAX: usize = 8 * 1024;

/// Nesting of a token's JSON.
const DEPTH_MAX: usize = 16;

/// `{` in base64url, before whatever may follow it.
const BEGINNING: &str = "ey";

/// The parts as they came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Parts<'t> {
    pub whole: &'t str,
    pub header: &'t str,
    pub claims: &'t str,
    pub signature: &'t str,
    /// What the signature is of.
    pub signed: &'t str,
}

impl<'t> Parts<'t> {
    pub(super) fn of(whole: &'t str) -> Result<Self, TokenFault> {
        if whole.len() > TOKEN_BYTES_MAX {
            return Err(TokenFault::Malformed("it is too long"));
        }
        let three = whole.rsplit_once('.').and_then(|(signed, signature)| {
            let (header, claims) = signed.split_once('.')?;
            let is_plain = !claims.contains('.');
            is_plain.then_some(Self { whole, header, claims, signature, signed })
        });
        three.ok_or(TokenFault::Malformed("it has not three parts with dots between them"))
    }
}

/// What looks like a token in the value of an `Authorization` header, to be read or refused; `None`: something else.
pub(in super::super) fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let is_token = token.trim_start().starts_with(BEGINNING) && token.contains('.');
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
}

/// As any reader might take it.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Whether some part of `value` is claims with one of these audiences. Finds them in more spellings than any server reads.
pub(super) fn is_for_any(value: &[u8], audiences: &[&str]) -> bool {
    let is_of_part = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'=');
    value.split(|byte| !is_of_part(byte)).filter_map(|part| LENIENT.decode(part).ok()).any(|claims| {
        let named = serde_json::from_slice::<serde_json::Value>(&claims).unwrap_or_default();
        let is_one = |name: &serde_json::Value| name.as_str().is_some_and(|name| audiences.contains(&name));
        let aud = named.get("aud").unwrap_or(&serde_json::Value::Null);
        // A member that stands there twice is read as the last by one reader and as the first by another.
        let is_written =
            |audience: &&str| memchr::memmem::find(&claims, format!("\"{audience}\"").as_bytes()).is_some();
        is_one(aud)
            || aud.as_array().is_some_and(|all| all.iter().any(is_one))
            || audiences.iter().any(is_written)
    })
}

/// One spelling only: no padding, no white space, no bits left over.
pub(super) fn bytes(part: &str) -> Result<Vec<u8>, TokenFault> {
    URL_SAFE_NO_PAD.decode(part).map_err(|_decode| TokenFault::Malformed("a part of it is not base64url"))
}

/// A part that is a JSON object without any member twice.
pub(super) fn object(part: &str) -> Result<Json, TokenFault> {
    let read = json::parse(&bytes(part)?, DEPTH_MAX);
    let object = read.ok().filter(|json| json.as_object().is_some());
    object.ok_or(TokenFault::Malformed("a part of it is not a JSON object that everybody reads alike"))
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::{STANDARD, URL_SAFE};

    use super::*;

    #[test]
    fn a_token_for_the_guard_is_found_however_it_is_spelled() {
        let audiences = ["mcp-guard", "https://localhost:3001/mcp"];
        let token = |claims: &str| format!("eyJhbGciOiJFZERTQSJ9.{}.c2ln", URL_SAFE_NO_PAD.encode(claims));
        let plain = token(r#"{"aud":"mcp-guard"}"#);
        for value in [
            format!("Bearer {plain}"),
            format!("bearer\t{plain}"),
            format!("Token {plain}"),
            format!("Bearer  \"{plain}\""),
            plain,
            token(r#"{"aud":["x","https://localhost:3001/mcp"]}"#),
            token(r#"{"aud":"https:\/\/localhost:3001\/mcp"}"#),
            token(r#"{"aud":"mcp-guard","aud":"x"}"#),
            token(r#"{"aud":"x","aud":"mcp-guard"}"#),
            format!("eyJhbGciOiJFZERTQSJ9.{}.c2ln", URL_SAFE.encode(r#"{"aud": "mcp-guard" }"#)),
        ] {
            assert!(is_for_any(value.as_bytes(), &audiences), "{value}");
        }
        for value in
            ["", "Bearer opaque", "Basic bWNwLWd1YXJk", &token(r#"{"aud":"mcp-guard2"}"#), &token("{}")]
        {
            assert!(!is_for_any(value.as_bytes(), &audiences), "{value}");
        }
        let standard = STANDARD.encode(r#"{"aud":"mcp-guard","x":"???>>>"}"#);
        assert!(standard.contains(['+', '/']), "no server reads that as a token: {standard}");
    }
}
