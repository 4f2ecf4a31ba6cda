//! What a token says. All of it is read, and nothing of it is optional but the time of issue.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::TokenFault;
use crate::config::UserDemand;
use crate::rpc::Json;
use crate::types::{ProfileName, UserName};

#[derive(Debug)]
pub(super) struct Claims {
    pub subject: Arc<str>,
    expires: Timestamp,
    not_before: Timestamp,
    issued: Option<Timestamp>,
}

impl Claims {
    pub(super) fn read(claims: &Json) -> Result<Self, TokenFault> {
        let subject = claims.get("sub").and_then(Json::as_str).filter(|subject| !subject.is_empty());
        Ok(Self {
            subject: subject.ok_or(TokenFault::Malformed("it has no `sub`"))?.into(),
            expires: time(claims, "exp")?.ok_or(TokenFault::Malformed("it has no `exp`"))?,
            not_before: time(claims, "nbf")?.ok_or(TokenFault::Malformed("it has no `nbf`"))?,
            issued: time(claims, "iat")?,
        })
    }

    /// From when on it proves nothing, if it proves something `now`.
    pub(super) fn in_time(&self, now: Timestamp, leeway: SignedDuration) -> Result<Timestamp, TokenFault> {
        let later = |time: Timestamp| time.checked_add(leeway).unwrap_or(Timestamp::MAX);
        let expires = later(self.expires);
        if expires <= now {
            return Err(TokenFault::Expired);
        }
        let soon = later(now);
        if self.not_before > soon || self.issued.is_some_and(|issued| issued > soon) {
            return Err(TokenFault::NotYet);
        }
        Ok(expires)
    }
}

/// Whether `aud` is `audience`, or a list that has it.
pub(super) fn is_for(claims: &Json, audience: &str) -> bool {
    match claims.get("aud") {
        Some(Json::String(one)) => one == audience,
        Some(Json::Array(several)) => {
            several.iter().all(|one| one.as_str().is_some())
                && several.iter().any(|one| one.as_str() == Some(audience))
        }
        _ => false,
    }
}

/// The user whom this claim names. What is there and names nobody is never taken for nothing.
pub(super) fn user(claims: &Json, claim: &str, demand: UserDemand) -> Result<Option<UserName>, TokenFault> {
    match (claims.get(claim), demand) {
        (None, UserDemand::Optional) => Ok(None),
        (None, UserDemand::Required) => Err(TokenFault::NoUser),
        (Some(named), _) => {
            let user = named.as_str().and_then(|text| UserName::parse(text).ok());
            user.map(Some).ok_or(TokenFault::NoUser)
        }
    }
}

/// The profile that this claim names.
pub(super) fn profile(claims: &Json, claim: &str) -> Result<ProfileName, TokenFault> {
    let named = claims.get(claim).and_then(Json::as_str);
    named.and_then(|text| ProfileName::parse(text).ok()).ok_or(TokenFault::NoProfile)
}

/// Seconds since 1970, whole.
fn time(claims: &Json, name: &str) -> Result<Option<Timestamp>, TokenFault> {
    let Some(claim) = claims.get(name) else { return Ok(None) };
    let seconds = if let Json::Number(number) = claim { number.as_i64() } else { None };
    let time =
        seconds.filter(|seconds| *seconds >= 0).and_then(|seconds| Timestamp::from_second(seconds).ok());
    time.map(Some).ok_or(TokenFault::Malformed("a time in it is not a whole number of seconds since 1970"))
}
