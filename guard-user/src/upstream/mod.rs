//! The one way to a protected server. It takes a [`Permit`] by value, and only a durable audit record makes one.
//!
//! Owns the connections to the servers and what the guard changes in a request's head. Never looks into a body.

mod credential;
mod headers;
mod leg;
mod pool;

pub use credential::{CREDENTIAL_BYTES_MAX, CredentialStatus, Credentials};
pub use headers::end_to_end;
pub use leg::ReplyBody;

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri, response};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::config::{Limits, Server};
use crate::kernel::{Dialer, Door};
use pool::Pool;

/// Why a server gave no answer. Whether it ran the call is not known unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(
        "no server is running behind port {0} (the guard has none pinned), so the call was not run; \
         start the server, and `mcp-guard status` shows it"
    )]
    Down(u16),
    #[error(
        "the server behind port {port} cannot be reached ({cause}), so the call was not run; \
         `mcp-guard status` shows which process is pinned there"
    )]
    Unreachable { port: u16, cause: String },
    #[error("the server broke off before it answered; it may have run the call: {0}")]
    Broken(#[source] hyper::Error),
    #[error("the server ended its stream before it answered; it may have run the call")]
    Ended,
    #[error("the server gave no answer within upstream_head_seconds; it may still run the call")]
    Silent,
    #[error("the guard has no credential that it could show to this server, so the call was not run")]
    NoCredential,
    #[error("the server does not take the credential that the guard shows to it, so the call was not run")]
    CredentialRefused,
    #[error("the request's target is not one the server can be asked: {0}")]
    Target(#[from] http::Error),
}

impl Error {
    fn unreachable(port: u16, cause: &io::Error) -> Self {
        match cause.kind() {
            // The dialer's word for: nothing to connect to.
            io::ErrorKind::NotConnected => Self::Down(port),
            io::ErrorKind::TimedOut => {
                Self::Unreachable { port, cause: "not within upstream_connect_seconds".into() }
            }
            _ => Self::Unreachable { port, cause: cause.to_string() },
        }
    }

    /// Its name in the guard's answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Down(_) | Self::Unreachable { .. } => "server_unreachable",
            Self::Broken(_) | Self::Ended => "server_broke_off",
            Self::Silent => "server_silent",
            Self::NoCredential | Self::CredentialRefused => "upstream_credential",
            Self::Target(_) => "bad_target",
        }
    }
}

/// The connections to all protected servers.
pub struct Upstream {
    pool: Arc<Pool>,
    head_patience: Duration,
    credentials: Credentials,
}

/// What is sent. The client's own `Host` goes on unchanged: servers check it against DNS rebinding.
#[derive(Debug, Clone)]
pub struct Outgoing<'a> {
    pub method: &'a Method,
    pub uri: &'a Uri,
    pub headers: &'a HeaderMap,
    /// Exactly what was judged; only a POST has one.
    pub body: Bytes,
}

/// A server's answer. Its call is still open: whoever reads the body concludes `permit`.
pub struct Reply {
    pub head: response::Parts,
    pub body: ReplyBody,
    pub permit: Permit,
    pub asked_at: Instant,
}

impl Upstream {
    /// Must be called in a runtime.
    pub fn new(dialer: Dialer, limits: &Limits, credentials: Credentials) -> Self {
        Self {
            pool: Pool::new(dialer, limits),
            head_patience: Duration::from_secs(limits.upstream_head_seconds),
            credentials,
        }
    }

    /// What the guard shows to servers, without the secrets.
    pub fn credentials(&self) -> Vec<CredentialStatus> {
        self.credentials.status()
    }

    /// Sends the request whose intent `permit` stands for.
    /// On an error the call is concluded here.
    pub async fn forward(
        &self,
        permit: Permit,
        server: &Server,
        door: Door,
        request: Outgoing<'_>,
    ) -> Result<Reply, Error> {
        let asked_at = Instant::now();
        match self.exchange(server, door, request).await {
            Ok((head, body)) => Ok(Reply { head, body, permit, asked_at }),
            Err(error) => {
                permit.conclude(&Outcome {
                    result: OutcomeResult::UpstreamFailed,
                    reason: Some(error.reason()),
                    duration: asked_at.elapsed(),
                    ..Outcome::abandoned()
                });
                Err(error)
            }
        }
    }

    async fn exchange(
        &self,
        server: &Server,
        door: Door,
        Outgoing { method, uri, headers, body }: Outgoing<'_>,
    ) -> Result<(response::Parts, ReplyBody), Error> {
        let shown = self.credentials.of(&server.name)?;
        let has_shown = shown.is_some();
        let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let mut request = Request::builder().method(method.clone()).uri(Uri::from(path));
        if let Some(fields) = request.headers_mut() {
            *fields = headers::to_server(headers, uri, server, shown);
        }
        let body = if method == Method::POST { body } else { Bytes::new() };
        let answer = self.ask(door, request.body(Full::new(body))?);
        let (head, body) =
            tokio::time::timeout(self.head_patience, answer).await.unwrap_or(Err(Error::Silent))?;
        // What the server asks for is the guard's to show. A client that was told so would look for a token of its own.
        if has_shown && !server.forward_authorization && head.status == StatusCode::UNAUTHORIZED {
            tracing::error!(server = %server.name, "the server does not take the guard's credential (401)");
            return Err(Error::CredentialRefused);
        }
        Ok((head, body))
    }

    async fn ask(
        &self,
        door: Door,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(response::Parts, ReplyBody), Error> {
        let answered = |answer: Response<Incoming>, leg| {
            let (head, body) = answer.into_parts();
            (head, ReplyBody::new(body, leg, door, Arc::clone(&self.pool)))
        };
        while let Some(mut leg) = self.pool.take(door) {
            let mut error = match leg.ask(request).await {
                Ok(answer) => return Ok(answered(answer, leg)),
                Err(error) => error,
            };
            // The server closed the connection while it was idle; another one takes the request.
            let Some(unsent) = error.take_message() else { return Err(Error::Broken(error.into_error())) };
            request = unsent;
        }
        let mut leg = self.pool.open(door).await.map_err(|error| Error::unreachable(door.port, &error))?;
        match leg.ask(request).await {
            Ok(answer) => Ok(answered(answer, leg)),
            Err(error) => Err(Error::Broken(error.into_error())),
        }
    }
}
