//! Whom a client certificate names. What two readers could take for two is refused.

use std::fmt;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;

use super::{CertificateFault, SpiffeId, Subject};

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

/// Whom a certificate names, in DER: its subject, and a SPIFFE ID or DNS names if it has any.
pub(super) fn read(own: &[u8]) -> Result<Vec<CertificateName>, CertificateFault> {
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
