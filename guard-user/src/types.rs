//! Names that more than one stage uses. Each has one fallible constructor; a value of the type is a valid name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Longest configured name (server, agent, profile, intent), in bytes.
pub const NAME_BYTES_MAX: usize = 128;

/// Why a text is not a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    #[error("a name must not be empty")]
    Empty,
    #[error("a name has at most {NAME_BYTES_MAX} bytes, this one has {0}")]
    TooLong(usize),
    #[error("{0:?} is not allowed in a name; use letters, digits, '.', '_', '-', '/' and ':'")]
    Character(char),
}

fn checked(text: &str) -> Result<Arc<str>, NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > NAME_BYTES_MAX {
        return Err(NameError::TooLong(text.len()));
    }
    match text.chars().find(|c| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-' | '/' | ':')) {
        Some(bad) => Err(NameError::Character(bad)),
        None => Ok(text.into()),
    }
}

macro_rules! name {
    ($(#[$doc:meta])* $Name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $Name(Arc<str>);

        impl $Name {
            pub fn parse(text: &str) -> Result<Self, NameError> {
                checked(text).map(Self)
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $Name {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::parse(&text)
            }
        }

        impl From<$Name> for String {
            fn from(name: $Name) -> Self {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $Name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $Name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

name!(
    /// A protected server, by its name in `guard.yaml`.
    ServerName
);
name!(
    /// An agent, by its name in the policy.
    AgentName
);
name!(
    /// What an agent calls itself in `X-Client-ID`.
    ClientId
);
name!(
    /// The profile that an agent asks for in `X-Profile-ID`.
    ProfileName
);
name!(
    /// An issuer of signed tokens, by its name in `guard.yaml`.
    IssuerName
);
name!(
    /// The meaning of a call, such as `financial.refund.process`.
    IntentName
);

/// Names one decision in the reply to the agent, in the audit trail and in the logs: 16 random bytes in hex.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DecisionId(pub [u8; 16]);

impl DecisionId {
    pub fn random() -> Self {
        let mut id = [0; 16];
        // It fails only on a system that could not have done a TLS handshake; the record's number is unique anyway.
        let _filled = aws_lc_rs::rand::fill(&mut id);
        Self(id)
    }
}

impl fmt::Display for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for DecisionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A client process on this host, as the kernel saw it when it called `connect`.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct LocalProcess {
    /// Thread-group id in the initial pid namespace.
    pub pid: u32,
    pub uid: u32,
    pub gid: u32,
    /// cgroup2 id (the inode number of the cgroup's directory).
    pub cgroup: u64,
    /// The kernel's `comm`: at most 15 bytes, chosen by the process, so a hint and never evidence.
    pub comm: String,
    /// The kernel's number of the socket; no other socket of this boot has it.
    pub cookie: u64,
    /// When it called `connect`, in nanoseconds since the host's boot.
    pub connected_at: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_parsed_or_refused_with_its_fault() {
        assert_eq!(AgentName::parse("support-agent").unwrap().as_str(), "support-agent");
        assert_eq!(AgentName::parse(""), Err(NameError::Empty));
        assert_eq!(AgentName::parse(&"a".repeat(129)), Err(NameError::TooLong(129)));
        assert_eq!(AgentName::parse("a b"), Err(NameError::Character(' ')));
        assert_eq!(AgentName::parse("a\u{202e}"), Err(NameError::Character('\u{202e}')));
    }
}
