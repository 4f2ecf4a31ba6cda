//! A collector that takes OTLP over HTTP.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;
use url::Url;

use super::headers;
use super::sink::{Trust, Undelivered};
use crate::audit::{TEXT_BYTES_MAX, halved};
use crate::cli::output;
use crate::outbound::{self, Answer, BodyMax, Place};
use crate::tls::{Peer, client_config};

/// All of one request.
const PATIENCE: Duration = Duration::from_secs(45);
/// Of an answer behind its head; what matters is its status.
const BODY_PATIENCE: Duration = Duration::from_secs(5);
const BODY_MAX: BodyMax = BodyMax { bytes: 64 * 1024, time: BODY_PATIENCE };

pub(super) struct Collector {
    url: Url,
    ca_file: Option<PathBuf>,
    header_file: Option<PathBuf>,
    protected: Vec<u16>,
    /// Bytes of the smallest request that it found too large.
    too_large: usize,
}

/// What became of one request.
enum Said {
    Taken,
    TooLarge,
}

impl Collector {
    /// The files are read anew for each request, since what is in them goes out of date; what is wrong with them now is told here.
    pub(super) fn new(url: Url, trust: &Trust<'_>) -> anyhow::Result<Self> {
        if url.scheme() == "https" {
            client_config(trust.ca_file, Peer::RECEIVER).map_err(anyhow::Error::msg)?;
        }
        trust.header_file.map(headers::read).transpose()?;
        let owned = |file: &std::path::Path| file.to_owned();
        let (ca_file, header_file) = (trust.ca_file.map(owned), trust.header_file.map(owned));
        Ok(Self { url, ca_file, header_file, protected: trust.protected.clone(), too_large: usize::MAX })
    }

    /// Posts each `ExportLogsServiceRequest`, in parts where it is too large for the other side; what was taken is no longer there then.
    pub(super) fn send(&mut self, requests: &mut VecDeque<String>) -> Result<(), Undelivered> {
        while let Some(request) = requests.front() {
            // Of what is as large as what it refused, it is asked for the halves at once.
            let known = if request.len() < self.too_large { None } else { halved(request).ok() };
            let (first, second) = match known {
                Some(halves) => halves,
                None => match self.post(request)? {
                    Said::Taken => {
                        requests.pop_front();
                        continue;
                    }
                    Said::TooLarge => {
                        self.too_large = self.too_large.min(request.len());
                        halved(request).map_err(|seq| self.never(seq, request.len()))?
                    }
                },
            };
            requests.pop_front();
            requests.push_front(second);
            requests.push_front(first);
        }
        Ok(())
    }

    fn never(&self, seq: Option<u64>, bytes: usize) -> Undelivered {
        let record = seq.map_or("a record".to_owned(), |seq| format!("record {seq}"));
        Undelivered::TooLarge(format!(
            "{}: {record} alone is too large for it (413 for {bytes} bytes); have the collector take more",
            self.url
        ))
    }

    fn post(&self, request: &str) -> Result<Said, Undelivered> {
        let later = |why: String| Undelivered::later(format!("{}: {why}", self.url));
        let headers = self.header_file.as_deref().map(headers::read).transpose();
        // Its text names the file, and somebody may mend that.
        let headers = headers.map_err(|problems| Undelivered::later(problems.to_string()))?;
        let asked = self.ask(request, headers.unwrap_or_default());
        let Answer { head, body } = outbound::block_on(PATIENCE, asked).map_err(later)?;
        match head.status {
            status if status.is_success() => {
                // What is too long, breaks off or does not end says nothing that matters.
                if let Some(told) = partial(&body.unwrap_or_default()) {
                    output::warn(&format!("{}: not all was taken: {told}", self.url));
                }
                Ok(Said::Taken)
            }
            StatusCode::PAYLOAD_TOO_LARGE => Ok(Said::TooLarge),
            // Somebody may mend it, so that it is tried again by whoever is patient.
            status => Err(Undelivered::Later {
                why: format!("{}: it answered {}", self.url, status.as_u16()),
                after: pause(status, &head.headers, SystemTime::now()),
            }),
        }
    }

