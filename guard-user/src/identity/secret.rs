//! The secret part of a credential.

use std::fmt;

use aws_lc_rs::rand;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

/// What every secret begins with, so that scanners of repositories and logs find it.
const PREFIX: &str = "mcpg_";
/// 256 bits.
const RANDOM_BYTES: usize = 32;

/// `mcpg_` and 32 random bytes in base64url. Wiped when dropped, never printed by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

/// Why there is no secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    #[error("a token is {PREFIX} and 43 characters of base64url")]
    Malformed,
    #[error("the system has no random bytes to give")]
    NoRandomness,
}

impl Secret {
    /// A new one from the system's random source.
    pub fn random() -> Result<Self, SecretError> {
        let mut bytes = Zeroizing::new([0_u8; RANDOM_BYTES]);
        rand::fill(bytes.as_mut_slice()).map_err(|_unspecified| SecretError::NoRandomness)?;
        let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(bytes.as_slice()));
        Ok(Self(Zeroizing::new(format!("{PREFIX}{}", encoded.as_str()))))
    }

    /// Exactly the form that [`Self::random`] makes.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError::Malformed)?;
        let decoded = URL_SAFE_NO_PAD.decode(encoded).map(Zeroizing::new);
        match decoded {
            Ok(bytes) if bytes.len() == RANDOM_BYTES => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(SecretError::Malformed),
        }
    }

    /// What is stored instead of the secret. One round of SHA-256 is enough: slow hashes protect passwords that
    /// people choose, and nobody can try 2^256 values at any speed.
    pub(super) fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0.as_bytes()).into()
    }

    /// For showing it once, to the one who asked for it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

/// The guard's secret in the value of an `Authorization` header; `None` if it holds none.
pub(super) fn bearer(value: &[u8]) -> Option<Result<Secret, SecretError>> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    let is_ours = scheme.eq_ignore_ascii_case("bearer") && token.trim_start().starts_with(PREFIX);
    is_ours.then(|| Secret::parse(token))
}

/// Whether the value of an `Authorization` header is for the guard, however broken, and nobody else's business.
pub fn is_guards(value: &[u8]) -> bool {
    let is_of_token = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
    let mut parts = value.split(|byte| !is_of_token(*byte));
    parts.any(|part| {
        part.get(..PREFIX.len()).is_some_and(|start| start.eq_ignore_ascii_case(PREFIX.as_bytes()))
    })
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(...)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_has_one_form_and_is_not_printed() {
        let secret = Secret::random().unwrap();
        let text = secret.reveal().to_owned();
        assert_eq!(text.len(), PREFIX.len() + 43);
        assert_eq!(Secret::parse(&text), Ok(secret.clone()));
        assert_ne!(Secret::random().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "Secret(...)");
        let body = &text[PREFIX.len()..];
        for bad in [
            body.to_owned(),
            format!("MCPG_{body}"),
            format!("{text} "),
            format!("{text}="),
            text[..text.len() - 1].to_owned(),
            format!("{text}A"),
            "mcpg_".to_owned(),
            // 43 characters hold 258 bits; the last two must be 0, else one secret had four spellings.
            format!("mcpg_{}B", "A".repeat(42)),
        ] {
            assert_eq!(Secret::parse(&bad), Err(SecretError::Malformed), "{bad:?}");
        }
    }
}
