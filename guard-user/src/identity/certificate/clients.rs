//! The authorities that vouch for clients, and the lists of what they took back. Read at the start and at a reload, all or none.

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use jiff::Timestamp;
use rustls::RootCertStore;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::aws_lc_rs;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{CertificateError, DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use sha2::{Digest, Sha256};
use x509_parser::certificate::X509Certificate;
use x509_parser::prelude::FromDer;
use x509_parser::revocation_list::CertificateRevocationList;

use super::{Certificate, CertificateFault};
use crate::config::{self, Problem, Problems, others_may_write, read_bounded};

/// Longest file of authorities, or of what they revoke.
pub const CLIENT_CA_BYTES_MAX: usize = 4 * 1024 * 1024;

/// The next version. None is 0, by which nothing was ever checked.
static VERSION: AtomicU64 = AtomicU64::new(1);

type Ends = HashMap<Vec<u8>, Timestamp>;

/// Who vouches for clients: one version, never changed.
#[derive(Debug, Default)]
pub struct Clients {
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    version: u64,
    /// From when on a list is out of date, and nobody can say what is revoked.
    until: Option<Timestamp>,
    /// When each authority's own certificate ends, by its subject (DER); of several of one name, the first.
    ends: Arc<Ends>,
    /// SHA-256 in hex of the authorities, and of what they took back (DER, one after the other); `None`: there is none.
    digests: [Option<String>; 2],
    /// What people should know of the files, beside mistakes.
    notes: Vec<String>,
}

impl Clients {
    /// Reads the files of `tls`. `own_ca` is the certificate of the guard's local CA, which vouches for the guard alone.
    pub fn load(tls: &config::Tls, own_ca: &Path) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut clients = Self::default();
        let mut roots = RootCertStore::empty();
        let mut ends = Ends::new();
        let mut of_authorities = Sha256::new();
        for file in &tls.client_ca {
            let added = authorities(file, own_ca, &mut clients.notes).and_then(|found| {
                found.into_iter().try_for_each(|Authority { certificate, subject, until }| {
                    of_authorities.update(&certificate);
                    ends.entry(subject).and_modify(|first| *first = until.min(*first)).or_insert(until);
                    roots.add(certificate).map_err(|error| {
                        Problem::of_file(file, format!("not a CA that can be used: {error}"))
                    })
                })
            });
            added.unwrap_or_else(|problem| problems.push(problem));
        }
        if let Some(file) = tls.client_ca.first()
            && roots.is_empty()
            && problems.is_empty()
        {
            let what = "no CA of client_ca is valid now, so none vouches for any client";
            problems.push(
                Problem::of_file(file, what)
                    .with_hint("look with `openssl x509 -noout -dates`; name the CA's next certificate"),
            );
        }
        let mut lists: Vec<Revoked> = Vec::new();
        for file in &tls.client_crl {
            match revoked(file, &mut clients.notes) {
                Ok(found) => {
                    for list in found {
                        // Of two, only the first would be asked.
                        if lists.iter().any(|other| other.issuer == list.issuer) {
                            problems.push(second_list(file, &list.name));
                        }
                        lists.push(list);
                    }
                }
                Err(problem) => problems.push(problem),
            }
        }
        clients.until = lists.iter().map(|list| list.until).min();
        clients.ends = Arc::new(ends);
        problems.or(())?;
        let mut of_lists = Sha256::new();
        for list in &lists {
            of_lists.update(&list.list);
        }
        let of = |digest: Sha256, files: &[_]| (!files.is_empty()).then(|| hex::encode(digest.finalize()));
        clients.digests = [of(of_authorities, &tls.client_ca), of(of_lists, &tls.client_crl)];
        if !roots.is_empty() {
            let builder = WebPkiClientVerifier::builder_with_provider(
                roots.into(),
                Arc::new(aws_lc_rs::default_provider()),
            );
            let built = builder
                .with_crls(lists.into_iter().map(|list| list.list))
                .allow_unauthenticated()
                .enforce_revocation_expiration()
                .build();
            let first = tls.client_crl.first().or(tls.client_ca.first());
            let inner = built.map_err(|error| {
                Problem::of_file(first.map_or(Path::new(""), |file| file), format!("cannot be used: {error}"))
            })?;
            clients.verifier = Some(Arc::new(ForClients { inner, ends: Arc::clone(&clients.ends) }));
            clients.version = VERSION.fetch_add(1, Ordering::Relaxed);
        }
        Ok(clients)
    }

    /// What TLS asks; `None`: it asks for no certificate.
    pub fn verifier(&self) -> Option<Arc<dyn ClientCertVerifier>> {
        self.verifier.clone()
    }

    /// SHA-256 in hex of the authorities that are valid, and of what they took back; `None`: there is none.
    pub fn digests(&self) -> [Option<&str>; 2] {
        self.digests.each_ref().map(Option::as_deref)
    }

    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Whether a certificate that some version found good in a handshake is good by this one `now`.
    pub fn check(&self, certificate: &Certificate, now: Timestamp) -> Result<(), CertificateFault> {
        if certificate.expires() <= now {
            return Err(CertificateFault::Expired);
        }
        let verifier = self.verifier.as_ref().ok_or(CertificateFault::Untrusted)?;
        if self.until(certificate) <= now {
            return Err(CertificateFault::Untrusted);
        }
        if certificate.is_checked_by(self.version) {
            return Ok(());
        }
        let (own, others) = certificate.chain.split_first().ok_or(CertificateFault::Missing)?;
        let now = UnixTime::since_unix_epoch(now.duration_since(Timestamp::UNIX_EPOCH).unsigned_abs());
        match verifier.verify_client_cert(own, others, now) {
            Ok(_verified) => {
                certificate.found_good_by(self.version);
                Ok(())
            }
            Err(rustls::Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            )) => Err(CertificateFault::Expired),
            Err(_refused) => Err(CertificateFault::Untrusted),
        }
    }

    /// From when on `certificate` proves nothing, as far as that is known beforehand.
    pub fn expires(&self, certificate: &Certificate) -> Timestamp {
        self.until(certificate).min(certificate.expires())
    }

    /// When the first list is out of date, or the certificate of an authority that may have vouched for this one ends.
    fn until(&self, certificate: &Certificate) -> Timestamp {
        let ends = earliest(&self.ends, certificate.issuers.iter().map(Vec::as_slice));
        self.until.unwrap_or(Timestamp::MAX).min(ends)
    }
}

