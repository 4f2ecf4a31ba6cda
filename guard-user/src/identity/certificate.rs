//! Client certificates (mutual TLS): what a connection showed in its handshake, and whom that names.
//!
//! The handshake proves that the client has the key, and that one of [`Clients`]' authorities vouches for its certificate. That is looked at again
//! by the rules that judge each request, since authorities and lists of revoked certificates change while connections are open. A
//! certificate names its holder in one of three ways, each compared whole.

mod clients;
mod spiffe;
mod subject;

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

pub use clients::{CLIENT_CA_BYTES_MAX, Clients};
pub use spiffe::{NotAnId, SpiffeId};
pub use subject::{NotASubject, Subject};

/// Longest DNS name, in bytes.
const DNS_BYTES_MAX: usize = 253;
const SPIFFE: &[u8] = b"spiffe:";

/// How an agent's entry names the holder of a certificate.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CertificateName {
    /// The one URI of an X509-SVID.
    Spiffe(SpiffeId),
    /// The whole subject.
    Subject(Subject),
    /// One of its DNS names, in lower case; a pattern names nobody.
    Dns(Box<str>),
}

/// What a client showed in the handshake. It has the key.
#[derive(Debug)]
pub struct Certificate {
    /// The client's own first.
    chain: Vec<CertificateDer<'static>>,
    fingerprint: [u8; 32],
    /// Who made each of the chain, in DER.
    issuers: Vec<Vec<u8>>,
    /// From when on one of the chain is not good any more.
    expires: Timestamp,
    names: Result<Vec<CertificateName>, CertificateFault>,
    /// The version of [`Clients`] that found it good.
    checked: AtomicU64,
}

/// Why a certificate proves nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum CertificateFault {
    #[error(
        "the agent's entry needs a client certificate, and this connection showed none in its TLS handshake"
    )]
    Missing,
    #[error("the client certificate cannot be read: {0}")]
    Malformed(&'static str),
    #[error("the client certificate is good, and the policy has no agent with it")]
    Unknown,
    #[error("the client certificate is not the one that the agent's entry asks for")]
    Wrong,
    #[error("the client certificate has expired; connect again with the next one")]
    Expired,
    #[error(
        "no authority vouches for the client certificate any more: its own was taken out of client_ca, or client_crl revokes it or is out of date"
    )]
    Untrusted,
}

impl CertificateFault {
    /// Its name in audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "no_certificate",
            Self::Malformed(_) => "certificate_malformed",
            Self::Unknown => "unknown_certificate",
            Self::Wrong => "wrong_certificate",
            Self::Expired => "certificate_expired",
            Self::Untrusted => "certificate_untrusted",
        }
    }
}

impl Certificate {
    /// Reads what TLS has verified. `None`: the client showed none.
    pub fn of_chain(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let own = chain.first()?;
        let fingerprint = Sha256::digest(own).into();
        let names = names(own);
        // One that cannot be read is good at no time.
        let expires = chain.iter().map(|one| ends(one).unwrap_or(Timestamp::MIN)).min()?;
        let issuers = chain.iter().filter_map(issuer).collect();
        Some(Self { fingerprint, issuers, names, expires, checked: AtomicU64::new(0), chain })
    }

    /// SHA-256 of it, in hex.
    pub fn fingerprint(&self) -> String {
        hex::encode(self.fingerprint)
    }

    /// Whom it names: its subject, and a SPIFFE ID or DNS names if it has any.
    pub fn names(&self) -> Result<&[CertificateName], CertificateFault> {
        self.names.as_deref().map_err(|fault| *fault)
    }

    pub fn expires(&self) -> Timestamp {
        self.expires
    }

    /// Whether `known` has found it good before.
    fn is_checked_by(&self, version: u64) -> bool {
        self.checked.load(Ordering::Relaxed) == version
    }

    fn found_good_by(&self, version: u64) {
        self.checked.store(version, Ordering::Relaxed);
    }
}

/// The same certificate, whatever chain came with it.
impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Certificate {}

fn ends(certificate: &CertificateDer<'_>) -> Option<Timestamp> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Timestamp::from_second(certificate.validity().not_after.timestamp()).ok()
}

/// Who made it, in DER.
fn issuer(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.issuer().as_raw().to_vec())
}

fn names(own: &CertificateDer<'_>) -> Result<Vec<CertificateName>, CertificateFault> {
    let malformed = |what| CertificateFault::Malformed(what);
    let (rest, certificate) = X509Certificate::from_der(own).map_err(|_error| malformed("it is no X.509"))?;
    if !rest.is_empty() {
        return Err(malformed("something stands behind it"));
    }
    let usage = certificate.key_usage().map_err(|_error| malformed("its key usage is there twice"))?;
    if usage.is_some_and(|usage| {
        !usage.value.digital_signature() || usage.value.key_cert_sign() || usage.value.crl_sign()
    }) {
        return Err(malformed("its key is not, or not only, for signing what a client says (keyUsage)"));
    }
    let alternative = certificate.subject_alternative_name();
    let alternative =
        alternative.map_err(|_error| malformed("its subject alternative names are there twice"))?;
    let alternative = alternative.map(|names| names.value.general_names.as_slice()).unwrap_or_default();
    let mut names = Vec::new();
    let uris: Vec<_> = alternative
        .iter()
        .filter_map(|name| if let GeneralName::URI(uri) = name { Some(*uri) } else { None })
        .collect();
    let is_spiffe = |uri: &&str| {
        uri.as_bytes().get(..SPIFFE.len()).is_some_and(|begin| begin.eq_ignore_ascii_case(SPIFFE))
    };
    if uris.iter().any(is_spiffe) {
        // Who reads the first and who reads the last would take it for two.
        let [uri] = uris.as_slice() else {
            return Err(malformed("it has a SPIFFE ID and another URI beside it"));
        };
        let id = SpiffeId::parse(uri).map_err(|_error| malformed("its SPIFFE ID is none of a workload"))?;
        names.push(CertificateName::Spiffe(id));
    }
    // Without one that can be compared, it may still have another name.
    names.extend(Subject::of(certificate.subject()).ok().map(CertificateName::Subject));
    for name in alternative {
        match name {
            GeneralName::DNSName(name) => names.extend(CertificateName::dns(name)),
            GeneralName::Invalid(..) => return Err(malformed("one of its alternative names is none")),
            _ => {}
        }
    }
    Ok(names)
}

impl CertificateName {
    /// A DNS name, which is no pattern.
    pub fn dns(name: &str) -> Option<Self> {
        let is_part = |part: &str| {
            (1..=63).contains(&part.len())
                && part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
                && !part.starts_with('-')
                && !part.ends_with('-')
        };
        let is_name = name.len() <= DNS_BYTES_MAX && name.split('.').all(is_part);
        is_name.then(|| Self::Dns(name.to_ascii_lowercase().into()))
    }
}

/// As an entry has it.
impl fmt::Display for CertificateName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spiffe(id) => write!(f, "{id}"),
            Self::Subject(subject) => write!(f, "subject {subject}"),
            Self::Dns(name) => write!(f, "dns {name}"),
        }
    }
}

#[cfg(test)]
mod tests;
