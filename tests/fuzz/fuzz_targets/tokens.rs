//! `Authorization` headers and signed tokens: what is taken says the same to a plain reader, and what is the guard's goes to no server.
#![no_main]

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use guard_fuzz::identity::{secret, secret_of, token};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const AUDIENCE: &str = "mcp-guard";
/// Members of a header that nobody may have.
const REFUSED: [&str; 9] = ["b64", "crit", "cty", "enc", "jku", "jwk", "x5c", "x5u", "zip"];

/// A header as it comes.
fn header(value: &[u8]) {
    let (ours, shown) = (secret_of(value), token::bearer(value));
    assert!(ours.is_none() || shown.is_none(), "it is one or the other");
    assert!(ours.is_none() || secret::is_guards(value), "a secret of the guard's that a server would get");
    if let Some(shown) = shown {
        assert!(value.ends_with(shown.as_bytes()));
        if token::is_for(shown, AUDIENCE) {
            assert!(token::is_for_any(value, &[AUDIENCE]), "a token for the guard that a server would get");
        }
        let _ = token::read(shown, AUDIENCE);
    }
}

fuzz_target!(|bytes: &[u8]| {
    header(bytes);
    // Header and claims with a line break between them: made-up bytes are never base64 of JSON.
    let mut parts = bytes.splitn(3, |byte| *byte == b'\n');
    let (Some(head), Some(claims)) = (parts.next(), parts.next()) else { return };
    let signature = parts.next().unwrap_or_default();
    let encode = |part: &[u8]| URL_SAFE_NO_PAD.encode(part);
    let text = format!("{}.{}.{}", encode(head), encode(claims), encode(signature));
    header(format!("Bearer {text}").as_bytes());
    let Ok(said) = token::read(&text, AUDIENCE) else { return };
    assert!(text.len() <= token::TOKEN_BYTES_MAX);
    let plain = |part| serde_json::from_slice::<Value>(part).expect("a plain reader takes it, too");
    let (head, claims) = (plain(head), plain(claims));
    assert!(REFUSED.iter().all(|name| head.get(name).is_none()), "{head}");
    assert_eq!(head["alg"], said.algorithm.as_str());
    assert_eq!(head.get("kid").and_then(Value::as_str), said.kid.as_deref());
    assert_eq!(claims["sub"], *said.subject);
    assert!(
        !said.subject.is_empty() && claims["exp"].as_i64() >= Some(0) && claims["nbf"].as_i64() >= Some(0)
    );
    assert_eq!(claims.get("email").and_then(Value::as_str), said.user.as_ref().map(|user| user.as_str()));
    let is_for_us = match &claims["aud"] {
        Value::String(one) => one == AUDIENCE,
        Value::Array(all) => all.iter().any(|one| one == AUDIENCE) && all.iter().all(Value::is_string),
        _ => false,
    };
    assert_eq!(is_for_us, said.is_for_us);
    let mut scopes: Vec<String> = match claims.get("scope").or(claims.get("scp")) {
        Some(Value::String(words)) => {
            words.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
        }
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    scopes.sort();
    scopes.dedup();
    assert_eq!(said.scopes.iter().map(ToString::to_string).collect::<Vec<_>>(), scopes);
});