/// When the first authority of these names ends. TLS asks no authority for its own time.
fn earliest<'a>(ends: &Ends, issuers: impl Iterator<Item = &'a [u8]>) -> Timestamp {
    issuers.filter_map(|issuer| ends.get(issuer)).min().copied().unwrap_or(Timestamp::MAX)
}

/// One CA of a file, valid now.
struct Authority {
    certificate: CertificateDer<'static>,
    /// DER.
    subject: Vec<u8>,
    until: Timestamp,
}

/// What one CA has revoked.
struct Revoked {
    list: CertificateRevocationListDer<'static>,
    /// DER; two lists of one CA have the same.
    issuer: Vec<u8>,
    /// The same for people.
    name: String,
    /// From when on it is out of date.
    until: Timestamp,
}

fn second_list(file: &Path, issuer: &str) -> Problem {
    let what = format!("this is a second list of the CA {issuer}, and only one of a CA is read");
    Problem::of_file(file, what)
        .with_hint("keep the newest alone; `openssl crl -noout -crlnumber -lastupdate` tells which it is")
}

/// The certificates of a file, each of a CA; those that are not valid now are left out.
fn authorities(file: &Path, own_ca: &Path, notes: &mut Vec<String>) -> Result<Vec<Authority>, Problem> {
    let text = bytes(file)?;
    let hint = "write the CA's certificates in PEM form (`-----BEGIN CERTIFICATE-----`)";
    let problem = |what: String| Problem::of_file(file, what).with_hint(hint);
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| problem(error.to_string()))?;
    if found.is_empty() {
        return Err(problem("it holds no certificate".into()));
    }
    let own = fs::read(own_ca).ok().and_then(|text| CertificateDer::from_pem_slice(&text).ok());
    let mut valid = Vec::new();
    for one in found {
        let (_, read) = X509Certificate::from_der(&one)
            .map_err(|error| problem(format!("a certificate cannot be read: {error}")))?;
        if !read.is_ca() {
            let what = format!("{} is not the certificate of a CA", read.subject());
            return Err(problem(what));
        }
        if own.as_ref() == Some(&one) {
            let what = "this is the guard's own CA, which vouches for the guard and for no client";
            return Err(
                Problem::of_file(file, what).with_hint("name the CA that makes the agents' certificates")
            );
        }
        let until = Timestamp::from_second(read.validity().not_after.timestamp());
        let until = until.map_err(|_error| problem(format!("the CA {} has no end", read.subject())))?;
        if !read.validity().is_valid() || until <= Timestamp::now() {
            notes.push(format!(
                "{}: the CA {} is not valid now and vouches for nobody; it is looked at again at a reload",
                file.display(),
                read.subject()
            ));
            continue;
        }
        let subject = read.subject().as_raw().to_vec();
        valid.push(Authority { certificate: one.clone(), subject, until });
    }
    Ok(valid)
}

