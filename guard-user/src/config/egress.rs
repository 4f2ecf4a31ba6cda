//! A server's lock-down: where it may connect, and what becomes of other ports that it listens on.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU16;

use serde::{Deserialize, Serialize};

/// Longest name of a host, in bytes (RFC 1035).
const NAME_BYTES_MAX: usize = 253;

/// The `egress` of a server's entry.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Egress {
    /// What holds for destinations that `except` does not name.
    pub default: Answer,
    /// Destinations for which the other thing holds.
    pub except: Vec<Destination>,
}

/// Whether a server may connect somewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Answer {
    #[default]
    Allow,
    Deny,
}

/// What becomes of another port on which a server begins to listen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherPorts {
    /// It is open, and told of.
    #[default]
    Report,
    /// It is protected like the server's own.
    Protect,
    /// Nobody reaches it.
    Deny,
}

/// One destination: `10.0.0.0/8:443`, `[2001:db8::/32]:*`, `api.example.com:443` or `*:53`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Destination {
    pub host: Host,
    /// None: every port.
    pub port: Option<NonZeroU16>,
}

/// Which hosts a destination means.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    Any,
    /// A network: its address and the bits of it that count.
    Net(IpAddr, u8),
    /// Resolved by the guard, again and again.
    Name(String),
}

/// What is wrong with a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no destination; write NETWORK:PORT, such as 10.0.0.0/8:443, [2001:db8::/32]:*, api.example.com:443 or *:53"
)]
pub struct DestinationError(String);

impl Destination {
    pub fn parse(text: &str) -> Result<Self, DestinationError> {
        let wrong = || DestinationError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = match port {
            "*" => None,
            number => Some(number.parse().map_err(|_not_a_port| wrong())?),
        };
        let host = match host.strip_prefix('[').map(|rest| rest.strip_suffix(']')) {
            Some(inner) => network(inner.ok_or_else(wrong)?).filter(|(ip, _)| ip.is_ipv6()),
            None if host == "*" => return Ok(Self { host: Host::Any, port }),
            None if is_name(host) => return Ok(Self { host: Host::Name(host.to_ascii_lowercase()), port }),
            None => network(host).filter(|(ip, _)| ip.is_ipv4()),
        };
        let (ip, prefix) = host.ok_or_else(wrong)?;
        Ok(Self { host: Host::Net(ip, prefix), port })
    }
}

/// An address with the bits of it that count; none if bits beyond them are set, since one of the two must be a mistake.
fn network(text: &str) -> Option<(IpAddr, u8)> {
    let (ip, prefix) = text.split_once('/').map_or((text, None), |(ip, prefix)| (ip, Some(prefix)));
    let ip: IpAddr = ip.parse().ok()?;
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    let prefix = prefix.map_or(Ok(bits), str::parse).ok().filter(|prefix| *prefix <= bits)?;
    let value = match ip {
        IpAddr::V4(v4) => u128::from(v4.to_bits()) << 96,
        IpAddr::V6(v6) => v6.to_bits(),
    };
    let beyond = value.checked_shl(prefix.into()).unwrap_or(0);
    (beyond == 0).then_some((ip, prefix))
}

/// Letters, digits, '-' and '.', not all of the last label digits: that would be an address gone wrong.
fn is_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    text.len() <= NAME_BYTES_MAX
        && text.split('.').all(is_label)
        && text.rsplit('.').next().is_some_and(|last| !last.bytes().all(|b| b.is_ascii_digit()))
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Any => f.write_str("*")?,
            Host::Net(ip, prefix) if ip.is_ipv4() => write!(f, "{ip}/{prefix}")?,
            Host::Net(ip, prefix) => write!(f, "[{ip}/{prefix}]")?,
            Host::Name(name) => f.write_str(name)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

impl TryFrom<String> for Destination {
    type Error = DestinationError;
    fn try_from(text: String) -> Result<Self, DestinationError> {
        Self::parse(&text)
    }
}

impl From<Destination> for String {
    fn from(destination: Destination) -> Self {
        destination.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_destination_is_read_and_written() {
        for (text, again) in [
            ("10.0.0.0/8:443", "10.0.0.0/8:443"),
            ("127.0.0.1:*", "127.0.0.1/32:*"),
            ("0.0.0.0/0:53", "0.0.0.0/0:53"),
            ("[2001:db8::/32]:*", "[2001:db8::/32]:*"),
            ("[::1]:80", "[::1/128]:80"),
            ("[::/0]:*", "[::/0]:*"),
            ("API.example.com:443", "api.example.com:443"),
            ("localhost:1", "localhost:1"),
            ("*:53", "*:53"),
        ] {
            let read = Destination::parse(text).unwrap();
            assert_eq!(read.to_string(), again);
            assert_eq!(Destination::parse(again).unwrap(), read);
        }
    }

    #[test]
    fn what_could_mean_two_things_is_refused() {
        for text in [
            "",
            "10.0.0.0/8",
            "10.0.0.1/8:443",
            "10.0.0.0/33:443",
            "10.0.0:443",
            "10.0.0.0/8:0",
            "10.0.0.0/8:65536",
            "::1:80",
            "[10.0.0.1]:80",
            "[2001:db8::1/32]:*",
            "[::1:80",
            "-a.example:1",
            "a..example:1",
            "https://a.example:1",
            ":53",
        ] {
            assert!(Destination::parse(text).is_err(), "{text}");
        }
    }
}
