//! To whom something belongs.

use serde::{Deserialize, Serialize};

use crate::identity::Caller;
use crate::kernel::Client;
use crate::types::{AgentName, ClientId, ProfileName, UserName};

/// An agent as it proved to be one: what one of its processes was given is not for another user or unit that has come by
/// its credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    pub agent: AgentName,
    pub client: ClientId,
    pub profile: ProfileName,
    /// For whom it worked: what was given for one user is for no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserName>,
    pub from: Origin,
}

/// Where an agent's requests come from, as far as it can be told for sure.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A process of this host, by its user and its cgroup (the cgroup's number, if its path is not known).
    Process { uid: u32, cgroup: String },
    /// Another host or network namespace. Its address says little: clients move, and share addresses.
    Remote,
    /// On this host, and nobody knows which process.
    Unknown,
}

impl Owner {
    pub fn of(caller: &Caller, client: &Client) -> Self {
        Self {
            agent: caller.agent().clone(),
            client: caller.client().clone(),
            profile: caller.profile().clone(),
            user: caller.user().cloned(),
            from: Origin::of(client),
        }
    }
}

impl Origin {
    fn of(client: &Client) -> Self {
        match client {
            Client::Process(evidence) | Client::Relay { evidence, .. } => Self::Process {
                uid: evidence.process.uid,
                cgroup: evidence
                    .cgroup_path
                    .clone()
                    .unwrap_or_else(|| format!("#{}", evidence.process.cgroup)),
            },
            // Evidence for nobody: whoever is on the link could speak in its place.
            Client::Neighbour { .. } | Client::Remote => Self::Remote,
            Client::UnknownLocal => Self::Unknown,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Process { uid, cgroup } => write!(f, "uid {uid} in {cgroup}"),
            Self::Remote => f.write_str("another host"),
            Self::Unknown => f.write_str("this host, process unknown"),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// An agent on another host.
    pub(in crate::session) fn owner(agent: &str) -> Owner {
        Owner {
            agent: AgentName::parse(agent).unwrap(),
            client: ClientId::parse("client").unwrap(),
            profile: ProfileName::parse("default").unwrap(),
            user: None,
            from: Origin::Remote,
        }
    }
}
