//! A CA that makes certificates for clients, to any taste.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

const HOUR: Duration = Duration::from_secs(3600);

/// Signs certificates of clients, and lists of those that it took back.
pub struct ClientCa {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

/// A certificate and its key.
#[derive(Debug, Clone)]
pub struct Identity {
    pub certificate: Vec<u8>,
    pub key: Vec<u8>,
}

impl ClientCa {
    pub fn new() -> anyhow::Result<Self> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Corp clients");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The certificate of a workload.
    pub fn workload(&self, id: &str) -> anyhow::Result<Identity> {
        self.sign(&params(&[id])?)
    }

    pub fn sign(&self, params: &CertificateParams) -> anyhow::Result<Identity> {
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.issuer)?.der().to_vec();
        Ok(Identity { certificate, key: key.serialize_der() })
    }

    /// Writes a list with these serial numbers, which is good for an hour.
    pub fn revoke(&self, file: &Path, serials: &[u64]) -> anyhow::Result<()> {
        let now = SystemTime::now();
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        });
        let list = CertificateRevocationListParams {
            this_update: (now - HOUR).into(),
            next_update: (now + HOUR).into(),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(fs::write(file, list.signed_by(&self.issuer)?.pem()?)?)
    }
}

impl Identity {
    pub(crate) fn certified(&self) -> anyhow::Result<CertifiedKey> {
        let key = PrivateKeyDer::Pkcs8(self.key.clone().into());
        let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key)?;
        Ok(CertifiedKey::new(vec![CertificateDer::from(self.certificate.clone())], Arc::clone(&key)))
    }
}

/// Of a client's certificate with these URIs and the subject `CN=workload,O=Corp`, good for an hour.
pub fn params(uris: &[&str]) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name = subject(&[("O", "Corp"), ("CN", "workload")]);
    params.subject_alt_names =
        uris.iter().map(|uri| Ok(SanType::URI((*uri).try_into()?))).collect::<anyhow::Result<_>>()?;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    let now = SystemTime::now();
    (params.not_before, params.not_after) = ((now - HOUR).into(), (now + HOUR).into());
    Ok(params)
}

/// Attributes in the order of the certificate.
///
/// # Panics
/// If one is neither `O`, `OU` nor `CN`.
pub fn subject(attributes: &[(&str, &str)]) -> DistinguishedName {
    let mut name = DistinguishedName::new();
    for (kind, value) in attributes {
        let kind = match *kind {
            "O" => DnType::OrganizationName,
            "OU" => DnType::OrganizationalUnitName,
            "CN" => DnType::CommonName,
            other => panic!("{other}"),
        };
        name.push(kind, *value);
    }
    name
}
