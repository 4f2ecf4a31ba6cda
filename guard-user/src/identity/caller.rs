//! Who calls: what the rest of the guard knows of an agent.

use jiff::Timestamp;

use super::{CredentialId, ProcessRule, Unidentified};
use crate::kernel::Client;
use crate::kernel::process::FileDigest;
use crate::types::{AgentName, ClientId, ProfileName};

/// An agent that proved to be one. Only [`Shown`](super::Shown) makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub(super) agent: AgentName,
    pub(super) client: ClientId,
    pub(super) profile: ProfileName,
    pub(super) proof: Proof,
}

/// What proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Proof {
    Secret {
        credential: CredentialId,
        expires: Option<Timestamp>,
        /// Its process is the one that its entry asks for.
        is_witnessed: bool,
    },
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

    /// Names the credential in records; it is no secret. `None`: the agent is known by its process.
    pub fn credential(&self) -> Option<&CredentialId> {
        match &self.proof {
            Proof::Secret { credential, .. } => Some(credential),
            Proof::Process => None,
        }
    }

    /// From when on what it showed proves nothing; `None`: that is not known beforehand.
    pub fn expires(&self) -> Option<Timestamp> {
        match self.proof {
            Proof::Secret { expires, .. } => expires,
            Proof::Process => None,
        }
    }

    /// How the agent proved it.
    pub fn evidence(&self) -> &'static str {
        match self.proof {
            Proof::Secret { is_witnessed: true, .. } => "client_secret+process",
            Proof::Secret { is_witnessed: false, .. } => "client_secret",
            Proof::Process => "process",
        }
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
        if let Proof::Secret { is_witnessed, .. } = &mut self.proof {
            *is_witnessed = true;
        }
        Ok(())
    }
}
