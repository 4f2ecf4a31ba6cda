//! Who calls: what the rest of the guard knows of an agent.

use std::sync::Arc;

use jiff::Timestamp;

use super::{
    Certificate, CertificateFault, CertificateName, Clients, CredentialId, ProcessRule, TokenFault,
    Unidentified, Voucher,
};
use crate::config::Scope;
use crate::kernel::Client;
use crate::kernel::process::FileDigest;
use crate::types::{AgentName, ClientId, ProfileName, UserName};

/// An agent that proved to be one. Only [`Shown`](super::Shown) makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub(super) agent: AgentName,
    pub(super) client: ClientId,
    pub(super) profile: ProfileName,
    pub(super) proof: Proof,
    /// The certificate of its connection, if its entry asks for it.
    pub(super) certificate: Option<Arc<Certificate>>,
    /// Beside that, its process is the one that its entry asks for.
    pub(super) is_witnessed: bool,
}

/// What proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A credential that the guard issued.
    Secret { credential: CredentialId, expires: Option<Timestamp> },
    /// A token that another issuer signed.
    Token(Voucher),
    /// A certificate, by its name in records, maybe with its process.
    Certificate(CredentialId),
    /// Its process alone.
    Process,
}

impl Caller {
    pub fn agent(&self) -> &AgentName {
        &self.agent
    }

    pub fn client(&self) -> &ClientId {
        &self.client
    }

    pub fn profile(&self) -> &ProfileName {
        &self.profile
    }

    pub fn proof(&self) -> &Proof {
        &self.proof
    }

    /// For whom it works, by the word of its token's issuer.
    pub fn user(&self) -> Option<&UserName> {
        if let Proof::Token(voucher) = &self.proof { voucher.user.as_ref() } else { None }
    }

    /// What its token may be used for; none if it is not known by a token.
    pub fn scopes(&self) -> Option<&[Scope]> {
        if let Proof::Token(voucher) = &self.proof { Some(&voucher.scopes) } else { None }
    }

    pub fn is_by_token(&self) -> bool {
        matches!(self.proof, Proof::Token(_))
    }

    /// Names the credential, the token or the certificate in records; it is no secret. `None`: the agent is known by its process.
    pub fn credential(&self) -> Option<&CredentialId> {
        match &self.proof {
            Proof::Secret { credential, .. } => Some(credential),
            Proof::Token(voucher) => Some(&voucher.id),
            Proof::Certificate(id) => Some(id),
            Proof::Process => None,
        }
    }

    /// Whether what it showed is still good: a body may come long after the head that had it.
    pub fn check_expiry(&self, now: Timestamp) -> Result<(), Unidentified> {
        match &self.proof {
            Proof::Secret { expires: Some(expires), .. } if *expires <= now => Err(Unidentified::Expired),
            Proof::Token(voucher) if voucher.expires <= now => Err(TokenFault::Expired.into()),
            _ if self.certificate.as_ref().is_some_and(|certificate| certificate.expires() <= now) => {
                Err(CertificateFault::Expired.into())
            }
            _ => Ok(()),
        }
    }

    /// How the agent proved it.
    pub fn evidence(&self) -> &'static str {
        match (&self.proof, self.certificate.is_some(), self.is_witnessed) {
            (Proof::Secret { .. }, true, true) => "client_secret+certificate+process",
            (Proof::Secret { .. }, true, false) => "client_secret+certificate",
            (Proof::Secret { .. }, false, true) => "client_secret+process",
            (Proof::Secret { .. }, false, false) => "client_secret",
            (Proof::Token(_), true, true) => "token+certificate+process",
            (Proof::Token(_), true, false) => "token+certificate",
            (Proof::Token(_), false, true) => "token+process",
            (Proof::Token(_), false, false) => "token",
            (Proof::Certificate(_), _, true) => "certificate+process",
            (Proof::Certificate(_), _, false) => "certificate",
            (Proof::Process, ..) => "process",
        }
    }

    /// The certificate of its connection, if its entry asks for one.
    pub fn certificate(&self) -> Option<&Certificate> {
        self.certificate.as_deref()
    }

    /// Whether its connection showed the certificate that the agent's entry asks for, and `clients` vouch for it `now`.
    pub fn certify(
        &mut self,
        name: &CertificateName,
        shown: Option<&Arc<Certificate>>,
        (clients, now): (&Clients, Timestamp),
    ) -> Result<(), Unidentified> {
        let shown = shown.ok_or(CertificateFault::Missing)?;
        if !shown.names()?.contains(name) {
            return Err(CertificateFault::Wrong.into());
        }
        clients.check(shown, now)?;
        self.certificate = Some(Arc::clone(shown));
        Ok(())
    }

    /// Whether the process that sent the credential is the one that the agent's entry asks for. `digest` is that of its
    /// executable, if it is known.
    pub fn witness(
        &mut self,
        rule: &ProcessRule,
        client: &Client,
        digest: Option<&FileDigest>,
    ) -> Result<(), Unidentified> {
        rule.check(client, digest)?;
        self.is_witnessed = true;
        Ok(())
    }
}
