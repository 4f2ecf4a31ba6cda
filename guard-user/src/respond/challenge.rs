//! What a client is told that needs a token, or another one (RFC 6750 3, RFC 9728 5.1).

use http::{HeaderValue, StatusCode};

use crate::config::{Authorize, Scope};
use crate::identity::{TokenFault, Unidentified};
use crate::refusal::Refusal;

/// Status and `WWW-Authenticate`; none if no token would help.
pub(super) fn of(refusal: &Refusal, authorize: &Authorize) -> Option<(StatusCode, HeaderValue)> {
    let (status, error) = match refusal {
        Refusal::Scope(_) => (StatusCode::FORBIDDEN, Some("insufficient_scope")),
        Refusal::Identity(who) if shows_nothing(who) => (StatusCode::UNAUTHORIZED, None),
        Refusal::Identity(who) if shows_what_is_bad(who) => (StatusCode::UNAUTHORIZED, Some("invalid_token")),
        _ => return None,
    };
    let mut parts = Vec::new();
    parts.extend(error.map(|error| format!("error=\"{error}\"")));
    if !authorize.scopes.is_empty() {
        let scopes: Vec<_> = authorize.scopes.iter().map(Scope::as_str).collect();
        parts.push(format!("scope=\"{}\"", scopes.join(" ")));
    }
    parts.push(format!("resource_metadata=\"{}\"", authorize.metadata_url()));
    let value = HeaderValue::try_from(format!("Bearer {}", parts.join(", "))).ok()?;
    Some((status, value))
}

fn shows_nothing(who: &Unidentified) -> bool {
    matches!(
        who,
        Unidentified::NoCredential
            | Unidentified::UnknownProcess
            | Unidentified::SeveralAgents
            | Unidentified::WebPage
    )
}

/// What it shows would be good in another request, or is good and not enough, for all that is not here.
fn shows_what_is_bad(who: &Unidentified) -> bool {
    match who {
        Unidentified::Token(fault) => *fault != TokenFault::KeysUnavailable,
        Unidentified::Malformed(_) | Unidentified::UnknownCredential | Unidentified::Expired => true,
        _ => false,
    }
}
