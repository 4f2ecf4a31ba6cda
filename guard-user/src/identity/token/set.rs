//! The keys of one issuer, to be shared by versions of the rules.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::jwks;
use super::keys::{KeyDigest, Keys, PublicKey};
use crate::config::Algorithm;

/// At least one key, each with a name of its own. Equal if the keys are.
#[derive(Debug, Clone)]
pub struct KeySet {
    keys: Arc<Keys>,
    digest: [u8; 32],
}

impl KeySet {
    /// Of what an issuer publishes; beside it, why which keys of it are of no use.
    pub fn parse(text: &[u8], wanted: &[Algorithm]) -> Result<(Self, Vec<String>), String> {
        let (keys, notes) = jwks::read(text, wanted)?;
        Ok((Self::of(Keys::new(keys)?), notes))
    }

    pub(super) fn of(keys: Keys) -> Self {
        // Their order says nothing.
        let mut each: Vec<_> = keys.iter().map(|key| (&key.kid, key.digest.bytes())).collect();
        each.sort_unstable();
        let mut hash = Sha256::new();
        for (kid, digest) in each {
            let kid = kid.as_deref().map_or([0; 32], |kid| Sha256::digest(kid).into());
            hash.update(kid);
            hash.update(digest);
        }
        let digest = hash.finalize().into();
        Self { keys: Arc::new(keys), digest }
    }

    /// How many keys there are.
    pub fn count(&self) -> usize {
        self.keys.iter().count()
    }

    /// SHA-256 over them, in hex.
    pub fn digest(&self) -> String {
        hex::encode(self.digest)
    }

    pub(super) fn find(&self, kid: Option<&str>) -> Option<&PublicKey> {
        self.keys.find(kid)
    }

    pub(super) fn has(&self, digest: &KeyDigest) -> bool {
        self.keys.has(digest)
    }
}

impl PartialEq for KeySet {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Eq for KeySet {}
