//! What the types of `issuers` leave open.

use std::collections::HashMap;

use super::Step::{Item, Key};
use super::{Places, Problems};
use crate::config::issuer::{Issuer, KeySource, LEEWAY_SECONDS_MAX, PemKey, UserDemand};
use crate::config::{JwksUrl, REFRESH_SECONDS_MIN, STALE_SECONDS_MAX};

/// Claims that say something else than who the user is (RFC 7519). `sub` is the agent.
const NO_USER: [&str; 7] = ["iss", "sub", "aud", "exp", "nbf", "iat", "jti"];

pub(super) fn check(issuers: &[Issuer], places: &Places<'_>, problems: &mut Problems) {
    let (mut names, mut urls) = (HashMap::new(), HashMap::new());
    for (index, issuer) in issuers.iter().enumerate() {
        let at = |key| [Key("issuers"), Item(index), Key(key)];
        if names.insert(&issuer.name, index).is_some() {
            let problem = places.problem(&at("name"), format!("another issuer is called {}", issuer.name));
            problems.push(problem.with_hint("policies name issuers by this name, so each has its own"));
        }
        if let Some(first) = urls.insert(&issuer.issuer, &issuer.name) {
            let what = format!("issuer {:?} is already that of {first}", issuer.issuer);
            let problem = places.problem(&at("issuer"), what);
            problems.push(problem.with_hint("its tokens are checked by one entry; put all its keys there"));
        }
        for (key, text) in [("issuer", &issuer.issuer), ("audience", &issuer.audience)] {
            if text.is_empty() {
                let claim = if key == "issuer" { "iss" } else { "aud" };
                let problem = places.problem(&at(key), format!("{key} is empty"));
                problems.push(problem.with_hint(format!("write what its tokens have as `{claim}`")));
            }
        }
        if issuer.algorithms.is_empty() {
            let problem = places.problem(&at("algorithms"), "algorithms is empty: no token would pass");
            problems.push(problem.with_hint("name one, or remove the line for EdDSA, ES256 and RS256"));
        }
        if issuer.leeway_seconds > LEEWAY_SECONDS_MAX {
            let what = format!("leeway_seconds is more than {LEEWAY_SECONDS_MAX}");
            let problem = places.problem(&at("leeway_seconds"), what);
            problems.push(problem.with_hint("let NTP set this host's clock instead"));
        }
        user((issuer, index), places, problems);
        profile((issuer, index), places, problems);
        match &issuer.keys {
            KeySource::PemFiles(keys) => pem_files((issuer, index, keys), places, problems),
            KeySource::JwksUrl(jwks) => jwks_url(index, jwks, places, problems),
            KeySource::JwksFile(_) => {}
        }
    }
}

fn user((issuer, index): (&Issuer, usize), places: &Places<'_>, problems: &mut Problems) {
    let at = |key| [Key("issuers"), Item(index), Key(key)];
    match issuer.user_claim.as_deref() {
        Some(claim) if claim.is_empty() || NO_USER.contains(&claim) => {
            let problem = places.problem(&at("user_claim"), format!("the claim {claim:?} names no user"));
            problems.push(problem.with_hint("write the one that does, such as email; `sub` is the agent"));
        }
        None if issuer.user == UserDemand::Required => {
            let problem = places.problem(&at("user"), "user is required, and no claim says who it is");
            problems.push(problem.with_hint("add `user_claim: email`, or what its tokens have"));
        }
        _ => {}
    }
}

fn profile((issuer, index): (&Issuer, usize), places: &Places<'_>, problems: &mut Problems) {
    let Some(claim) =
        issuer.profile_claim.as_deref().filter(|claim| claim.is_empty() || NO_USER.contains(claim))
    else {
        return;
    };
    let at = [Key("issuers"), Item(index), Key("profile_claim")];
    let problem = places.problem(&at, format!("the claim {claim:?} names no profile"));
    problems.push(problem.with_hint("write the one that does, or leave it out: then X-Profile-ID chooses"));
}

fn jwks_url(index: usize, jwks: &JwksUrl, places: &Places<'_>, problems: &mut Problems) {
    let at = |key| [Key("issuers"), Item(index), Key("keys"), Key("jwks_url"), Key(key)];
    if jwks.refresh_seconds < REFRESH_SECONDS_MIN {
        let what = format!("refresh_seconds is less than {REFRESH_SECONDS_MIN}");
        let problem = places.problem(&at("refresh_seconds"), what);
        problems.push(
            problem.with_hint(
                "a key that is new is asked for when the first token names it, whatever stands here",
            ),
        );
    }
    if jwks.stale_seconds < jwks.refresh_seconds {
        let problem = places.problem(&at("stale_seconds"), "stale_seconds is less than refresh_seconds");
        problems.push(problem.with_hint("keys would end before the issuer is asked for them again"));
    }
    if jwks.stale_seconds > STALE_SECONDS_MAX {
        let what = format!("stale_seconds is more than {STALE_SECONDS_MAX}");
        let problem = places.problem(&at("stale_seconds"), what);
        problems.push(
            problem.with_hint(
                "so long a key that the issuer has withdrawn would be good while it cannot be asked",
            ),
        );
    }
}

fn pem_files(
    (issuer, index, keys): (&Issuer, usize, &[PemKey]),
    places: &Places<'_>,
    problems: &mut Problems,
) {
    let at =
        |number, key| [Key("issuers"), Item(index), Key("keys"), Key("pem_files"), Item(number), Key(key)];
    if keys.is_empty() {
        let problem = places.problem(&at(0, "kid"), "pem_files is empty: no token would pass");
        problems.push(problem.with_hint("add `{kid: key-1, algorithm: ES256, file: key-1.pem}`"));
    }
    for (number, key) in keys.iter().enumerate() {
        if key.kid.is_empty() {
            let problem = places.problem(&at(number, "kid"), "kid is empty");
            problems.push(problem.with_hint("write what tokens have in their header as `kid`"));
        }
        if keys.iter().take(number).any(|other| other.kid == key.kid) {
            let problem =
                places.problem(&at(number, "kid"), format!("another key has the kid {:?}", key.kid));
            problems.push(problem.with_hint("a token names its key by it, so each has its own"));
        }
        if !issuer.algorithms.contains(&key.algorithm) {
            let what = format!("{} is not among the issuer's algorithms", key.algorithm.as_str());
            let problem = places.problem(&at(number, "algorithm"), what);
            problems.push(problem.with_hint("add it there, or remove the key"));
        }
    }
}
