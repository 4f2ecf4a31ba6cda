//! A request's body, read whole within its limits.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::header::{HOST, HeaderValue};
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;

use super::memory::{Held, Memory, cost};
use super::{FramingError, Pieces};
use crate::config::Limits;
use crate::types::AgentName;

/// What a caller whose credential is not known may send: enough to answer it by its request's id.
const UNIDENTIFIED_BODY_BYTES_MAX: usize = 64 * 1024;

/// Why a request's body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the connection ended within the body")]
    Broken,
    #[error(
        "the requests under way hold as much memory as they may (limits.requests_bytes_max), or as their agent may (limits.requests_bytes_per_agent_max)"
    )]
    Busy,
    #[error("{0}")]
    Framing(FramingError),
    #[error("the body took longer than {0} s (limits.body_seconds)")]
    Slow(u64),
    #[error("the body has more than {0} bytes")]
    TooLong(usize),
}

impl Unreadable {
    /// Its name in audit records.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Broken => "body_broken",
            Self::Busy => "busy",
            Self::Framing(fault) => fault.reason(),
            Self::Slow(_) => "body_slow",
            Self::TooLong(_) => "body_too_large",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Busy => StatusCode::SERVICE_UNAVAILABLE,
            Self::Framing(fault) => fault.status(),
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// Reads the body to its end. `agent`: the sender, if it is known. The HTTP server has bounded the head already. What is read may be held until `Held` is
/// dropped.
pub async fn read(
    request: Request<Incoming>,
    limits: &Limits,
    memory: &Memory,
    agent: Option<&AgentName>,
) -> (Parts, Result<Bytes, Unreadable>, Held) {
    let identified = if agent.is_some() { limits.body_bytes_max } else { UNIDENTIFIED_BODY_BYTES_MAX };
    let bytes_max = identified.min(limits.body_bytes_max);
    let (head, body) = request.into_parts();
    let mut share = memory.request(agent);
    if !names_one_host(&head) {
        return (head, Err(Unreadable::Framing(FramingError::Host)), share);
    }
    if !share.take(cost(&head.headers)) {
        return (head, Err(Unreadable::Busy), share);
    }
    let whole = collect(Limited::new(body, bytes_max), bytes_max, &mut share);
    let body = tokio::time::timeout(Duration::from_secs(limits.body_seconds), whole).await;
    (head, body.unwrap_or(Err(Unreadable::Slow(limits.body_seconds))), share)
}

/// HTTP/2 has a `:authority`, a `Host`, or both, and the server behind the guard will see one of them.
fn names_one_host(head: &Parts) -> bool {
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    let mut hosts = head.headers.get_all(HOST).iter().map(HeaderValue::as_bytes);
    match (authority, hosts.next(), hosts.next()) {
        (Some(authority), Some(host), None) => authority == host,
        (Some(_), None, None) | (None, Some(_), None) => true,
        _ => false,
    }
}

async fn collect(
    mut body: Limited<Incoming>,
    bytes_max: usize,
    held: &mut Held,
) -> Result<Bytes, Unreadable> {
    let mut whole = Pieces::default();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            if error.is::<LengthLimitError>() {
                return Unreadable::TooLong(bytes_max);
            }
            FramingError::find(&*error).map_or(Unreadable::Broken, Unreadable::Framing)
        })?;
        // As over HTTP/1.1, where they do not come this far.
        let Ok(data) = frame.into_data() else { return Err(Unreadable::Framing(FramingError::Trailer)) };
        if !held.take(data.len()) {
            return Err(Unreadable::Busy);
        }
        whole.push(data);
    }
    Ok(whole.into_bytes())
}
