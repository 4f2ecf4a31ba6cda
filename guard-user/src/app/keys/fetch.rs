//! Asks an issuer for its keys: one GET over HTTPS, bounded in time and size. Nothing that it answers leads elsewhere.

use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, HeaderMap};
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::config::JwksUrl;
use crate::identity::JWKS_BYTES_MAX;
use crate::outbound::{self, Answer, BodyMax, Place};
use crate::tls::Peer;

/// All of it: names, connection, handshake, answer.
const PATIENCE: Duration = Duration::from_secs(10);
const BODY_MAX: BodyMax = BodyMax { bytes: JWKS_BYTES_MAX, time: PATIENCE };

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
    let place = Place {
        host: url.host(),
        port: url.port(),
        authority: url.authority(),
        is_secret: true,
        ca_file: jwks.ca_file.as_deref(),
        peer: Peer::ISSUER,
        protected,
    };
    let request = Request::get(url.path_and_query())
        .header(ACCEPT, "application/jwk-set+json, application/json")
        .header(ACCEPT_ENCODING, "identity")
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let Answer { head, body } = outbound::ask(&place, request, BODY_MAX).await?;
    if head.status.is_redirection() {
        return Err(format!("it answered {} with a redirect, which is not followed", head.status.as_u16()));
    }
    if head.status != StatusCode::OK {
        return Err(format!("it answered {}", head.status.as_u16()));
    }
    if head.headers.get(CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err("its answer is compressed, which was not asked for".into());
    }
    Ok(Document { text: body?, max_age: max_age(&head.headers) })
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
}
