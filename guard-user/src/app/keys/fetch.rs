//! Asks an issuer for its keys: one GET over HTTPS, bounded in time and size. Nothing that it answers leads elsewhere.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, HOST, HeaderMap, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::config::JwksUrl;
use crate::identity::JWKS_BYTES_MAX;
use crate::tls::{Peer, client_config};

/// All of it: names, connection, handshake, answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// One address; then the next one is tried.
const CONNECT_PATIENCE: Duration = Duration::from_secs(3);
/// Of one name.
const ADDRESSES_MAX: usize = 8;
/// The head of the answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Fields of it.
const FIELDS_MAX: usize = 64;

/// What an issuer publishes, and for how long it says that this is fresh.
pub(super) struct Document {
    pub text: Bytes,
    pub max_age: Option<Duration>,
}

/// The document at `jwks`; an error in words for the operator. `protected` are the ports of servers, where no issuer is.
pub(super) async fn get(jwks: &JwksUrl, protected: &[u16]) -> Result<Document, String> {
    let asked = ask(jwks, protected);
    tokio::time::timeout(PATIENCE, asked)
        .await
        .unwrap_or_else(|_late| Err(format!("no answer within {} s", PATIENCE.as_secs())))
}

async fn ask(jwks: &JwksUrl, protected: &[u16]) -> Result<Document, String> {
    let url = &jwks.url;
    let tls = TlsConnector::from(Arc::new(client_config(jwks.ca_file.as_deref(), Peer::ISSUER)?));
    let tcp = connect(url.host(), url.port(), protected).await?;
    let name = ServerName::try_from(url.host().to_owned()).map_err(|error| error.to_string())?;
    let tls = tls.connect(name, tcp).await.map_err(|error| format!("the TLS handshake failed: {error}"))?;
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_BYTES_MAX).max_headers(FIELDS_MAX);
    let (mut sender, connection) =
        client.handshake(TokioIo::new(tls)).await.map_err(|error| error.to_string())?;
    // Ends with this function, whatever comes.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let request = Request::get(url.path_and_query())
        .header(HOST, url.authority())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(USER_AGENT, concat!("mcp-guard/", env!("CARGO_PKG_VERSION")))
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let answer = sender.send_request(request).await.map_err(|error| format!("no answer: {error}"))?;
    let (head, body) = answer.into_parts();
    if head.status.is_redirection() {
        return Err(format!("it answered {} with a redirect, which is not followed", head.status.as_u16()));
    }
    if head.status != StatusCode::OK {
        return Err(format!("it answered {}", head.status.as_u16()));
    }
    if head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err("its answer is compressed, which was not asked for".into());
    }
    let text = Limited::new(body, JWKS_BYTES_MAX).collect().await;
    let text = text
        .map_err(|error| format!("its answer broke off, or has more than {JWKS_BYTES_MAX} bytes: {error}"))?;
    Ok(Document { text: text.to_bytes(), max_age: max_age(&head.headers) })
}

async fn connect(host: &str, port: u16, protected: &[u16]) -> Result<TcpStream, String> {
    let found = tokio::net::lookup_host((host, port)).await;
    let found: Vec<_> =
        found.map_err(|error| format!("{host} cannot be resolved: {error}"))?.take(ADDRESSES_MAX).collect();
    let mut last = format!("{host} has no address");
    for address in found {
        if protected.contains(&address.port()) && is_of_this_host(address.ip()) {
            return Err(format!(
                "{address} is the port of a protected server, which must not say whose tokens are good"
            ));
        }
        match tokio::time::timeout(CONNECT_PATIENCE, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => return Ok(tcp),
            Ok(Err(error)) => last = format!("{address} cannot be reached: {error}"),
            Err(_late) => {
                last = format!("{address} cannot be reached within {} s", CONNECT_PATIENCE.as_secs());
            }
        }
    }
    Err(last)
}

/// Only an address of this host can be bound to.
fn is_of_this_host(address: IpAddr) -> bool {
    let address = address.to_canonical();
    address.is_loopback() || address.is_unspecified() || UdpSocket::bind(SocketAddr::new(address, 0)).is_ok()
}

/// The first `max-age`. Other words of the field are for caches that serve others.
fn max_age(head: &HeaderMap) -> Option<Duration> {
    let values = head.get_all(CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let mut words = values.flat_map(|value| value.split(',')).map(str::trim);
    let seconds = words.find_map(|word| {
        let (name, seconds) = word.split_once('=')?;
        name.eq_ignore_ascii_case("max-age").then(|| seconds.parse().ok())?
    });
    seconds.map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_a_document_is_its_max_age() {
        for (values, expected) in [
            (&["max-age=60"][..], Some(60)),
            (&["public, Max-Age=3600, must-revalidate"], Some(3600)),
            (&["no-store", "max-age=5"], Some(5)),
            (&["s-maxage=5"], None),
            (&["max-age=-1"], None),
            (&["max-age=x"], None),
            (&["no-cache"], None),
            (&[], None),
        ] {
            let mut head = HeaderMap::new();
            for value in values {
                head.append(CACHE_CONTROL, value.parse().unwrap());
            }
            assert_eq!(max_age(&head).map(|age| age.as_secs()), expected, "{values:?}");
        }
    }

    #[test]
    fn a_name_of_this_host_is_known_by_its_address() {
        for (address, is) in
            [("127.0.0.1", true), ("::1", true), ("127.9.9.9", true), ("0.0.0.0", true), ("192.0.2.1", false)]
        {
            assert_eq!(is_of_this_host(address.parse().unwrap()), is, "{address}");
        }
    }
}
