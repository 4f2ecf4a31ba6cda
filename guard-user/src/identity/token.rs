//! Signed tokens (JWT, RFC 7519) of the issuers that `guard.yaml` knows.
//!
//! A token passes two doors. [`Issuers::addressed`] reads it and finds out whether it is for this guard at all: what it
//! says of its issuer and audience is believed for that alone. [`Addressed::verify`] believes nothing that no key of that
//! issuer has signed. There is one key for a token and one algorithm for a key, so what the header says chooses neither
//! how nor by whom it is checked. The cryptography is aws-lc's.

mod claims;
mod fault;
mod fresh;
mod header;
mod jwks;
mod keys;
mod load;
mod scopes;
mod set;
mod text;
mod wanted;

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use sha2::{Digest, Sha256};

use super::CredentialId;
use crate::config::{Authorize, Scope, UserDemand};
use crate::rpc::Json;
use crate::types::{IssuerName, ProfileName, Uptime, UserName};

pub use fault::TokenFault;
pub use fresh::Fresh;
pub use jwks::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};
pub use keys::KeyDigest;
pub use set::{KeySet, Published};
pub use text::TOKEN_BYTES_MAX;
pub use wanted::Wanted;

use claims::Claims;
use text::Parts;

pub(super) use text::bearer;

/// Every issuer whose tokens are believed, with its keys: one version, never changed.
#[derive(Debug, Clone, Default)]
pub struct Issuers {
    all: Vec<Issuer>,
    /// Keys that were passed over.
    notes: Vec<String>,
}

#[derive(Debug, Clone)]
struct Issuer {
    name: IssuerName,
    /// The `iss` of its tokens.
    url: String,
    audience: String,
    leeway: SignedDuration,
    /// `None`: they cannot be had.
    keys: Option<KeySet>,
    /// They come over the network, may be others at any time, and are good for as long.
    asked: Option<Fresh>,
    /// The claim with the user, and whether it must be there.
    user: Option<(String, UserDemand)>,
    /// The claim with the profile, which must be there.
    profile: Option<String>,
}

/// A token that says that it is of a known issuer and for this guard. Nothing of it is proved yet.
#[derive(Debug)]
pub struct Addressed<'i> {
    issuer: &'i Issuer,
    parts: Parts<'i>,
    claims: Json,
    /// They say something at such a server alone.
    needs_scopes: bool,
}

/// What a token proves: it was signed by this key of this issuer, for this guard, and it is in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Voucher {
    pub issuer: IssuerName,
    pub subject: Arc<str>,
    /// For whom the agent works.
    pub user: Option<UserName>,
    /// That of the caller, if its issuer says so.
    pub profile: Option<ProfileName>,
    /// What it may be used for, where the server's entry asks for that.
    pub scopes: Arc<[Scope]>,
    pub key: KeyDigest,
    /// Names the token in records; nobody can make the token of it.
    pub id: CredentialId,
    /// From when on it proves nothing.
    pub expires: Timestamp,
}

impl Issuers {
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// SHA-256 in hex over the keys that come from files; `None`: no issuer has such.
    pub fn digest(&self) -> Option<String> {
        let mut hash = Sha256::new();
        let of_files = self.all.iter().filter(|issuer| issuer.asked.is_none());
        let hashed =
            of_files.filter_map(|issuer| Some((issuer, issuer.keys.as_ref()?))).map(|(issuer, keys)| {
                hash.update(Sha256::digest(issuer.name.as_str()));
                hash.update(keys.digest());
            });
        (hashed.count() > 0).then(|| hex::encode(hash.finalize()))
    }

    /// What people should know of the key files, beside mistakes.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The issuer that `token` names, if the token says that it is for this guard.
    pub fn addressed<'i>(&'i self, token: &'i str) -> Result<Addressed<'i>, TokenFault> {
        self.addressed_at(token, None)
    }

