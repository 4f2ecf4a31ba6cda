//! A request's body, read whole within its limits.

use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http::request::Parts;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::Request;
use hyper::body::Incoming;

use super::FramingError;
use crate::config::Limits;

/// What a caller whose credential is not known may send: enough to answer it by its request's id.
const UNIDENTIFIED_BODY_BYTES_MAX: usize = 64 * 1024;

/// Why a request's body could not be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the connection ended within the body")]
    Broken,
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
            Self::Framing(fault) => fault.reason(),
            Self::Slow(_) => "body_slow",
            Self::TooLong(_) => "body_too_large",
        }
    }

    pub fn status(self) -> StatusCode {
        match self {
            Self::Broken => StatusCode::BAD_REQUEST,
            Self::Framing(fault) => fault.status(),
            Self::Slow(_) => StatusCode::REQUEST_TIMEOUT,
            Self::TooLong(_) => StatusCode::PAYLOAD_TOO_LARGE,
        }
    }
}

/// Reads the body to its end. The HTTP server has bounded the head already.
pub async fn read(
    request: Request<Incoming>,
    limits: &Limits,
    is_identified: bool,
) -> (Parts, Result<Bytes, Unreadable>) {
    let identified = if is_identified { limits.body_bytes_max } else { UNIDENTIFIED_BODY_BYTES_MAX };
    let bytes_max = identified.min(limits.body_bytes_max);
    let (head, body) = request.into_parts();
    let whole = Limited::new(body, bytes_max).collect();
    let body = match tokio::time::timeout(Duration::from_secs(limits.body_seconds), whole).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(Unreadable::TooLong(bytes_max)),
        Ok(Err(error)) => Err(FramingError::find(&*error).map_or(Unreadable::Broken, Unreadable::Framing)),
        Err(_elapsed) => Err(Unreadable::Slow(limits.body_seconds)),
    };
    (head, body)
}
