//! Which agent is calling, and by what evidence.
//!
//! The evidence is what the agent's entry needs: three headers (`X-Client-ID`, `X-Profile-ID` and `Authorization: Bearer
//! mcpg_...`), of which a credential works with its own client and profile only; a token that another issuer signed; the
//! certificate that its client showed in the TLS handshake; the process that the kernel saw connecting; or several of them. This
//! module must not know what an agent may do.

mod caller;
mod certificate;
mod credentials;
mod process;
mod secret;
mod shown;
mod store;
mod token;

pub use caller::{Caller, Proof};
pub use certificate::{
    CLIENT_CA_BYTES_MAX, Certificate, CertificateFault, CertificateName, Clients, NotASubject, NotAnId,
    SpiffeId, Subject,
};
pub use credentials::{Credential, CredentialId, Credentials};
pub use process::{ProcessRule, WrongProcess};
pub use secret::{Secret, SecretError, is_guards};
pub use shown::{CLIENT_HEADER, Candidate, Entry, PROFILE_HEADER, Shown};
pub use store::{CREDENTIALS_FILE, Issued, Recipient, Rotated, StoreError, issue, revoke, rotate};
pub use token::{
    Addressed, Fresh, Issuers, JWKS_BYTES_MAX, JWKS_KEYS_MAX, KeyDigest, KeySet, Published, TOKEN_BYTES_MAX,
    TokenFault, Voucher, Wanted,
};

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unidentified {
    #[error(
        "the request has no Authorization header; send `Bearer` with the secret (`mcpg_...`) or the signed token"
    )]
    NoCredential,
    #[error("{0}")]
    Malformed(&'static str),
    #[error("the request has no {0} header; send the one that its credential was issued with")]
    MissingHeader(&'static str),
    #[error(
        "the credential is not known; it may have been revoked, or the guard has not been reloaded since it was issued"
    )]
    UnknownCredential,
    #[error(
        "the credential belongs to another client or profile; send the X-Client-ID and X-Profile-ID it was issued with; a token \
         or certificate needs none"
    )]
    WrongClientOrProfile,
    #[error("the credential has expired; `mcp-guard tokens rotate` makes the next one before that")]
    Expired,
    #[error("the policy has no agent with this client and profile any more; a new credential is needed")]
    UnknownAgent,
    #[error(
        "the agent's entry needs no secret any more, so this credential proves nothing; send no X-Client-ID, X-Profile-ID and \
         Authorization of the guard's"
    )]
    SecretNotNeeded,
    #[error(
        "the request shows no secret of the guard's (`Authorization: Bearer mcpg_...`), and the process that sent it is none \
         by which an agent is known"
    )]
    UnknownProcess,
    #[error("the credential is known, but {0}")]
    WrongProcess(#[from] WrongProcess),
    #[error(
        "more than one agent's entry fits this process or certificate; send the X-Client-ID of the one that calls"
    )]
    SeveralAgents,
    #[error(
        "a process or certificate alone does not prove which agent calls when the request has an Origin or Sec-Fetch-Site header, or goes \
         without TLS to another name than localhost: any web page that a browser shows could have sent it"
    )]
    WebPage,
    #[error("{0}")]
    Token(#[from] TokenFault),
    #[error("the token is good, and the policy has no agent with its subject")]
    UnknownSubject,
    #[error("{0}")]
    Certificate(#[from] CertificateFault),
}

impl Unidentified {
    /// Its name in audit records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoCredential => "no_credential",
            Self::Malformed(_) => "malformed_credential",
            Self::MissingHeader(_) => "missing_header",
            Self::UnknownCredential => "unknown_credential",
            Self::WrongClientOrProfile => "wrong_client_or_profile",
            Self::Expired => "expired_credential",
            Self::UnknownAgent => "unknown_agent",
            Self::SecretNotNeeded => "secret_not_needed",
            Self::UnknownProcess => "unknown_process",
            Self::WrongProcess(_) => "wrong_process",
            Self::SeveralAgents => "several_agents",
            Self::WebPage => "web_page",
            Self::Token(fault) => fault.as_str(),
            Self::UnknownSubject => "unknown_subject",
            Self::Certificate(fault) => fault.as_str(),
        }
    }
}

#[cfg(test)]
mod tests;
