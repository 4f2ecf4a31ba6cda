//! A JSON Web Key Set (RFC 7517): the public keys as an issuer publishes them.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::keys::{KeyFault, PublicKey};
use crate::config::Algorithm;
use crate::rpc::Json;
use crate::rpc::json;

/// A whole set.
pub const JWKS_BYTES_MAX: usize = 256 * 1024;
/// Keys of one set, those that are passed over among them.
pub const JWKS_KEYS_MAX: usize = 64;

/// Nesting of a set.
const DEPTH_MAX: usize = 16;

/// The private parts of keys (RFC 7518 6), and all of a symmetric one.
const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];

/// Bytes of a coordinate of P-256.
const COORDINATE_BYTES: usize = 32;
/// Before an uncompressed point (SEC 1 2.3.3).
const UNCOMPRESSED: u8 = 4;
/// Bytes of an Ed25519 key.
const ED25519_BYTES: usize = 32;

/// The keys of a set that are of use, and of each other one why it is not. An error names what must be mended first.
pub(super) fn read(text: &[u8], wanted: &[Algorithm]) -> Result<(Vec<PublicKey>, Vec<String>), String> {
    let set = json::parse(text, DEPTH_MAX).map_err(|error| error.to_string())?;
    let Some(Json::Array(listed)) = set.get("keys") else {
        return Err("it is no JSON Web Key Set: it has no list `keys`".into());
    };
    if listed.len() > JWKS_KEYS_MAX {
        return Err(format!("it has more than {JWKS_KEYS_MAX} keys"));
    }
    let (mut keys, mut notes) = (Vec::new(), Vec::new());
    for (index, key) in listed.iter().enumerate() {
        let name = match key.get("kid").and_then(Json::as_str) {
            Some(kid) => format!("key {kid:?}"),
            None => format!("key {}", index + 1),
        };
        match one(key, wanted).map_err(|what| format!("{name}: {what}"))? {
            Read::Key(key) => keys.push(key),
            Read::PassedOver(why) => notes.push(format!("{name} is not used: {why}")),
        }
    }
    Ok((keys, notes))
}

/// The keys that a set names, whatever else is wrong with it. `None`: it is no set.
pub(super) fn named(text: &[u8], wanted: &[Algorithm]) -> Option<Vec<PublicKey>> {
    let set = json::parse(text, DEPTH_MAX).ok()?;
    let Some(Json::Array(listed)) = set.get("keys") else { return None };
    let keys = listed.iter().take(JWKS_KEYS_MAX).filter_map(|key| match one(key, wanted) {
        Ok(Read::Key(key)) => Some(key),
        _ => None,
    });
    Some(keys.collect())
}

enum Read {
    Key(PublicKey),
    PassedOver(String),
}

fn one(key: &Json, wanted: &[Algorithm]) -> Result<Read, String> {
    if key.as_object().is_none() {
        return Err("it is no object".into());
    }
    if let Some(private) = PRIVATE.into_iter().find(|name| key.get(name).is_some()) {
        return Err(format!(
            "it has private key material (`{private}`), with which tokens can be made; put the public keys alone here, and \
             take this one out of use if others could read the file"
        ));
    }
    let text = |name: &str| match key.get(name) {
        Some(value) => value.as_str().map(Some).ok_or_else(|| format!("`{name}` is no text")),
        None => Ok(None),
    };
    let kid = text("kid")?.map(str::to_owned);
    if kid.as_deref() == Some("") {
        return Err("its `kid` is empty".into());
    }
    let (kty, crv) = (text("kty")?.ok_or("it has no `kty`")?, text("crv")?);
    let algorithm = match (kty, crv) {
        ("OKP", Some("Ed25519")) => Algorithm::EdDsa,
        ("EC", Some("P-256")) => Algorithm::Es256,
        ("RSA", _) => Algorithm::Rs256,
        _ => {
            return Ok(Read::PassedOver(format!(
                "{kty:?} {:?} is of no kind that the guard takes",
                crv.unwrap_or("")
            )));
        }
    };
    if let Some(other) = text("use")?.filter(|used| *used != "sig") {
        return Ok(Read::PassedOver(format!("it is for {other:?}, not for signatures")));
    }
    if let Some(operations) = key.get("key_ops") {
        let Json::Array(operations) = operations else { return Err("`key_ops` is no list".into()) };
        if !operations.iter().any(|one| one.as_str() == Some("verify")) {
            return Ok(Read::PassedOver("its `key_ops` have no \"verify\"".into()));
        }
    }
    if let Some(other) = text("alg")?.filter(|alg| *alg != algorithm.as_str()) {
        return Ok(Read::PassedOver(format!(
            "it is for {other:?}, and the guard takes {}",
            algorithm.as_str()
        )));
    }
    if !wanted.contains(&algorithm) {
        return Ok(Read::PassedOver(format!("{} is not among the issuer's algorithms", algorithm.as_str())));
    }
    let number = |name: &str| {
        let encoded = text(name)?.ok_or_else(|| format!("it has no `{name}`"))?;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_decode| format!("`{name}` is not base64url"))
    };
    let read = match algorithm {
        Algorithm::EdDsa => {
            let x = number("x")?;
            if x.len() == ED25519_BYTES {
                PublicKey::new(kid, algorithm, &x)
            } else {
                Err(KeyFault::Unfit(algorithm))
            }
        }
        Algorithm::Es256 => {
            let (x, y) = (number("x")?, number("y")?);
            if x.len() == COORDINATE_BYTES && y.len() == COORDINATE_BYTES {
                PublicKey::new(kid, algorithm, &[&[UNCOMPRESSED], &*x, &*y].concat())
            } else {
                Err(KeyFault::Unfit(algorithm))
            }
        }
        Algorithm::Rs256 => PublicKey::rsa(kid, &number("n")?, &number("e")?),
    };
    read.map(Read::Key).map_err(|fault| fault.to_string())
}
