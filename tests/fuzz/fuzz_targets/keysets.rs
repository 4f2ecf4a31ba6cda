//! Key sets of issuers: each key of one that is taken is public and for signatures, and none is left out of what is withdrawn by.
#![no_main]

use guard_fuzz::identity::token::{self, JWKS_KEYS_MAX};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// With these, whoever reads the set can make tokens.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

fuzz_target!(|bytes: &[u8]| {
    let named = token::named(bytes);
    let (keys, notes) = match token::keys(bytes) {
        Ok(read) => read,
        Err(why) => {
            assert!(!why.is_empty());
            return;
        }
    };
    // What is taken whole names no more and no less.
    assert_eq!(named.as_ref(), Some(&keys));
    let plain: Value = serde_json::from_slice(bytes).expect("a plain reader takes it, too");
    let listed = plain["keys"].as_array().expect("it is a set");
    assert!(listed.len() <= JWKS_KEYS_MAX);
    assert_eq!(listed.len(), keys.len() + notes.len());
    assert!(listed.iter().all(|key| PRIVATE.iter().all(|name| key.get(name).is_none())), "a private key");
    for (kid, algorithm, _) in &keys {
        let is_it = |key: &&Value| {
            key.get("kid").and_then(Value::as_str) == kid.as_deref()
                && key.get("alg").is_none_or(|alg| alg == algorithm.as_str())
                && key.get("use").is_none_or(|used| used == "sig")
        };
        assert!(listed.iter().any(|key| is_it(&key)), "{kid:?} stands nowhere");
    }
});
