//! The credentials that were issued, found by what was presented.

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::Caller;
use super::secret::Secret;
use crate::config::yaml;
use crate::config::{Problem, Problems};
use crate::types::{AgentName, ClientId, ProfileName};

/// Names a credential in records and commands, or a token or certificate in records; it is no secret.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialId(Arc<str>);

impl CredentialId {
    pub(super) fn new(random: [u8; 6]) -> Self {
        Self(format!("c-{}", hex::encode(random)).into())
    }

    /// The beginning of its SHA-256.
    pub(super) fn of_token(token: &str) -> Self {
        let digest = hex::encode(Sha256::digest(token));
        Self(format!("t-{}", digest.get(..12).unwrap_or(&digest)).into())
    }

    /// The beginning of its SHA-256, in hex.
    pub(super) fn of_certificate(fingerprint: &str) -> Self {
        Self(format!("x-{}", fingerprint.get(..12).unwrap_or(fingerprint)).into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for CredentialId {
    type Error = &'static str;
    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_id = text.strip_prefix("c-").is_some_and(|hex| {
            hex.len() == 12 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        });
        if is_id { Ok(Self(text.into())) } else { Err("a credential's id is c- and 12 hex digits") }
    }
}

impl From<CredentialId> for String {
    fn from(id: CredentialId) -> Self {
        id.0.as_ref().to_owned()
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// What is kept of an issued credential.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Credential {
    pub(super) id: CredentialId,
    pub(super) agent: AgentName,
    #[serde(rename = "client_id")]
    pub(super) client: ClientId,
    pub(super) profile: ProfileName,
    /// SHA-256 of the secret, in hex.
    #[serde(with = "digest")]
    pub(super) sha256: [u8; 32],
    /// When, in UTC.
    pub(super) issued: String,
    /// From when on it is worthless; `None`: until it is revoked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) expires: Option<Timestamp>,
}

impl Credential {
    pub fn id(&self) -> &CredentialId {
        &self.id
    }

    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    pub fn client(&self) -> &ClientId {
        &self.client
    }

    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    /// RFC 3339, UTC.
    pub fn issued(&self) -> &str {
        &self.issued
    }

    pub fn expires(&self) -> Option<Timestamp> {
        self.expires
    }

    /// For how long it was made; `None`: until it is revoked.
    pub(super) fn lifetime(&self) -> Option<SignedDuration> {
        let issued: Timestamp = self.issued.parse().ok()?;
        Some(self.expires?.duration_since(issued))
    }

    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }
}

/// All credentials of one guard, unchanging once loaded.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    by_digest: HashMap<[u8; 32], Credential>,
    digests: HashMap<CredentialId, [u8; 32]>,
    /// Of the file, in hex; `None`: there is none.
    digest: Option<String>,
}

/// `credentials.yaml`
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct CredentialFile {
    pub credentials: Vec<Credential>,
}

impl Credentials {
    /// The credential of `secret`, in time that does not grow with their number.
    ///
    /// The map is asked for the digest, not the secret: how long that takes says something about the digests of
    /// unknown secrets at most, and from a digest no secret follows. The final comparison takes constant time.
    pub(super) fn find(&self, secret: &Secret) -> Option<&Credential> {
        let digest = secret.digest();
        let credential = self.by_digest.get(&digest)?;
        verify_slices_are_equal(&credential.sha256, &digest).is_ok().then_some(credential)
    }

    /// Whether the credential `id` that `caller` showed is still there, and still that agent's.
    pub fn have(&self, id: &CredentialId, caller: &Caller) -> bool {
        let digest = self.digests.get(id);
        digest.and_then(|digest| self.by_digest.get(digest)).is_some_and(|known| {
            known.agent == *caller.agent()
                && known.client == *caller.client()
                && known.profile == *caller.profile()
        })
    }

    /// From when on the credential `id` is worthless, as the file has it.
    pub fn expires(&self, id: &CredentialId) -> Option<Timestamp> {
        self.by_digest.get(self.digests.get(id)?)?.expires
    }

    /// SHA-256 of the file, in hex; `None`: there is none.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Sorted by agent, then by time.
    pub fn list(&self) -> Vec<&Credential> {
        let mut all: Vec<_> = self.by_digest.values().collect();
        all.sort_by(|a, b| (&a.agent, &a.issued, &a.id).cmp(&(&b.agent, &b.issued, &b.id)));
        all
    }

    pub fn len(&self) -> usize {
        self.by_digest.len()
    }

    pub fn is_empty(&self) -> bool {
        self.by_digest.is_empty()
    }

    /// Reads the text of `credentials.yaml`.
    pub fn from_text(file: &Path, text: &str) -> Result<Self, Problems> {
        let read: CredentialFile = yaml::read(file, text)?;
        let mut problems = Problems::default();
        let mut digests = HashMap::new();
        let mut by_digest = HashMap::new();
        for credential in read.credentials {
            if digests.insert(credential.id.clone(), credential.sha256).is_some() {
                problems.push(Problem::of_file(file, format!("the id {} is there twice", credential.id)));
            }
            let id = credential.id.clone();
            if let Some(other) = by_digest.insert(credential.sha256, credential) {
                problems.push(Problem::of_file(file, format!("{} and {id} have the same secret", other.id)));
            }
        }
        problems.or(Self { by_digest, digests, digest: Some(hex::encode(Sha256::digest(text))) })
    }
}

mod digest {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(digest: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(digest))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest)
            .map_err(|_hex| D::Error::custom("sha256 must be 64 hex digits"))?;
        Ok(digest)
    }
}