    async fn ask(&self, request: &str, headers: HeaderMap) -> Result<Answer, String> {
        let host = self.url.host_str().unwrap_or_default();
        let place = Place {
            host: host.trim_start_matches('[').trim_end_matches(']'),
            port: self.url.port_or_known_default().unwrap_or_default(),
            authority: self.url.authority(),
            is_secret: self.url.scheme() == "https",
            ca_file: self.ca_file.as_deref(),
            peer: Peer::RECEIVER,
            protected: &self.protected,
        };
        let path = match self.url.query() {
            Some(query) => format!("{}?{query}", self.url.path()),
            None => self.url.path().to_owned(),
        };
        let request = Request::post(path).body(Full::from(request.to_owned()));
        let mut request = request.map_err(|error| error.to_string())?;
        *request.headers_mut() = headers;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        outbound::ask(&place, request, BODY_MAX).await
    }
}

/// What a collector says of records that it did not take, in plain and bounded text. The specification has that told and not sent again.
fn partial(answer: &[u8]) -> Option<String> {
    let answer: Value = serde_json::from_slice(answer).ok()?;
    let partial = answer.get("partialSuccess")?.as_object().filter(|told| !told.is_empty())?;
    let told = output::plain(&Value::from(partial.clone()).to_string());
    // It is ASCII: any byte ends a character.
    Some(match told.get(..TEXT_BYTES_MAX) {
        Some(beginning) if told.len() > TEXT_BYTES_MAX => format!("{beginning}... ({} bytes)", told.len()),
        _ => told,
    })
}

/// How long it wants not to be asked, which it says in seconds or as a date.
fn pause(status: StatusCode, head: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let is_busy = matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE);
    let said = head.get(RETRY_AFTER).filter(|_| is_busy)?.to_str().ok()?.trim();
    match said.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        // A date that has passed is none to wait for.
        Err(_no_number) => {
            Some(httpdate::parse_http_date(said).ok()?.duration_since(now).unwrap_or_default())
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn who_is_busy_says_for_how_many_seconds() {
        let now = httpdate::parse_http_date("Sun, 22 Nov 2026 05:00:00 GMT").unwrap();
        for (status, value, expected) in [
            (503, Some("7"), Some(7)),
            (429, Some(" 7 "), Some(7)),
            (429, Some("Sun, 22 Nov 2026 05:00:09 GMT"), Some(9)),
            (503, Some("Sunday, 22-Nov-26 05:01:00 GMT"), Some(60)),
            (503, Some("Sun Nov 22 05:00:01 2026"), Some(1)),
            (503, Some("Sun, 22 Nov 2026 04:00:00 GMT"), Some(0)),
            (503, Some("22 Nov 2026"), None),
            (503, Some("-1"), None),
            (503, None, None),
            (500, Some("7"), None),
        ] {
            let mut head = HeaderMap::new();
            head.extend(value.map(|value| (RETRY_AFTER, HeaderValue::from_static(value))));
            let pause = pause(StatusCode::from_u16(status).unwrap(), &head, now);
            assert_eq!(pause.map(|pause| pause.as_secs()), expected, "{status} {value:?}");
        }
    }

    #[test]
    fn an_answer_without_a_partial_success_tells_nothing() {
        for answer in ["", "{", "[]", "{}", r#"{"partialSuccess":{}}"#, r#"{"partialSuccess":null}"#] {
            assert_eq!(partial(answer.as_bytes()), None, "{answer}");
        }
    }

    proptest! {
        #[test]
        fn what_a_collector_says_of_the_rest_is_plain_and_bounded(text in "[\\x00-\u{10ffff}]{1,3000}") {
            let answer = serde_json::json!({"partialSuccess": {"rejectedLogRecords": "3", "errorMessage": text}});
            let told = partial(answer.to_string().as_bytes()).unwrap();
            prop_assert!(told.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{told:?}");
            prop_assert!(told.contains("rejectedLogRecords") && told.len() <= TEXT_BYTES_MAX + 32, "{told:?}");
        }
    }
}
