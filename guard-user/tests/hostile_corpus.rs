//! Every case of `tests/corpus` gets the verdict that it names.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mcp_guard::config::Limits;
use mcp_guard::http::framing::Inspector;
use mcp_guard::http::strict_io::StrictIo;
use mcp_guard::rpc;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Heads come at once here.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    transport: String,
    headers: Option<Vec<(String, String)>>,
    bytes: Vec<Part>,
    expect: Verdict,
    why: String,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Part {
    Text(String),
    Hex { hex: String },
    Repeat { repeat: String, times: usize },
}

#[derive(Deserialize, Debug, PartialEq, Eq)]
#[serde(deny_unknown_fields)]
struct Verdict {
    status: u16,
    reason: String,
}

impl Verdict {
    fn accepted() -> Self {
        Self { status: 200, reason: "accepted".to_owned() }
    }
}

impl Case {
    fn bytes(&self) -> Vec<u8> {
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone().into_bytes(),
            Part::Hex { hex } => hex::decode(hex).expect("hex of the corpus"),
            Part::Repeat { repeat, times } => repeat.repeat(*times).into_bytes(),
        };
        self.bytes.iter().flat_map(part).collect()
    }

    fn headers(&self) -> HeaderMap {
        let default = [("content-type".to_owned(), "application/json".to_owned())];
        let mut headers = HeaderMap::new();
        for (name, value) in self.headers.as_deref().unwrap_or(&default) {
            let name = HeaderName::try_from(name).expect("header name of the corpus");
            headers.append(name, HeaderValue::try_from(value).expect("header value of the corpus"));
        }
        headers
    }
}

fn cases(transport: &str, text: &str, hostile_min: usize) -> Vec<Case> {
    let cases: Vec<Case> = serde_json::from_str(text).expect("the corpus is JSON");
    assert_eq!(
        cases.iter().map(|case| &case.name).collect::<BTreeSet<_>>().len(),
        cases.len(),
        "names are unique"
    );
    assert!(cases.iter().all(|case| case.transport == transport && !case.why.is_empty()));
    let hostile = cases.iter().filter(|case| case.expect.status != 200).count();
    assert!(hostile >= hostile_min && hostile < cases.len(), "{hostile} hostile cases of {}", cases.len());
    cases
}

/// Runs all cases, then tells of all that went wrong.
fn check(cases: &[Case], judge: impl Fn(&Case) -> Verdict) {
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let verdict = judge(case);
            (verdict != case.expect)
                .then(|| format!("{}: {verdict:?}, expected {:?}", case.name, case.expect))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_decoder_gives_every_json_case_its_verdict() {
    let cases = cases("json", include_str!("../../tests/corpus/json/cases.json"), 60);
    check(&cases, |case| {
        match rpc::decode(&case.headers(), Bytes::from(case.bytes()), Limits::default().json_depth_max) {
            Ok(_) => Verdict::accepted(),
            Err(error) => {
                Verdict { status: error.fault.status().as_u16(), reason: error.fault.reason().to_owned() }
            }
        }
    });
}

#[test]
fn the_inspector_gives_every_http_case_its_verdict() {
    let cases = cases("http", include_str!("../../tests/corpus/http/cases.json"), 30);
    check(&cases, |case| match Inspector::new(Limits::default().header_bytes_max).inspect(&case.bytes()) {
        Ok(()) => Verdict::accepted(),
        Err(fault) => Verdict { status: fault.status().as_u16(), reason: fault.reason().to_owned() },
    });
}

/// Shows that the cases are worth refusing: a reader without our rules takes many of them.
#[test]
fn a_plain_json_reader_takes_much_of_what_is_refused() {
    let cases = cases("json", include_str!("../../tests/corpus/json/cases.json"), 60);
    let hostile = cases.iter().filter(|case| case.expect.status != 200);
    let taken =
        hostile.filter(|case| serde_json::from_slice::<serde_json::Value>(&case.bytes()).is_ok()).count();
    assert!(taken >= 50, "{taken}");
}

/// Sends `bytes` in pieces; gives how many requests hyper read to their end.
async fn served(
    bytes: &[u8],
    piece_bytes: usize,
    wrap: impl FnOnce(tokio::io::DuplexStream) -> Box<dyn Stream>,
) -> usize {
    let (mut client, server) = tokio::io::duplex(1024);
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&seen);
    let service = service_fn(move |request: Request<Incoming>| {
        let counter = Arc::clone(&counter);
        async move {
            if request.into_body().collect().await.is_ok() {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    // `half_close`: the client has sent all it has, and still waits for answers.
    let connection =
        http1::Builder::new().half_close(true).serve_connection(TokioIo::new(wrap(server)), service);
    let talk = async {
        for piece in bytes.chunks(piece_bytes) {
            // Fails once the server has closed.
            _ = client.write_all(piece).await;
            tokio::task::yield_now().await;
        }
        _ = client.shutdown().await;
        _ = client.read_to_end(&mut Vec::new()).await;
    };
    _ = tokio::join!(connection, talk);
    seen.load(Ordering::Relaxed)
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

#[tokio::test]
async fn behind_the_inspector_no_hostile_request_is_served_and_without_it_many_are() {
    let mut served_bare = 0;
    for case in cases("http", include_str!("../../tests/corpus/http/cases.json"), 30) {
        let bytes = case.bytes();
        if case.expect.status == 200 {
            assert!(
                served(&bytes, 7, |io| Box::new(StrictIo::new(io, 32 * 1024, PATIENCE))).await > 0,
                "{}",
                case.name
            );
            continue;
        }
        for piece_bytes in [1, 7, usize::MAX] {
            let count =
                served(&bytes, piece_bytes, |io| Box::new(StrictIo::new(io, 32 * 1024, PATIENCE))).await;
            // Of a smuggled pair the first is a good request and may be served.
            let first = usize::from(case.name.starts_with("smuggled"));
            assert!(count <= first, "{} in pieces of {piece_bytes}: {count} served", case.name);
        }
        served_bare += usize::from(served(&bytes, usize::MAX, |io| Box::new(io)).await > 0);
    }
    println!("hyper alone serves {served_bare}");
    assert!(served_bare >= 10, "{served_bare}");
}
