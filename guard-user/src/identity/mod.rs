//! Which agent is calling, and by what evidence.
//!
//! The evidence is three headers: `X-Client-ID`, `X-Profile-ID` and `Authorization: Bearer mcpg_...`. A credential works
//! with its own client and profile only and, where the agent's entry says so, in one process only. This module must not
//! know what an agent may do.

mod credentials;
mod process;
mod secret;
mod store;

use http::header::{AUTHORIZATION, HeaderMap};

pub use credentials::{Credential, CredentialId, Credentials};
pub use process::{ProcessRule, WrongProcess};
pub use secret::{Secret, SecretError};
pub use store::{CREDENTIALS_FILE, Issued, StoreError, issue, revoke};

use crate::kernel::Client;
use crate::kernel::process::FileDigest;
use crate::types::{AgentName, ClientId, ProfileName};

/// The header with the client's name.
pub const CLIENT_HEADER: &str = "x-client-id";
/// The header with the profile's name.
pub const PROFILE_HEADER: &str = "x-profile-id";

/// An agent that proved to be one. Only [`identify`] makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    agent: AgentName,
    client: ClientId,
    profile: ProfileName,
    credential: CredentialId,
    /// Its process is the one that its entry asks for.
    is_witnessed: bool,
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

    /// Names the credential in records; it is no secret.
    pub fn credential(&self) -> &CredentialId {
        &self.credential
    }

    /// How the agent proved it.
    pub fn evidence(&self) -> &'static str {
        if self.is_witnessed { "client_secret+process" } else { "client_secret" }
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

/// Why a request is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unidentified {
    #[error("the request has no Authorization header; send `Authorization: Bearer mcpg_...`")]
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
        "the credential belongs to another client or profile; send the X-Client-ID and X-Profile-ID it was issued with"
    )]
    WrongClientOrProfile,
    #[error("the policy has no agent with this client and profile any more; a new credential is needed")]
    UnknownAgent,
    #[error("the credential is known, but {0}")]
    WrongProcess(#[from] WrongProcess),
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
            Self::UnknownAgent => "unknown_agent",
            Self::WrongProcess(_) => "wrong_process",
        }
    }
}

/// Who sent `headers`. `is_entered` tells whether the policy has the agent with that client and profile.
pub fn identify(
    headers: &HeaderMap,
    credentials: &Credentials,
    is_entered: impl FnOnce(&AgentName, &ClientId, &ProfileName) -> bool,
) -> Result<Caller, Unidentified> {
    let authorization = single(headers, AUTHORIZATION.as_str(), "Authorization is there more than once")?
        .ok_or(Unidentified::NoCredential)?;
    let secret =
        bearer(authorization).ok_or(Unidentified::Malformed("Authorization must be `Bearer mcpg_...`"))?;
    let client = single(headers, CLIENT_HEADER, "X-Client-ID is there more than once")?
        .ok_or(Unidentified::MissingHeader("X-Client-ID"))?;
    let profile = single(headers, PROFILE_HEADER, "X-Profile-ID is there more than once")?
        .ok_or(Unidentified::MissingHeader("X-Profile-ID"))?;
    let credential = credentials.find(&secret).ok_or(Unidentified::UnknownCredential)?;
    if credential.client().as_str().as_bytes() != client
        || credential.profile().as_str().as_bytes() != profile
    {
        return Err(Unidentified::WrongClientOrProfile);
    }
    if !is_entered(credential.agent(), credential.client(), credential.profile()) {
        return Err(Unidentified::UnknownAgent);
    }
    Ok(Caller {
        agent: credential.agent().clone(),
        client: credential.client().clone(),
        profile: credential.profile().clone(),
        credential: credential.id().clone(),
        is_witnessed: false,
    })
}

/// The one value of a header. Two are refused: each reader would take the one it likes.
fn single<'h>(
    headers: &'h HeaderMap,
    name: &str,
    twice: &'static str,
) -> Result<Option<&'h [u8]>, Unidentified> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(Unidentified::Malformed(twice));
    }
    Ok(first.map(http::HeaderValue::as_bytes))
}

fn bearer(value: &[u8]) -> Option<Secret> {
    let (scheme, token) = std::str::from_utf8(value).ok()?.split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    Secret::parse(token).ok()
}

#[cfg(test)]
mod tests;
