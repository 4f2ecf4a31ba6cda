//! Ends TLS with the operator's certificate or the local CA's.
//!
//! Owns certificates and the handshake. Knows nothing of HTTP beyond the ALPN names `h2` and `http/1.1`.

mod authority;
mod client;
mod end;
mod lines;
mod names;

pub use authority::CA_FILE;
pub use client::{Peer, authorities, client_config};
pub use end::{ClientVerifier, Fresh, Secured, TlsEnd};

use std::io;
use std::path::{Path, PathBuf};

use crate::config::Problem;

/// Why the guard has no certificate to serve, or why a handshake failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot {action} {}: {source}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "{} holds no {what} in PEM form; a certificate's file holds the chain (leaf first), a key's file its private key",
        path.display()
    )]
    Pem { path: PathBuf, what: &'static str },
    #[error(
        "{} may be read or written by others; `chmod 600` it, or remove it for a new CA if somebody may have it",
        .0.display()
    )]
    Exposed(PathBuf),
    #[error("tls.certificate and tls.key belong together, but only one is set in guard.yaml")]
    HalfPair,
    #[error("the certificate and the private key cannot be used: {0}")]
    Unusable(#[from] rustls::Error),
    #[error("cannot make a certificate: {0}; check tls.names in guard.yaml")]
    Make(#[from] rcgen::Error),
    #[error("the handshake took longer than tls_handshake_seconds")]
    Slow,
    #[error("the handshake failed: {0}")]
    Handshake(#[source] io::Error),
    #[error("the client's certificate is refused: {0}")]
    ClientCertificate(String),
}

impl Error {
    /// The same as a mistake in a file: the one it names, or else `place`.
    fn problem(&self, place: &Path) -> Problem {
        match self {
            Self::File { action, path, source } => {
                Problem::of_file(path, format!("cannot {action} it: {source}"))
            }
            Self::Pem { path, what } => Problem::of_file(path, format!("it holds no {what} in PEM form")),
            other => Problem::of_file(place, other.to_string()),
        }
    }
}
