//! Reads the key files of every issuer, all or none.

use std::fs;
use std::path::Path;

use jiff::SignedDuration;
use rustls_pki_types::pem::{PemObject, SectionKind};

use super::keys::{Keys, PublicKey};
use super::{Fresh, Issuer, Issuers, JWKS_BYTES_MAX, KeySet};
use crate::config::{self, KeySource, PemKey, Problem, Problems, others_may_write, read_bounded};
use crate::tls::{self, Peer};

/// A file with one public key.
pub(super) const PEM_BYTES_MAX: usize = 64 * 1024;

impl Issuers {
    /// Refused if anybody but root and the guard's own user may write a key file: whose key is in it can make tokens.
    pub fn load(configured: &[config::Issuer]) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut issuers = Self::default();
        for issuer in configured {
            match read(issuer, &mut issuers.notes) {
                Ok(keys) => issuers.all.push(Issuer {
                    name: issuer.name.clone(),
                    url: issuer.issuer.clone(),
                    audience: issuer.audience.clone(),
                    leeway: SignedDuration::from_secs(issuer.leeway_seconds.into()),
                    asked: matches!(issuer.keys, KeySource::JwksUrl(_)).then(Fresh::default),
                    keys,
                    user: issuer.user_claim.clone().map(|claim| (claim, issuer.user)),
                    profile: issuer.profile_claim.clone(),
                }),
                Err(found) => problems.append(found),
            }
        }
        problems.or(issuers)
    }
}

fn read(issuer: &config::Issuer, notes: &mut Vec<String>) -> Result<Option<KeySet>, Problems> {
    match &issuer.keys {
        KeySource::JwksFile(file) => {
            let text = trusted(file, JWKS_BYTES_MAX)?;
            let set = KeySet::parse(&text, &issuer.algorithms).map(|(keys, passed)| {
                notes.extend(passed.into_iter().map(|note| format!("{}: {note}", file.display())));
                keys
            });
            let hint = "write what the issuer publishes as its JWKS, then `mcp-guard reload`";
            Ok(Some(set.map_err(|what| Problem::of_file(file, what).with_hint(hint))?))
        }
        // Nobody is asked here: whoever runs the guard does that.
        KeySource::JwksUrl(jwks) => {
            jwks.ca_file.as_deref().map(|file| tls::authorities(file, Peer::ISSUER)).transpose()?;
            Ok(None)
        }
        KeySource::PemFiles(named) => {
            let mut problems = Problems::default();
            let mut keys = Vec::new();
            for key in named {
                match pem(key) {
                    Ok(key) => keys.push(key),
                    Err(problem) => problems.push(problem),
                }
            }
            problems.or(())?;
            // Their names were looked at with guard.yaml.
            let first = named.first().map_or(Path::new(""), |key| &key.file);
            let keys = Keys::new(keys).map_err(|what| Problem::of_file(first, what))?;
            Ok(Some(KeySet::of(keys)))
        }
    }
}

fn pem(named: &PemKey) -> Result<PublicKey, Problem> {
    let file = &named.file;
    let text = trusted(file, PEM_BYTES_MAX)?;
    let hint = "write the public key alone: `openssl pkey -pubout -in KEY.pem -out FILE`";
    let problem = |what: String| Problem::of_file(file, what).with_hint(hint);
    let sections = <(SectionKind, Vec<u8>) as PemObject>::pem_slice_iter(&text);
    let sections: Vec<_> = sections.collect::<Result<_, _>>().map_err(|error| problem(error.to_string()))?;
    let is_private = |kind: &SectionKind| {
        matches!(kind, SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey)
    };
    if sections.iter().any(|(kind, _)| is_private(kind)) {
        return Err(problem("it has a private key, with which tokens can be made".into()));
    }
    let [(SectionKind::PublicKey, der)] = sections.as_slice() else {
        return Err(problem(
            "it must have one public key (`-----BEGIN PUBLIC KEY-----`) and nothing else".into(),
        ));
    };
    let key = PublicKey::new(Some(named.kid.clone()), named.algorithm, der);
    key.map_err(|fault| problem(fault.to_string()))
}

/// Of a file that says whose tokens are good.
fn trusted(file: &Path, bytes_max: usize) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: std::io::Error| {
        Problem::of_file(file, format!("the issuer's keys cannot be read: {error}"))
            .with_hint("paths count from the directory of guard.yaml")
    };
    let metadata = fs::metadata(file).map_err(unreadable)?;
    if let Some((who, mend)) = others_may_write(&metadata) {
        let what = format!("{who} may write this file, and so say whose tokens are good");
        return Err(Problem::of_file(file, what).with_hint(format!("run `{mend} {}`", file.display())));
    }
    read_bounded(file, bytes_max).map_err(unreadable)
}
