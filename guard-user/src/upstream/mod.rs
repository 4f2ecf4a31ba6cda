//! The one way to a protected server. It takes a [`Permit`] by value, and only a durable audit record makes one.
//!
//! Owns the connections to the servers and what the guard changes in a request's head. Never looks into a body.

mod connect;
mod headers;

pub use headers::end_to_end;

use std::io;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{Method, Request, Uri, response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};

use crate::audit::{Outcome, OutcomeResult, Permit};
use crate::config::{Limits, Server};
use crate::kernel::Dialer;
use connect::Connect;

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
    Broken(#[source] hyper_util::client::legacy::Error),
    #[error("the server gave no answer within upstream_head_seconds; it may still run the call")]
    Silent,
    #[error("the request's target is not one the server can be asked: {0}")]
    Target(#[from] http::Error),
}

impl Error {
    fn unreachable(port: u16, error: &hyper_util::client::legacy::Error) -> Self {
        let mut causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
        match causes.find_map(|cause| cause.downcast_ref::<io::Error>()) {
            // The dialer's word for: nothing to connect to.
            Some(cause) if cause.kind() == io::ErrorKind::NotConnected => Self::Down(port),
            Some(cause) if cause.kind() == io::ErrorKind::TimedOut => {
                Self::Unreachable { port, cause: "not within upstream_connect_seconds".into() }
            }
            Some(cause) => Self::Unreachable { port, cause: cause.to_string() },
            None => Self::Unreachable { port, cause: error.to_string() },
        }
    }

    /// Its name in the guard's answers.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Down(_) | Self::Unreachable { .. } => "server_unreachable",
            Self::Broken(_) => "server_broke_off",
            Self::Silent => "server_silent",
            Self::Target(_) => "bad_target",
        }
    }
}

/// The connections to all protected servers.
pub struct Upstream {
    client: Client<Connect, Full<Bytes>>,
    head_patience: Duration,
}

/// A server's answer. Its call is still open: whoever reads the body concludes `permit`.
pub struct Reply {
    pub head: response::Parts,
    pub body: Incoming,
    pub permit: Permit,
    pub asked_at: Instant,
}

impl Upstream {
    pub fn new(dialer: Dialer, limits: &Limits) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(Duration::from_secs(limits.upstream_idle_seconds))
            .pool_max_idle_per_host(limits.upstream_idle_connections_max)
            // The client's own `Host` goes on unchanged: servers check it against DNS rebinding.
            .set_host(false)
            .build(Connect::new(dialer, Duration::from_secs(limits.upstream_connect_seconds)));
        Self { client, head_patience: Duration::from_secs(limits.upstream_head_seconds) }
    }

    /// Sends the request whose intent `permit` stands for, with exactly the `body` that was judged.
    /// On an error the call is concluded here.
    pub async fn forward(
        &self,
        permit: Permit,
        server: &Server,
        head: &Parts,
        body: Bytes,
    ) -> Result<Reply, Error> {
        let asked_at = Instant::now();
        match self.exchange(server, head, body).await {
            Ok((head, body)) => Ok(Reply { head, body, permit, asked_at }),
            Err(error) => {
                permit.conclude(&Outcome {
                    result: OutcomeResult::UpstreamFailed,
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
        head: &Parts,
        body: Bytes,
    ) -> Result<(response::Parts, Incoming), Error> {
        let mut request = Request::builder().method(head.method.clone()).uri(address(server, &head.uri)?);
        if let Some(fields) = request.headers_mut() {
            *fields = headers::to_server(&head.headers, &head.uri, server);
        }
        let body = if head.method == Method::POST { body } else { Bytes::new() };
        let answer = self.client.request(request.body(Full::new(body))?);
        match tokio::time::timeout(self.head_patience, answer).await {
            Ok(Ok(answer)) => Ok(answer.into_parts()),
            Ok(Err(error)) if error.is_connect() => Err(Error::unreachable(server.port.get(), &error)),
            Ok(Err(error)) => Err(Error::Broken(error)),
            Err(_elapsed) => Err(Error::Silent),
        }
    }
}

/// The pool's key is the port: the dialer knows where the server behind it really listens.
fn address(server: &Server, asked: &Uri) -> Result<Uri, http::Error> {
    let path = asked.path_and_query().map_or("/", |path| path.as_str());
    Uri::builder().scheme("http").authority(format!("127.0.0.1:{}", server.port)).path_and_query(path).build()
}
