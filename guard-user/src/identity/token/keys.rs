//! The public keys of one issuer. A key is for one algorithm, whatever a token says.

use std::fmt;

use aws_lc_rs::rsa::PublicEncryptingKey;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents,
    VerificationAlgorithm,
};
use sha2::{Digest, Sha256};

use super::TokenFault;
use crate::config::Algorithm;

/// Below this, signatures can be made by others with enough computers (NIST SP 800-131A).
const RSA_BITS_MIN: usize = 2048;
/// Above this, checking one costs too much.
const RSA_BITS_MAX: usize = 8192;

/// Tells keys apart: SHA-256 over algorithm and key.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct KeyDigest([u8; 32]);

/// A key that can check tokens.
#[derive(Debug, Clone)]
pub(super) struct PublicKey {
    /// `None`: it is its issuer's only one.
    pub kid: Option<String>,
    pub algorithm: Algorithm,
    pub digest: KeyDigest,
    key: ParsedPublicKey,
}

/// Why there is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum KeyFault {
    #[error("it is no public key for {}", .0.as_str())]
    Unfit(Algorithm),
    #[error("an RSA key must be sound and have {RSA_BITS_MIN} to {RSA_BITS_MAX} bits")]
    Size,
}

impl PublicKey {
    /// Of the DER of a `SubjectPublicKeyInfo`, the bytes of an Ed25519 key, or an uncompressed point of P-256.
    pub(super) fn new(kid: Option<String>, algorithm: Algorithm, bytes: &[u8]) -> Result<Self, KeyFault> {
        let how: &'static dyn VerificationAlgorithm = match algorithm {
            Algorithm::EdDsa => &ED25519,
            Algorithm::Es256 => &ECDSA_P256_SHA256_FIXED,
            Algorithm::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
        };
        let key = ParsedPublicKey::new(how, bytes).map_err(|_rejected| KeyFault::Unfit(algorithm))?;
        Self::of(kid, algorithm, key)
    }

    /// Of modulus and exponent, each a number with its highest byte first.
    pub(super) fn rsa(kid: Option<String>, n: &[u8], e: &[u8]) -> Result<Self, KeyFault> {
        let algorithm = Algorithm::Rs256;
        let key = RsaPublicKeyComponents { n, e }.to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256);
        Self::of(kid, algorithm, key.map_err(|_rejected| KeyFault::Unfit(algorithm))?)
    }

    fn of(kid: Option<String>, algorithm: Algorithm, key: ParsedPublicKey) -> Result<Self, KeyFault> {
        if algorithm == Algorithm::Rs256 {
            let rsa = PublicEncryptingKey::from_der(key.as_ref()).map_err(|_rejected| KeyFault::Size)?;
            if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&rsa.key_size_bits()) {
                return Err(KeyFault::Size);
            }
        }
        let mut hash = Sha256::new();
        hash.update(algorithm.as_str());
        hash.update(key.as_ref());
        Ok(Self { kid, algorithm, digest: KeyDigest(hash.finalize().into()), key })
    }

    pub(super) fn verify(&self, signed: &[u8], signature: &[u8]) -> Result<(), TokenFault> {
        self.key.verify_sig(signed, signature).map_err(|_unspecified| TokenFault::Signature)
    }
}

/// All keys of an issuer that are of use. No two have one name, and several all have one.
#[derive(Debug)]
pub(super) struct Keys(Vec<PublicKey>);

impl Keys {
    /// What is wrong with the names of these, or the set of them.
    pub(super) fn new(keys: Vec<PublicKey>) -> Result<Self, String> {
        if keys.is_empty() {
            return Err("there is no key in it that a token of this issuer could be signed with".into());
        }
        for (index, key) in keys.iter().enumerate() {
            match &key.kid {
                None if keys.len() > 1 => {
                    return Err("several keys, and one has no `kid`: a token could not name it".into());
                }
                Some(kid) if keys.iter().take(index).any(|other| other.kid.as_ref() == Some(kid)) => {
                    return Err(format!("two keys have the kid {kid:?}: a token names one"));
                }
                _ => {}
            }
        }
        Ok(Self(keys))
    }

    /// The key that a token names; one that names none means the only one.
    pub(super) fn find(&self, kid: Option<&str>) -> Option<&PublicKey> {
        match (kid, self.0.as_slice()) {
            (None, [only]) => Some(only),
            (None, _) => None,
            (Some(kid), keys) => keys.iter().find(|key| key.kid.as_deref() == Some(kid)),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &PublicKey> {
        self.0.iter()
    }

    /// Those of them that are among `others`, too.
    pub(super) fn among(&self, others: &[PublicKey]) -> Option<Self> {
        let is_there = |key: &&PublicKey| others.iter().any(|other| other.digest == key.digest);
        let keys: Vec<_> = self.0.iter().filter(is_there).cloned().collect();
        (!keys.is_empty()).then_some(Self(keys))
    }

    pub(super) fn has(&self, digest: &KeyDigest) -> bool {
        self.0.iter().any(|key| key.digest == *digest)
    }
}

impl KeyDigest {
    pub(super) fn bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for KeyDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyDigest({})", hex::encode(self.0))
    }
}
