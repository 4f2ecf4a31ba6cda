//! A collector that takes OTLP over HTTP.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, USER_AGENT};
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Collected, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls_pki_types::ServerName;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use url::Url;

use super::sink::Undelivered;
use crate::cli::output;

/// All of one request.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of an answer; what matters is its status.
const ANSWER_BYTES_MAX: usize = 64 * 1024;

pub(super) struct Collector {
    url: Url,
    tls: Option<TlsConnector>,
    runtime: Runtime,
}

impl Collector {
    pub(super) fn new(url: Url, tls: Option<ClientConfig>) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.context("cannot start to work with the network")?;
        Ok(Self { url, tls: tls.map(|config| TlsConnector::from(Arc::new(config))), runtime })
    }

    /// Posts one `ExportLogsServiceRequest`.
    pub(super) fn send(&self, request: &str) -> Result<(), Undelivered> {
        let sent = self.runtime.block_on(async {
            let later = |error: &dyn std::fmt::Display| Undelivered::Later(format!("{}: {error}", self.url));
            match tokio::time::timeout(PATIENCE, self.post(request)).await {
                Err(_late) => Err(later(&format!("no answer within {} s", PATIENCE.as_secs()))),
                Ok(Err(error)) => Err(later(&error)),
                Ok(Ok(answer)) => Ok(answer),
            }
        });
        let (status, answer) = sent?;
        match status {
            status if status.is_success() => {
                // The specification has what was rejected told and not sent again.
                let answer: Value = serde_json::from_slice(&answer).unwrap_or_default();
                if let Some(partial) = answer
                    .get("partialSuccess")
                    .filter(|partial| partial.as_object().is_some_and(|told| !told.is_empty()))
                {
                    let told = output::plain(&partial.to_string());
                    output::warn(&format!("{}: not all was taken: {told}", self.url));
                }
                Ok(())
            }
            // Somebody may mend it, so that it is tried again by whoever is patient.
            other => Err(Undelivered::Later(format!("{}: it answered {}", self.url, other.as_u16()))),
        }
    }

    async fn post(&self, request: &str) -> anyhow::Result<(StatusCode, Bytes)> {
        let host = self.url.host_str().unwrap_or_default();
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let port = self.url.port_or_known_default().unwrap_or_default();
        let tcp = TcpStream::connect((bare, port)).await?;
        match &self.tls {
            Some(tls) => {
                let name = ServerName::try_from(bare.to_owned())?;
                self.ask(tls.connect(name, tcp).await?, request).await
            }
            None => self.ask(tcp, request).await,
        }
    }

    async fn ask(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        body: &str,
    ) -> anyhow::Result<(StatusCode, Bytes)> {
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // Ends with this function, whatever comes.
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        let authority = self.url.authority();
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let request = Request::post(path)
            .header(HOST, authority)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("mcp-guard/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::copy_from_slice(body.as_bytes())))?;
        let (head, answer) = sender.send_request(request).await?.into_parts();
        // What is too long, or breaks off, says nothing that matters.
        let answer = Limited::new(answer, ANSWER_BYTES_MAX).collect().await;
        Ok((head.status, answer.map(Collected::to_bytes).unwrap_or_default()))
    }
}
