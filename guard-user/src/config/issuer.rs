//! Whose signed tokens (JWT) tell who an agent is: `issuers` of `guard.yaml`.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::JwksUrl;
use crate::types::IssuerName;

/// Longest difference between the issuer's clock and this host's that an entry may allow for.
pub const LEEWAY_SECONDS_MAX: u32 = 60;

/// One issuer of tokens.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Issuer {
    /// What policies call it.
    pub name: IssuerName,
    /// The `iss` of its tokens, byte for byte.
    pub issuer: String,
    /// What the `aud` of a token must be or have: this guard, as the issuer knows it.
    pub audience: String,
    /// The keys that it signs with.
    pub keys: KeySource,
    /// What it signs with; keys for anything else are passed over.
    #[serde(default = "every_algorithm")]
    pub algorithms: Vec<Algorithm>,
    /// By how much its clock and this host's may differ.
    #[serde(default = "default_leeway")]
    pub leeway_seconds: u32,
    /// The claim that names the user for whom its agents work, such as `email`; none: nobody is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_claim: Option<String>,
    /// Whether each of its tokens must have that claim.
    #[serde(default, skip_serializing_if = "is_optional")]
    pub user: UserDemand,
    /// The claim that names the profile of the caller, which each of its tokens then has; none: the caller chooses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile_claim: Option<String>,
}

/// Whether a token without a user is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UserDemand {
    /// It is, as the agent's own.
    #[default]
    Optional,
    Required,
}

/// Where an issuer's public keys are. Files are read at the start and at a reload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeySource {
    /// A JSON Web Key Set (RFC 7517).
    JwksFile(PathBuf),
    /// The same, at the issuer: it is asked for them again and again.
    JwksUrl(JwksUrl),
    /// A file for each key.
    PemFiles(Vec<PemKey>),
}

/// One public key in a file of its own.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PemKey {
    /// What tokens call it.
    pub kid: String,
    pub algorithm: Algorithm,
    /// `-----BEGIN PUBLIC KEY-----`
    pub file: PathBuf,
}

/// How a token is signed. No other way is known to the guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Algorithm {
    /// Ed25519
    #[serde(rename = "EdDSA")]
    EdDsa,
    /// ECDSA with P-256 and SHA-256
    #[serde(rename = "ES256")]
    Es256,
    /// RSA PKCS#1 v1.5 with SHA-256
    #[serde(rename = "RS256")]
    Rs256,
}

impl Algorithm {
    pub const ALL: [Self; 3] = [Self::EdDsa, Self::Es256, Self::Rs256];

    /// As tokens and keys name it (RFC 7518, RFC 8037); case counts.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::EdDsa => "EdDSA",
            Self::Es256 => "ES256",
            Self::Rs256 => "RS256",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.as_str() == name)
    }
}

impl Issuer {
    /// The files with its keys.
    pub(super) fn files(&mut self) -> Vec<&mut PathBuf> {
        match &mut self.keys {
            KeySource::JwksFile(file) => vec![file],
            KeySource::JwksUrl(jwks) => jwks.ca_file.iter_mut().collect(),
            KeySource::PemFiles(keys) => keys.iter_mut().map(|key| &mut key.file).collect(),
        }
    }
}

fn every_algorithm() -> Vec<Algorithm> {
    Algorithm::ALL.to_vec()
}

fn default_leeway() -> u32 {
    30
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's derive passes fields by reference")]
fn is_optional(user: &UserDemand) -> bool {
    *user == UserDemand::Optional
}
