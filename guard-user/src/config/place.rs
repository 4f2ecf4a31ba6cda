//! Where a protected server runs: which network namespace its port is in.

use std::fmt;
use std::num::NonZeroU32;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Digits of a container's id that name it without doubt; engines print this many.
const CONTAINER_DIGITS_MIN: usize = 12;
/// All digits of a container's id.
const CONTAINER_DIGITS_MAX: usize = 64;
/// Longest name of a unit, in bytes (`UNIT_NAME_MAX` of systemd).
const UNIT_BYTES_MAX: usize = 255;

/// The `in` of a server's entry. Left out: the guard's own network namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Place {
    #[default]
    Host,
    /// A file that stands for the namespace, such as `/run/netns/blue`.
    Netns(PathBuf),
    /// The namespaces of the processes of this container.
    Container(ContainerId),
    /// The namespaces of the processes of this systemd unit.
    Unit(UnitName),
    /// The namespace of this process.
    Pid(NonZeroU32),
}

impl Place {
    /// Whether its processes are found by the name of their cgroup.
    pub fn is_by_cgroup(&self) -> bool {
        matches!(self, Self::Container(_) | Self::Unit(_))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host => f.write_str("host"),
            Self::Netns(path) => write!(f, "netns {}", path.display()),
            Self::Container(id) => write!(f, "container {}", id.short()),
            Self::Unit(name) => write!(f, "unit {}", name.0),
            Self::Pid(pid) => write!(f, "pid {pid}"),
        }
    }
}

/// The id of a container, or its beginning: 12 to 64 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if !text.bytes().all(is_digit) || !(CONTAINER_DIGITS_MIN..=CONTAINER_DIGITS_MAX).contains(&text.len())
        {
            return Err(PlaceError::Container(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Whether this is the container of a cgroup with this name: engines put the whole id there, between words of
    /// their own (`docker-<id>.scope`, `libpod-<id>.scope`, `cri-containerd-<id>.scope`, or nothing but the id).
    pub fn is_of(&self, cgroup: &str) -> bool {
        cgroup
            .split(|c: char| !c.is_ascii_digit() && !('a'..='f').contains(&c))
            .any(|run| run.len() == CONTAINER_DIGITS_MAX && run.starts_with(&self.0))
    }

    fn short(&self) -> &str {
        self.0.get(..CONTAINER_DIGITS_MIN).unwrap_or(&self.0)
    }
}

/// The name of a systemd unit, with its kind: `crm.service`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct UnitName(String);

impl UnitName {
    pub fn parse(text: &str) -> Result<Self, PlaceError> {
        let is_fit = |b: u8| b.is_ascii_alphanumeric() || b":_.\\@-".contains(&b);
        let has_kind = [".service", ".scope", ".slice"]
            .iter()
            .any(|kind| text.strip_suffix(kind).is_some_and(|name| !name.is_empty()));
        if !has_kind || text.len() > UNIT_BYTES_MAX || !text.bytes().all(is_fit) {
            return Err(PlaceError::Unit(text.to_owned()));
        }
        Ok(Self(text.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text names no place.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    #[error(
        "{0:?} is no container's id: write 12 to 64 digits of it, as `docker ps` or `podman ps` shows them"
    )]
    Container(String),
    #[error("{0:?} is no unit's name: write it with its kind, such as crm.service")]
    Unit(String),
}

macro_rules! text {
    ($($Name:ident),*) => {$(
        impl TryFrom<String> for $Name {
            type Error = PlaceError;
            fn try_from(text: String) -> Result<Self, PlaceError> {
                Self::parse(&text)
            }
        }

        impl From<$Name> for String {
            fn from(name: $Name) -> Self {
                name.0
            }
        }
    )*};
}

text!(ContainerId, UnitName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_container_is_known_by_the_beginning_of_its_id_wherever_an_engine_puts_it() {
        let id = "0123456789abcdef".repeat(4);
        let short = ContainerId::parse("0123456789ab").unwrap();
        for name in [id.clone(), format!("docker-{id}.scope"), format!("libpod-{id}.scope")] {
            assert!(short.is_of(&name), "{name}");
        }
        let other = "f".repeat(64);
        for name in ["docker-0123456789ab.scope", "system.slice", &format!("x{id}0"), &other] {
            assert!(!short.is_of(name), "{name}");
        }
        for bad in ["", "0123456789a", "0123456789AB", "../../etc/x12", &"a".repeat(65)] {
            assert!(ContainerId::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_unit_has_a_name_and_a_kind() {
        for good in ["crm.service", "crm@1.service", "run-r12.scope"] {
            assert_eq!(UnitName::parse(good).unwrap().as_str(), good);
        }
        for bad in ["", "crm", ".service", "a/b.service", "crm.timer", "a b.service"] {
            assert!(UnitName::parse(bad).is_err(), "{bad}");
        }
    }
}
