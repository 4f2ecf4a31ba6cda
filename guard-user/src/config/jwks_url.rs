//! Where an issuer publishes its keys, and how often it is asked.
//!
//! `keys: {jwks_url: https://idp.example/jwks.json}`, or with more to say:
//! `keys: {jwks_url: {url: https://idp.example/jwks.json, ca_file: corp-ca.pem}}`.

use std::fmt;
use std::path::PathBuf;

use http::Uri;
use serde::{Deserialize, Deserializer, Serialize};

/// More often, an issuer would take it for an attack.
pub const REFRESH_SECONDS_MIN: u32 = 5;
/// A key that was withdrawn must not be good for longer, whatever keeps the issuer from saying so.
pub const STALE_SECONDS_MAX: u32 = 7 * 24 * 60 * 60;

/// What is asked for an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct JwksUrl {
    pub url: HttpsUrl,
    /// PEM certificates of the CAs that may speak for it, in place of those that this host trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    /// The longest time between two questions.
    pub refresh_seconds: u32,
    /// How long keys are good after they were last heard of.
    pub stale_seconds: u32,
}

/// An absolute `https` URL without user, fragment and odd characters.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HttpsUrl {
    uri: Uri,
    host: String,
}

/// Why a text is not such a URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    #[error("it does not begin with https://: without TLS anybody on the way could answer")]
    Scheme,
    #[error("it has a user or a fragment, which belong elsewhere")]
    Extra,
    #[error("it is no URL")]
    Syntax,
}

impl HttpsUrl {
    pub fn parse(text: &str) -> Result<Self, UrlError> {
        if !text.starts_with("https://") {
            return Err(UrlError::Scheme);
        }
        if text.contains(['#', '@']) {
            return Err(UrlError::Extra);
        }
        let uri: Uri = text.parse().map_err(|_invalid| UrlError::Syntax)?;
        let host = uri.host().filter(|host| !host.is_empty()).ok_or(UrlError::Syntax)?;
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        // A port that is no number is passed over by the parser.
        let has_odd_port = uri.port_u16().is_none() && text_port(&uri).is_some();
        if has_odd_port || rustls_pki_types::ServerName::try_from(host.as_str()).is_err() {
            return Err(UrlError::Syntax);
        }
        Ok(Self { uri, host })
    }

    /// Name or address, without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(443)
    }

    /// For the `Host` header.
    pub fn authority(&self) -> &str {
        self.uri.authority().map_or("", http::uri::Authority::as_str)
    }

    pub fn path(&self) -> &str {
        self.uri.path()
    }

    /// What is asked for at that host.
    pub fn path_and_query(&self) -> &str {
        self.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str)
    }

    pub fn has_query(&self) -> bool {
        self.uri.query().is_some()
    }
}

fn text_port(uri: &Uri) -> Option<&str> {
    let authority = uri.authority()?.as_str();
    let after_host = authority.rsplit_once(']').map_or(authority, |(_, rest)| rest);
    after_host.rsplit_once(':').map(|(_, port)| port)
}

impl TryFrom<String> for HttpsUrl {
    type Error = UrlError;
    fn try_from(text: String) -> Result<Self, UrlError> {
        Self::parse(&text)
    }
}

impl From<HttpsUrl> for String {
    fn from(url: HttpsUrl) -> Self {
        url.to_string()
    }
}

impl fmt::Display for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl fmt::Debug for HttpsUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.uri)
    }
}

impl<'de> Deserialize<'de> for JwksUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(visit::JwksUrlVisitor)
    }
}

mod visit;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_https_url_with_one_meaning_is_taken() {
        for (text, host, port, asked) in [
            ("https://idp.example/jwks.json", "idp.example", 443, "/jwks.json"),
            ("https://idp.example", "idp.example", 443, "/"),
            ("https://127.0.0.1:8443/a?b=c", "127.0.0.1", 8443, "/a?b=c"),
            ("https://[::1]:8443/a", "::1", 8443, "/a"),
        ] {
            let url = HttpsUrl::parse(text).unwrap();
            assert_eq!((url.host(), url.port(), url.path_and_query()), (host, port, asked), "{text}");
        }
        for (text, error) in [
            ("http://idp.example/", UrlError::Scheme),
            ("HTTPS://idp.example/", UrlError::Scheme),
            ("idp.example/jwks", UrlError::Scheme),
            ("https:///jwks", UrlError::Syntax),
            ("https://", UrlError::Syntax),
            ("https://a b/", UrlError::Syntax),
            ("https://a:x/", UrlError::Syntax),
            ("https://a:99999/", UrlError::Syntax),
            ("https://user@idp.example/", UrlError::Extra),
            ("https://idp.example/#keys", UrlError::Extra),
        ] {
            assert_eq!(HttpsUrl::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_url_alone_has_every_default_and_a_mapping_says_more() {
        let read = |json: &str| serde_json::from_str::<JwksUrl>(json);
        let short = read(r#""https://idp.example/jwks""#).unwrap();
        assert_eq!((short.refresh_seconds, short.stale_seconds, &short.ca_file), (300, 3600, &None));
        let long = r#"{"url": "https://idp.example/jwks", "ca_file": "ca.pem", "refresh_seconds": 60, "stale_seconds": 90}"#;
        let long = read(long).unwrap();
        assert_eq!((long.refresh_seconds, long.stale_seconds), (60, 90));
        assert_eq!(read(&serde_json::to_string(&long).unwrap()).unwrap(), long);
        for bad in [r#""http://a/""#, r#"{"url": "https://a/", "user": "b"}"#, r#"{"ca_file": "c"}"#, "7"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
