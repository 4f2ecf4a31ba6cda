//! An issuer of signed tokens, without a network: a key, what it publishes of it, and tokens to any taste.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::{KeyPair, PKCS_ED25519, SigningKey};
use serde_json::{Value, json};

/// The `iss` of every token.
pub const ISSUER: &str = "https://idp.example";
/// The `aud` of those that are for the guard.
pub const AUDIENCE: &str = "mcp-guard";

/// One Ed25519 key of an issuer.
#[derive(Debug)]
pub struct Idp {
    kid: &'static str,
    key: KeyPair,
}

impl Idp {
    pub fn new(kid: &'static str) -> anyhow::Result<Self> {
        Ok(Self { kid, key: KeyPair::generate_for(&PKCS_ED25519)? })
    }

    pub fn jwk(&self) -> Value {
        let x = URL_SAFE_NO_PAD.encode(self.key.public_key_raw());
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "alg": "EdDSA", "kid": self.kid, "x": x})
    }

    /// A token that is good for a while.
    pub fn token(&self, subject: &str) -> anyhow::Result<String> {
        self.sign(&claims(subject, 600))
    }

    pub fn sign(&self, claims: &Value) -> anyhow::Result<String> {
        let encode = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
        let header = json!({"alg": "EdDSA", "kid": self.kid, "typ": "at+jwt"});
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self.key.sign(signed.as_bytes())?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

/// Writes what an issuer with these keys publishes.
pub fn publish(file: &Path, keys: &[&Idp]) -> anyhow::Result<()> {
    let keys: Vec<_> = keys.iter().map(|idp| idp.jwk()).collect();
    Ok(fs::write(file, json!({"keys": keys}).to_string())?)
}

/// What a token says that is good for so many seconds from now on, or was until then.
pub fn claims(subject: &str, seconds: i64) -> Value {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let now = i64::try_from(since.as_secs()).unwrap_or_default();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": subject,
        "iat": now - 3600, "nbf": now - 3600, "exp": now + seconds, "jti": format!("{subject}-{now}-{seconds}"),
    })
}
