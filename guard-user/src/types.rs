//! Names that more than one stage uses. Each has one fallible constructor; a value of the type is a valid name.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

mod uptime;

pub use uptime::Uptime;

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
    /// How confidential data is, such as `confidential`.
    LabelName
);
name!(
    /// The meaning of a call, such as `financial.refund.process`.
    IntentName
);

/// Longest name of a user, in bytes.
pub const USER_BYTES_MAX: usize = 255;

/// The person for whom an agent works, as the issuer of its token names that person: a claim's text, byte for byte. In ASCII
/// that prints, so that what is read in a record or on a terminal is what was compared.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UserName(Arc<str>);

/// Why a text names no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a user's name has 1 to {USER_BYTES_MAX} characters of ASCII that print, and no blank")]
pub struct NotAUser;

impl UserName {
    pub fn parse(text: &str) -> Result<Self, NotAUser> {
        let is_user =
            (1..=USER_BYTES_MAX).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        if is_user { Ok(Self(text.into())) } else { Err(NotAUser) }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for UserName {
    type Error = NotAUser;
    fn try_from(text: String) -> Result<Self, NotAUser> {
        Self::parse(&text)
    }
}

impl From<UserName> for String {
    fn from(name: UserName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

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

/// The session in which a call comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Within {
    /// Nobody knows of any.
    #[default]
    Unknown,
    Nothing,
    Session {
        /// Calls before this one; `None`: it is older than the guard.
        calls: Option<u64>,
        /// Since it was opened.
        milliseconds: u64,
    },
}

impl Within {
    /// A session that has had so many calls and is so old.
    pub fn of(calls: u64, minutes: u64) -> Self {
        Self::Session { calls: Some(calls), milliseconds: minutes.saturating_mul(60_000) }
    }
}

/// The way to an argument: names of members, outermost first.
pub type ArgumentPath = [Box<str>];

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

    #[test]
    fn a_user_is_named_in_ascii_that_prints() {
        for name in ["alice@corp.example", "auth0|5f7c8ec7c33c6c004bbafe82", &"u".repeat(USER_BYTES_MAX)] {
            assert_eq!(UserName::parse(name).unwrap().as_str(), name);
        }
        let long = "u".repeat(USER_BYTES_MAX + 1);
        for name in ["", " ", "alice smith", "alice\n", "alice\0", "\u{430}lice", "a\u{200b}b", long.as_str()]
        {
            assert_eq!(UserName::parse(name), Err(NotAUser), "{name:?}");
        }
    }
}
