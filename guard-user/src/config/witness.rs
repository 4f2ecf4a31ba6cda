//! Who cosigns the trail's checkpoints: a C2SP witness, where it is and by which key it signs.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use url::{Host, Url};

/// The signature type of cosignatures by Ed25519.
const TYPE_COSIGNATURE: u8 = 0x04;

/// One witness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Witness {
    /// What `/add-checkpoint` is put behind.
    pub url: WitnessUrl,
    pub key: WitnessKey,
    /// PEM certificates of the CAs that may speak for it, in place of those that this host trusts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
}

/// `https://...`, or `http://` to this host itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WitnessUrl(Url);

/// The key of a witness, as it is written: name, id and key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WitnessKey {
    name: String,
    public: [u8; 32],
}

/// Why a text is not a witness's URL or key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WitnessError {
    #[error("a witness's url is https://..., or http:// to an address of this host such as 127.0.0.1")]
    Url,
    #[error("a witness's url has no user, query or fragment")]
    Extra,
    #[error(
        "it is not the key of a witness: one looks like name+8 hex digits+base64, of the type 0x04 (cosignature/v1)"
    )]
    Key,
    #[error("its key id does not belong to its name and public key")]
    KeyId,
}

impl WitnessUrl {
    pub fn parse(text: &str) -> Result<Self, WitnessError> {
        let url = Url::parse(text).map_err(|_no_url| WitnessError::Url)?;
        let is_here = match url.host() {
            Some(Host::Ipv4(address)) => IpAddr::V4(address).is_loopback(),
            Some(Host::Ipv6(address)) => IpAddr::V6(address).is_loopback(),
            _ => false,
        };
        if !(url.scheme() == "https" && url.host().is_some() || url.scheme() == "http" && is_here) {
            return Err(WitnessError::Url);
        }
        let is_plain = url.username().is_empty() && url.password().is_none();
        if !is_plain || url.query().is_some() || url.fragment().is_some() {
            return Err(WitnessError::Extra);
        }
        Ok(Self(url))
    }

    pub fn is_secret(&self) -> bool {
        self.0.scheme() == "https"
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        self.0.host_str().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub fn port(&self) -> u16 {
        self.0.port_or_known_default().unwrap_or_default()
    }

    /// For the `Host` header.
    pub fn authority(&self) -> &str {
        self.0.authority()
    }

    /// Of the call that submits a checkpoint.
    pub fn add_checkpoint(&self) -> String {
        format!("{}/add-checkpoint", self.0.path().trim_end_matches('/'))
    }
}

impl WitnessKey {
    pub fn parse(text: &str) -> Result<Self, WitnessError> {
        let mut parts = text.trim_end().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(WitnessError::Key);
        };
        let key = BASE64.decode(key).map_err(|_not_base64| WitnessError::Key)?;
        let [TYPE_COSIGNATURE, public @ ..] = key.as_slice() else { return Err(WitnessError::Key) };
        let public = public.try_into().map_err(|_wrong_length| WitnessError::Key)?;
        let key = Self::new(name, public)?;
        if hex::encode(key.id()) == id { Ok(key) } else { Err(WitnessError::KeyId) }
    }

    /// Of a witness with this name, which has no blanks and no `+`.
    pub fn new(name: &str, public: [u8; 32]) -> Result<Self, WitnessError> {
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c.is_control() || c == '+') {
            return Err(WitnessError::Key);
        }
        Ok(Self { name: name.to_owned(), public })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    pub fn id(&self) -> [u8; 4] {
        let text = [self.name.as_bytes(), b"\n", &[TYPE_COSIGNATURE], &self.public].concat();
        let mut id = [0; 4];
        id.copy_from_slice(digest(&SHA256, &text).as_ref().get(..4).unwrap_or(&[0; 4]));
        id
    }
}

impl fmt::Display for WitnessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = [&[TYPE_COSIGNATURE], self.public.as_slice()].concat();
        write!(f, "{}+{}+{}", self.name, hex::encode(self.id()), BASE64.encode(key))
    }
}

impl fmt::Display for WitnessUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str().trim_end_matches('/'))
    }
}

impl TryFrom<String> for WitnessUrl {
    type Error = WitnessError;
    fn try_from(text: String) -> Result<Self, WitnessError> {
        Self::parse(&text)
    }
}

impl From<WitnessUrl> for String {
    fn from(url: WitnessUrl) -> Self {
        url.to_string()
    }
}

impl TryFrom<String> for WitnessKey {
    type Error = WitnessError;
    fn try_from(text: String) -> Result<Self, WitnessError> {
        Self::parse(&text)
    }
}

impl From<WitnessKey> for String {
    fn from(key: WitnessKey) -> Self {
        key.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_witness_is_asked_over_tls_or_on_this_host() {
        for (text, host, port, path) in [
            ("https://w.example/log", "w.example", 443, "/log/add-checkpoint"),
            ("https://w.example/", "w.example", 443, "/add-checkpoint"),
            ("http://127.0.0.1:8080", "127.0.0.1", 8080, "/add-checkpoint"),
            ("http://[::1]:8080/a/", "::1", 8080, "/a/add-checkpoint"),
        ] {
            let url = WitnessUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port(), url.add_checkpoint().as_str()), (host, port, path), "{text}");
        }
        for text in ["http://w.example/", "http://localhost/", "w.example", "ftp://127.0.0.1/", ""] {
            assert_eq!(WitnessUrl::parse(text), Err(WitnessError::Url), "{text}");
        }
        for text in ["https://a@w.example/", "https://w.example/?a", "https://w.example/#a"] {
            assert_eq!(WitnessUrl::parse(text), Err(WitnessError::Extra), "{text}");
        }
    }

    #[test]
    fn the_key_of_a_log_is_none_of_a_witness() {
        let key = WitnessKey { name: "w.example/1".into(), public: [7; 32] };
        let text = key.to_string();
        assert_eq!(WitnessKey::parse(&text), Ok(key));
        assert_eq!(WitnessKey::parse(&text.replace("w.example", "x.example")), Err(WitnessError::KeyId));
        let log = "example.com/foo+530d903a+AekyeRrm56hApGFkyQR4ZCbV54Id2LKaANYcrnKv3U2k";
        assert_eq!(WitnessKey::parse(log), Err(WitnessError::Key));
    }
}