    /// The same at a server for which the guard is the resource server: a token must be for that one, not for the guard.
    pub fn addressed_at<'i>(
        &'i self,
        token: &'i str,
        server: Option<&Authorize>,
    ) -> Result<Addressed<'i>, TokenFault> {
        let parts = Parts::of(token)?;
        let claims = text::object(parts.claims)?;
        let named = claims.get("iss").and_then(Json::as_str).ok_or(TokenFault::Issuer)?;
        let issuer = self.all.iter().find(|issuer| issuer.url == named).ok_or(TokenFault::Issuer)?;
        let is_taken =
            |server: &Authorize| server.issuers.is_empty() || server.issuers.contains(&issuer.name);
        if !server.is_none_or(is_taken) {
            return Err(TokenFault::Issuer);
        }
        let resource = server.map(|server| server.resource.to_string());
        if !claims::is_for(&claims, resource.as_deref().unwrap_or(&issuer.audience)) {
            return Err(TokenFault::Audience);
        }
        Ok(Addressed { issuer, parts, claims, needs_scopes: server.is_some() })
    }

    /// Whether the value of an `Authorization` header holds a token that its issuer made for this guard, or for one of
    /// `resources`, however it is spelled: it is nobody else's. What it says of that is believed, since that only takes it away.
    pub fn concerns(&self, value: &[u8], resources: &[String]) -> bool {
        let audiences = self.all.iter().map(|issuer| &issuer.audience).chain(resources);
        let audiences: Vec<_> = audiences.map(String::as_str).collect();
        !audiences.is_empty() && text::is_for_any(value, &audiences)
    }

    /// Whether the key that signed this is still one of its issuer's, which was heard of lately enough.
    pub fn trust(&self, voucher: &Voucher, now: Uptime) -> bool {
        let has = |issuer: &Issuer| issuer.good_keys(now).is_some_and(|keys| keys.has(&voucher.key));
        self.all.iter().any(|issuer| issuer.name == voucher.issuer && has(issuer))
    }

    /// The same with other keys of one issuer that was asked for them; none: it could not be.
    #[must_use]
    pub fn with_keys(&self, issuer: &IssuerName, keys: Option<&KeySet>) -> Self {
        let mut next = self.clone();
        for known in next.all.iter_mut().filter(|known| known.asked.is_some() && known.name == *issuer) {
            known.keys = keys.cloned();
        }
        next
    }

    /// Files say nothing of the keys of issuers that are asked: they stay as they were.
    pub fn keep_asked(&mut self, before: &Self) {
        for issuer in self.all.iter_mut().filter(|issuer| issuer.asked.is_some()) {
            let known = before.all.iter().find(|known| known.asked.is_some() && known.name == issuer.name);
            issuer.keys = known.and_then(|known| known.keys.clone());
            issuer.asked = known.map_or_else(|| Some(Fresh::default()), |known| known.asked.clone());
        }
    }

    /// The URLs of these issuers; of none: of all.
    pub fn urls(&self, names: &[IssuerName]) -> Vec<&str> {
        let is_meant = |issuer: &&Issuer| names.is_empty() || names.contains(&issuer.name);
        self.all.iter().filter(is_meant).map(|issuer| issuer.url.as_str()).collect()
    }

    /// How long the keys of an issuer are good that is asked for them.
    pub fn fresh(&self, issuer: &IssuerName) -> Option<&Fresh> {
        self.all.iter().find(|known| known.name == *issuer)?.asked.as_ref()
    }

    /// The keys of one issuer, as far as they are known, good or not.
    pub fn keys(&self, issuer: &IssuerName) -> Option<&KeySet> {
        self.all.iter().find(|known| known.name == *issuer)?.keys.as_ref()
    }
}

impl Issuer {
    /// Its keys, unless they were not heard of for too long.
    fn good_keys(&self, now: Uptime) -> Option<&KeySet> {
        let is_good = self.asked.as_ref().is_none_or(|fresh| !fresh.is_over(now));
        self.keys.as_ref().filter(|_| is_good)
    }
}

impl Addressed<'_> {
    /// Its issuer, if that can be asked for keys at any time.
    pub fn asked_issuer(&self) -> Option<&IssuerName> {
        self.issuer.asked.as_ref().map(|_| &self.issuer.name)
    }

    /// What it proves `now`; the clock of the host may be set, `up` goes on.
    pub fn verify(&self, now: Timestamp, up: Uptime) -> Result<Voucher, TokenFault> {
        let header = text::object(self.parts.header)?;
        let (algorithm, kid) = header::read(&header)?;
        let keys = self.issuer.good_keys(up).ok_or(TokenFault::KeysUnavailable)?;
        let key = keys.find(kid).ok_or(TokenFault::UnknownKey)?;
        if key.algorithm != algorithm {
            return Err(TokenFault::Algorithm);
        }
        let signature = text::bytes(self.parts.signature)?;
        key.verify(self.parts.signed.as_bytes(), &signature)?;
        let claims = Claims::read(&self.claims)?;
        let expires = claims.in_time(now, self.issuer.leeway)?;
        let scopes = if self.needs_scopes { scopes::read(&self.claims)? } else { Vec::new() };
        let user =
            self.issuer.user.as_ref().map(|(claim, demand)| claims::user(&self.claims, claim, *demand));
        let profile = self.issuer.profile.as_deref().map(|claim| claims::profile(&self.claims, claim));
        Ok(Voucher {
            issuer: self.issuer.name.clone(),
            subject: claims.subject,
            user: user.transpose()?.flatten(),
            profile: profile.transpose()?,
            scopes: scopes.into(),
            key: key.digest,
            id: CredentialId::of_token(self.parts.whole),
            expires,
        })
    }
}

#[cfg(test)]
mod tests;
