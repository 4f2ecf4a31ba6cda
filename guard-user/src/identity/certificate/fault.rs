//! Every way in which a client certificate proves nothing.

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
