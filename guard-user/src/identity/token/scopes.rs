//! What a token may be used for: `scope` (RFC 8693 4.2, RFC 9068 2.2.3), or `scp`.

use super::TokenFault;
use crate::config::Scope;
use crate::rpc::Json;

/// Names that one token may have.
const SCOPES_MAX: usize = 256;

const MALFORMED: TokenFault = TokenFault::Malformed("its `scope` or `scp` is no list of scopes");

/// Sorted, each once. No claim is no scope; two claims could say two things.
pub(super) fn read(claims: &Json) -> Result<Vec<Scope>, TokenFault> {
    let words: Vec<&str> = match (claims.get("scope"), claims.get("scp")) {
        (None, None) => return Ok(Vec::new()),
        (Some(_), Some(_)) => return Err(TokenFault::Malformed("it has both `scope` and `scp`")),
        (Some(Json::String(text)), None) | (None, Some(Json::String(text))) if text.is_empty() => {
            return Ok(Vec::new());
        }
        (Some(Json::String(text)), None) | (None, Some(Json::String(text))) => text.split(' ').collect(),
        (None, Some(Json::Array(list))) => {
            list.iter().map(|one| one.as_str().ok_or(MALFORMED)).collect::<Result<_, _>>()?
        }
        _ => return Err(MALFORMED),
    };
    if words.len() > SCOPES_MAX {
        return Err(MALFORMED);
    }
    let scopes: Result<Vec<Scope>, _> = words.into_iter().map(Scope::parse).collect();
    let mut scopes = scopes.map_err(|_none| MALFORMED)?;
    scopes.sort();
    scopes.dedup();
    Ok(scopes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::json;

    #[test]
    fn scopes_are_read_from_one_claim_in_one_spelling() {
        for (claims, expected) in [
            ("{}", Some("")),
            (r#"{"scope": ""}"#, Some("")),
            (r#"{"scope": "b a b"}"#, Some("a b")),
            (r#"{"scp": "a b"}"#, Some("a b")),
            (r#"{"scp": ["b", "a"]}"#, Some("a b")),
            (r#"{"scp": []}"#, Some("")),
            (r#"{"scope": "a", "scp": ["a"]}"#, None),
            (r#"{"scope": ["a"]}"#, None),
            (r#"{"scope": "a  b"}"#, None),
            (r#"{"scope": " a"}"#, None),
            (r#"{"scope": "a\tb"}"#, None),
            (r#"{"scope": "a\"b"}"#, None),
            (r#"{"scope": 1}"#, None),
            (r#"{"scope": null}"#, None),
            (r#"{"scp": ["a b"]}"#, None),
            (r#"{"scp": ["a", 1]}"#, None),
            (r#"{"scp": {"a": true}}"#, None),
        ] {
            let found = read(&json::parse(claims.as_bytes(), 8).unwrap()).ok();
            let found = found.map(|scopes| scopes.iter().map(Scope::as_str).collect::<Vec<_>>().join(" "));
            assert_eq!(found.as_deref(), expected, "{claims}");
        }
    }
}
