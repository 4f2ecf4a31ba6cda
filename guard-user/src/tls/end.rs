//! The handshake, and certificates that change while connections go on.

use std::fs::File;
use std::io::{self, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::authority::{Authority, CA_FILE};
use super::lines::Lines;
use super::{Error, names};
use crate::config::{self, Problem};
use crate::types::ServerName;

/// The first byte of a TLS connection: a handshake record.
const TLS_HANDSHAKE_RECORD: u8 = 0x16;

/// The guard's end of TLS. Cheap to share; [`TlsEnd::install`] changes what later handshakes use.
pub struct TlsEnd {
    settings: config::Tls,
    dir: PathBuf,
    current: ArcSwap<Fresh>,
    /// Handshakes that failed for the client's certificate.
    refused: AtomicU64,
    /// The lines about them.
    lines: Lines,
}

/// A certificate that is good to use.
#[must_use]
pub struct Fresh {
    config: Arc<ServerConfig>,
    /// SHA-256 of it, in hex.
    digest: String,
}

impl Fresh {
    /// SHA-256 of the certificate, in hex.
    pub fn digest(&self) -> &str {
        &self.digest
    }
}

/// Looks at the certificates of clients; none: clients are not asked for one.
pub type ClientVerifier = Option<Arc<dyn ClientCertVerifier>>;

/// A connection whose first layer is settled.
pub enum Secured {
    Tls(Box<TlsStream<TcpStream>>),
    /// The client spoke first and it was not TLS.
    Plain(TcpStream),
}

impl TlsEnd {
    /// Loads the operator's files, or opens (at the first start: makes) the local CA in `dir`.
    pub fn open(settings: &config::Tls, dir: &Path, clients: ClientVerifier) -> Result<Self, Error> {
        let current = ArcSwap::from_pointee(fresh(settings, dir, clients)?);
        Ok(Self {
            settings: settings.clone(),
            dir: dir.to_owned(),
            current,
            refused: AtomicU64::new(0),
            lines: Lines::default(),
        })
    }

    /// Reads the files again, or issues a fresh certificate. Changes nothing yet.
    pub fn prepare(&self, clients: ClientVerifier) -> Result<Fresh, Error> {
        fresh(&self.settings, &self.dir, clients)
    }

    /// Later handshakes use what [`TlsEnd::prepare`] made.
    pub fn install(&self, fresh: Fresh) {
        self.current.store(Arc::new(fresh));
    }

    /// SHA-256 of the certificate in use, in hex.
    pub fn digest(&self) -> String {
        self.current.load().digest.clone()
    }

    /// Handshakes of this guard that failed for the client's certificate.
    pub fn certificates_refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Logs that a connection ended in its handshake. Anybody can show bad certificates, as many as he likes: of those, some only.
    pub fn tell(&self, error: &Error, peer: SocketAddr, server: &ServerName) {
        const WHAT: &str = "a connection ended before its first request";
        if !matches!(error, Error::ClientCertificate(_)) {
            tracing::info!(%peer, %server, %error, "{WHAT}");
        } else if let Some(left_out) = self.lines.admit(self.lines.elapsed()) {
            tracing::warn!(%peer, %server, %error, left_out, "{WHAT}");
        } else {
            tracing::debug!(%peer, %server, %error, "{WHAT}");
        }
    }

    /// `error` as a mistake in the operator's file, or in the local CA's directory.
    pub fn problem(&self, error: &Error) -> Problem {
        error.problem(self.settings.certificate.as_deref().unwrap_or(&self.dir))
    }

    /// The CA that clients must trust, if it is the guard's own.
    pub fn ca_file(&self) -> Option<PathBuf> {
        self.settings.certificate.is_none().then(|| self.dir.join(CA_FILE))
    }

    /// Looks at the first byte and shakes hands if it is TLS. Both together may take `patience`.
    pub async fn secure(&self, io: TcpStream, patience: Duration) -> Result<Secured, Error> {
        let handshake = async {
            let mut first = [0];
            let seen = io.peek(&mut first).await.map_err(Error::Handshake)?;
            if seen == 1 && first[0] != TLS_HANDSHAKE_RECORD {
                return Ok(Secured::Plain(io));
            }
            let acceptor = TlsAcceptor::from(Arc::clone(&self.current.load().config));
            acceptor.accept(io).await.map(|tls| Secured::Tls(Box::new(tls))).map_err(|error| {
                let Some(fault) = of_certificate(&error) else { return Error::Handshake(error) };
                self.refused.fetch_add(1, Ordering::Relaxed);
                Error::ClientCertificate(fault)
            })
        };
        tokio::time::timeout(patience, handshake).await.unwrap_or(Err(Error::Slow))
    }
}

/// What is wrong with the client's certificate, if that is why a handshake failed.
fn of_certificate(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    matches!(error, rustls::Error::InvalidCertificate(_)).then(|| error.to_string())
}

impl Secured {
    /// What the client showed, its own certificate first; empty: nothing.
    pub fn client_chain(&self) -> Vec<CertificateDer<'static>> {
        let Self::Tls(tls) = self else { return Vec::new() };
        let chain = tls.get_ref().1.peer_certificates().unwrap_or_default();
        chain.iter().map(|one| one.clone().into_owned()).collect()
    }

    /// The client chose HTTP/2 in the handshake.
    pub fn is_h2(&self) -> bool {
        matches!(self, Self::Tls(tls) if tls.get_ref().1.alpn_protocol() == Some(b"h2"))
    }
}

fn fresh(settings: &config::Tls, dir: &Path, clients: ClientVerifier) -> Result<Fresh, Error> {
    let (chain, key) = match (&settings.certificate, &settings.key) {
        (Some(certificate), Some(key)) => (read_chain(certificate)?, read_key(key)?),
        (None, None) => Authority::open(dir)?.issue(names::of_this_host(&settings.names))?,
        _ => return Err(Error::HalfPair),
    };
    let digest = hex::encode(Sha256::digest(chain.first().map(AsRef::as_ref).unwrap_or_default()));
    let versions: &[&rustls::SupportedProtocolVersion] = if settings.tls12 {
        &[&rustls::version::TLS13, &rustls::version::TLS12]
    } else {
        &[&rustls::version::TLS13]
    };
    let asks = clients.is_some();
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(clients.unwrap_or_else(WebPkiClientVerifier::no_client_auth))
        .with_single_cert(chain, key)?;
    if asks {
        // A session that is resumed brings its certificate along without showing it.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
    }
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(Fresh { config: Arc::new(config), digest })
}

fn read_chain(path: &Path) -> Result<Vec<CertificateDer<'static>>, Error> {
    match CertificateDer::pem_reader_iter(open(path)?).collect::<Result<Vec<_>, _>>() {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        _ => Err(Error::Pem { path: path.to_owned(), what: "certificate" }),
    }
}

fn read_key(path: &Path) -> Result<PrivateKeyDer<'static>, Error> {
    PrivateKeyDer::from_pem_reader(open(path)?)
        .map_err(|_no_key| Error::Pem { path: path.to_owned(), what: "private key" })
}

fn open(path: &Path) -> Result<BufReader<File>, Error> {
    let file =
        File::open(path).map_err(|source| Error::File { action: "read", path: path.to_owned(), source })?;
    Ok(BufReader::new(file))
}

#[cfg(test)]
mod tests;