fn revoked(file: &Path, notes: &mut Vec<String>) -> Result<Vec<Revoked>, Problem> {
    let text = bytes(file)?;
    let hint = "write what the CA publishes, in PEM form (`-----BEGIN X509 CRL-----`)";
    let problem = |what: String| Problem::of_file(file, what).with_hint(hint);
    let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&text).collect();
    let found = found.map_err(|error| problem(error.to_string()))?;
    if found.is_empty() {
        return Err(problem("it holds no list of revoked certificates".into()));
    }
    let mut lists = Vec::new();
    for list in found {
        let (_, read) = CertificateRevocationList::from_der(&list)
            .map_err(|error| problem(format!("it cannot be read: {error}")))?;
        let until = read.next_update().and_then(|time| Timestamp::from_second(time.timestamp()).ok());
        let until =
            until.ok_or_else(|| problem("it does not say when the next one comes (nextUpdate)".into()))?;
        if until <= Timestamp::now() {
            // Who shows no certificate must not be kept out by it.
            notes.push(format!(
                "{}: it is out of date since {until}: no client certificate is taken until there is a new one",
                file.display()
            ));
        }
        let (issuer, name) = (read.issuer().as_raw().to_vec(), read.issuer().to_string());
        lists.push(Revoked { list: list.clone(), issuer, name, until });
    }
    Ok(lists)
}

fn bytes(file: &Path) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: std::io::Error| {
        Problem::of_file(file, format!("cannot be read: {error}"))
            .with_hint("paths count from the directory of guard.yaml")
    };
    let metadata = fs::metadata(file).map_err(unreadable)?;
    if let Some((who, mend)) = others_may_write(&metadata) {
        let what = format!("{who} may write this file, and so say whose certificates are good");
        return Err(Problem::of_file(file, what).with_hint(format!("run `{mend} {}`", file.display())));
    }
    read_bounded(file, CLIENT_CA_BYTES_MAX).map_err(unreadable)
}

/// What the inner one takes, if it says that it is for clients: one that is for anything is not.
#[derive(Debug)]
struct ForClients {
    inner: Arc<dyn ClientCertVerifier>,
    ends: Arc<Ends>,
}

impl ClientCertVerifier for ForClients {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.inner.root_hint_subjects()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.inner.client_auth_mandatory()
    }

    fn verify_client_cert(
        &self,
        own: &CertificateDer<'_>,
        others: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        let verified = self.inner.verify_client_cert(own, others, now)?;
        let issuers: Vec<_> = [own].into_iter().chain(others).filter_map(super::issuer).collect();
        let ends = earliest(&self.ends, issuers.iter().map(Vec::as_slice));
        if u64::try_from(ends.as_second()).unwrap_or_default() <= now.as_secs() {
            return Err(CertificateError::UnknownIssuer.into());
        }
        let read = X509Certificate::from_der(own).ok().map(|(_, read)| read);
        let usage = read.as_ref().and_then(|read| read.extended_key_usage().ok().flatten());
        if usage.is_some_and(|usage| usage.value.client_auth) {
            return Ok(verified);
        }
        Err(CertificateError::InvalidPurpose.into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls12_signature(message, own, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        own: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.inner.verify_tls13_signature(message, own, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.inner.supported_verify_schemes()
    }
}
