//! Client certificates (mutual TLS): what a connection showed in its handshake, and whom that names.
//!
//! The handshake proves that the client has the key, and that one of [`Clients`]' authorities vouches for its certificate. That is looked at again
//! by the rules that judge each request, since authorities and lists of revoked certificates change while connections are open. A
//! certificate names its holder in one of three ways, each compared whole.

mod clients;
mod fault;
mod names;
mod spiffe;
mod subject;

use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustls_pki_types::CertificateDer;
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;

pub use clients::{CLIENT_CA_BYTES_MAX, Clients};
pub use fault::CertificateFault;
pub use names::CertificateName;
pub use spiffe::{NotAnId, SpiffeId};
pub use subject::{NotASubject, Subject};

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

impl Certificate {
    /// Reads what TLS has verified. `None`: the client showed none.
    pub fn of_chain(chain: Vec<CertificateDer<'static>>) -> Option<Self> {
        let own = chain.first()?;
        let fingerprint = Sha256::digest(own).into();
        let names = names::read(own);
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

#[cfg(test)]
mod tests;
