//! The header of a token. It may say which of its issuer's keys to take, and nothing else that counts.

use super::TokenFault;
use crate::config::Algorithm;
use crate::rpc::Json;

/// Members that bring a key along, say where to get one, or change what is signed or how the claims are read.
const REFUSED: [&str; 9] = ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5u", "zip"];

/// Kinds of tokens that are meant to be shown (RFC 7519 5.1, RFC 9068 2.1). Others are signed with the same keys: what is for
/// one use must not pass for another.
const TYPES: [&str; 3] = ["jwt", "at+jwt", "application/at+jwt"];

/// What it says it is signed with, and the name of the key.
pub(super) fn read(header: &Json) -> Result<(Algorithm, Option<&str>), TokenFault> {
    if REFUSED.iter().any(|name| header.get(name).is_some()) {
        return Err(TokenFault::Malformed("its header has a member that changes how it is read or checked"));
    }
    let is_one = |typ: &Json| typ.as_str().is_some_and(|typ| TYPES.contains(&&*typ.to_ascii_lowercase()));
    if header.get("typ").is_some_and(|typ| !is_one(typ)) {
        return Err(TokenFault::Malformed("its `typ` is neither JWT nor at+jwt"));
    }
    let named = header.get("alg").and_then(Json::as_str);
    let algorithm = named.and_then(Algorithm::named).ok_or(TokenFault::Algorithm)?;
    let kid = match header.get("kid") {
        Some(kid) => Some(kid.as_str().ok_or(TokenFault::Malformed("its `kid` is no text"))?),
        None => None,
    };
    Ok((algorithm, kid))
}
