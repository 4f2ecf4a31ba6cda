//! One request over HTTP/1.1, with TLS or without.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, USER_AGENT};
use http::response::Parts;
use http::{HeaderValue, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::connect::connect;
use crate::tls::{Peer, client_config};

/// The head of the answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// For an answer to begin.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);
/// Fields of it.
const FIELDS_MAX: usize = 64;

/// Who is asked.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Name or address, without brackets.
    pub host: &'a str,
    pub port: u16,
    /// For the `Host` field.
    pub authority: &'a str,
    /// With TLS. Without, anybody on the way can answer.
    pub is_secret: bool,
    /// The CAs that may speak for it; none: those of this host.
    pub ca_file: Option<&'a Path>,
    pub peer: Peer,
    /// Ports of servers on this host, where it is not.
    pub protected: &'a [u16],
}

/// What it said.
#[derive(Debug)]
pub struct Answer {
    pub head: Parts,
    /// An error in words if it broke off, was too long or did not end.
    pub body: Result<Bytes, String>,
}

/// How much of an answer's body is taken.
#[derive(Debug, Clone, Copy)]
pub struct BodyMax {
    pub bytes: usize,
    /// From the answer's head on.
    pub time: Duration,
}

/// Sends `request`, whose URI is path and query alone; an error in words for the operator. The caller bounds the time
/// of all.
pub async fn ask(
    place: &Place<'_>,
    request: Request<Full<Bytes>>,
    body_max: BodyMax,
) -> Result<Answer, String> {
    let mut request = request;
    let host = HeaderValue::from_str(place.authority).map_err(|error| error.to_string())?;
    request.headers_mut().insert(HOST, host);
    let agent = HeaderValue::from_static(concat!("mcp-guard/", env!("CARGO_PKG_VERSION")));
    request.headers_mut().insert(USER_AGENT, agent);
    let connected = connect(place.host, place.port, (place.protected, place.peer));
    if !place.is_secret {
        return exchange(connected.await?, request, body_max).await;
    }
    // Read first: a mistake in it has nobody asked.
    let tls = TlsConnector::from(Arc::new(client_config(place.ca_file, place.peer)?));
    let name = ServerName::try_from(place.host.to_owned()).map_err(|error| error.to_string())?;
    let tls = tls.connect(name, connected.await?).await;
    exchange(tls.map_err(|error| format!("the TLS handshake failed: {error}"))?, request, body_max).await
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Full<Bytes>>,
    body_max: BodyMax,
) -> Result<Answer, String> {
    let mut client = http1::Builder::new();
    client.max_buf_size(HEAD_BYTES_MAX).max_headers(FIELDS_MAX);
    let (mut sender, connection) =
        client.handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    // Ends with this function, whatever comes.
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    // So that what its body may take is left, whatever the caller's bound for all is.
    let answer = tokio::time::timeout(HEAD_PATIENCE, sender.send_request(request)).await;
    let answer = answer.map_err(|_late| format!("no answer within {} s", HEAD_PATIENCE.as_secs()))?;
    let answer = answer.map_err(|error| format!("no answer: {error}"))?;
    let (head, body) = answer.into_parts();
    let BodyMax { bytes, time } = body_max;
    let body = match tokio::time::timeout(time, Limited::new(body, bytes).collect()).await {
        Ok(body) => body
            .map(http_body_util::Collected::to_bytes)
            .map_err(|error| format!("its answer broke off, or has more than {bytes} bytes: {error}")),
        Err(_late) => Err(format!("its answer did not end within {} s", time.as_secs())),
    };
    Ok(Answer { head, body })
}
