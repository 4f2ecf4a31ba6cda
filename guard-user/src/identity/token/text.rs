//! The text of a token: three parts in base64url, of which two hold JSON. What two readers could read differently is refused.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

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
pub(in crate::identity) fn bearer(value: &[u8]) -> Option<&str> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let is_token = token.trim_start().starts_with(BEGINNING) && token.contains('.');
    (scheme.eq_ignore_ascii_case("bearer") && is_token).then_some(token)
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
