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

/// The keys that an issuer names in a set that the guard does not take.
#[derive(Debug)]
pub struct Published(Vec<PublicKey>);

impl Published {
    /// `None`: `text` is no key set, and says nothing of any key.
    pub fn read(text: &[u8], wanted: &[Algorithm]) -> Option<Self> {
        jwks::named(text, wanted).map(Self)
    }
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

    /// What is left of these keys where the issuer publishes `published`, a set that is not taken as a whole: those that it still has.
    pub fn left(&self, published: &Published) -> Option<Self> {
        self.keys.among(&published.0).map(Self::of)
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
