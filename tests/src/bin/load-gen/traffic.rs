//! Connections and the requests on them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use guard_tests::tls::client_config;
use http::header::{ACCEPT, CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::measure::Measured;

/// An answer that takes longer counts as an error.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);

/// Where requests go and what they are.
pub(crate) struct Target {
    host: String,
    port: u16,
    tls: Option<TlsConnector>,
    path: Uri,
    headers: HeaderMap,
    /// The body before and after the request's id.
    body: (String, String),
}

/// How requests are paced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Load {
    pub(crate) connections: u32,
    /// Requests a second over all connections; as fast as answers come without one.
    pub(crate) rate: Option<f64>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Stop {
    Count(u64),
    After(Duration),
}

impl Target {
    pub(crate) fn new(url: &Uri, ca: Option<&Path>, headers: HeaderMap, body: &str) -> anyhow::Result<Self> {
        let host = url.host().context("the URL has no host")?.trim_matches(['[', ']']).to_owned();
        let tls = match url.scheme_str() {
            Some("https") => {
                let ca = ca.context("https needs --ca")?;
                let mut config = client_config(Some(ca))?;
                config.alpn_protocols = vec![b"http/1.1".to_vec()];
                Some(TlsConnector::from(Arc::new(config)))
            }
            Some("http") => None,
            _ => anyhow::bail!("the URL must begin with http:// or https://"),
        };
        let port = url.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let mut all = HeaderMap::new();
        let authority = url.authority().context("the URL has no host")?;
        all.insert(HOST, authority.as_str().parse()?);
        all.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        all.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        all.extend(headers);
        let (before, after) = body.split_once("ID").context("the body has no ID to replace")?;
        let path = url.path_and_query().map_or("/", |path| path.as_str()).parse()?;
        Ok(Self { host, port, tls, path, headers: all, body: (before.to_owned(), after.to_owned()) })
    }

    async fn connect(&self) -> anyhow::Result<SendRequest<Full<Bytes>>> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        stream.set_nodelay(true)?;
        match &self.tls {
            None => handshake(TokioIo::new(stream)).await,
            Some(tls) => {
                let name = ServerName::try_from(self.host.clone())?;
                handshake(TokioIo::new(tls.connect(name, stream).await?)).await
            }
        }
    }

    fn request(&self, id: u64) -> Request<Full<Bytes>> {
        let body = format!("{}{id}{}", self.body.0, self.body.1);
        let mut request = Request::new(Full::from(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

async fn handshake<T>(io: T) -> anyhow::Result<SendRequest<Full<Bytes>>>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    // Its error reaches the request that is under way.
    tokio::spawn(connection);
    Ok(sender)
}

/// The turn of each request: counted, and timed if there is a rate.
struct Turns {
    next: AtomicU64,
    count_max: u64,
    start: Instant,
    end: Option<Instant>,
    interval: Option<f64>,
}

impl Turns {
    /// The request's number and the time that it is due, or nothing when the run is over.
    fn take(&self) -> Option<(u64, Option<Instant>)> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let due =
            self.interval.map(|interval| self.start + Duration::from_secs_f64(interval * number as f64));
        let over = self.end.is_some_and(|end| due.unwrap_or_else(Instant::now) >= end);
        (number < self.count_max && !over).then_some((number, due))
    }
}

/// Puts the load on the target until it is to stop, and until every answer is there.
pub(crate) async fn run(target: &Arc<Target>, load: Load, stop: Stop) -> anyhow::Result<Measured> {
    // All connections stand before the clock starts: a handshake is not a request.
    let mut senders = Vec::new();
    for _ in 0..load.connections {
        let sender = target.connect().await.with_context(|| format!("cannot connect to {}", target.host))?;
        senders.push(sender);
    }
    let start = Instant::now();
    let (count_max, end) = match stop {
        Stop::Count(count) => (count, None),
        Stop::After(time) => (u64::MAX, Some(start + time)),
    };
    anyhow::ensure!(load.rate.is_none_or(|rate| rate.is_finite() && rate > 0.0), "the rate must be positive");
    let interval = load.rate.map(f64::recip);
    let turns = Arc::new(Turns { next: AtomicU64::new(0), count_max, start, end, interval });
    let mut connections = JoinSet::new();
    for sender in senders {
        connections.spawn(connection(target.clone(), sender, turns.clone()));
    }
    Ok(Measured::of(connections.join_all().await, start.elapsed()))
}

async fn connection(target: Arc<Target>, sender: SendRequest<Full<Bytes>>, turns: Arc<Turns>) -> Measured {
    let mut measured = Measured::default();
    let mut sender = Some(sender);
    while let Some((number, due)) = turns.take() {
        if let Some(due) = due {
            wait_until(due).await;
        }
        // In the open loop, a late start is part of the latency.
        let since = due.unwrap_or_else(Instant::now);
        match answer(&target, &mut sender, number).await {
            Ok(()) => measured.good(since.elapsed()),
            Err(error) => measured.bad(|| format!("{error:#}")),
        }
    }
    measured
}

/// The runtime's own timer counts whole milliseconds, which is longer than a call takes.
async fn wait_until(due: Instant) {
    let sleep = move || std::thread::sleep(due.saturating_duration_since(Instant::now()));
    // Cut short only when the runtime ends.
    let _slept = tokio::task::spawn_blocking(sleep).await;
}

/// Sends the request on the connection, or on a new one if that is spent.
async fn answer(
    target: &Target,
    sender: &mut Option<SendRequest<Full<Bytes>>>,
    number: u64,
) -> anyhow::Result<()> {
    let mut open = match sender.take().filter(|sender| !sender.is_closed()) {
        Some(open) => open,
        None => target.connect().await?,
    };
    let result = timeout(ANSWER_LIMIT, call(&mut open, target.request(number))).await;
    // After a missing answer the connection is of no use: the answer may still come.
    let result = result.with_context(|| format!("no answer in {ANSWER_LIMIT:?}"))?;
    *sender = Some(open);
    result
}

async fn call(sender: &mut SendRequest<Full<Bytes>>, request: Request<Full<Bytes>>) -> anyhow::Result<()> {
    sender.ready().await?;
    let response = sender.send_request(request).await?;
    let status = response.status();
    let body = response.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status == StatusCode::OK, "{status}: {}", shown(&body));
    // Both kinds of refusal come with status 200.
    anyhow::ensure!(!contains(&body, br#""isError":true"#), "refused: {}", shown(&body));
    anyhow::ensure!(contains(&body, br#""result":"#), "no result: {}", shown(&body));
    Ok(())
}

fn contains(body: &[u8], what: &[u8]) -> bool {
    body.windows(what.len()).any(|window| window == what)
}

/// The body's beginning, for an error message.
fn shown(body: &[u8]) -> String {
    const SHOWN_BYTES_MAX: usize = 300;
    String::from_utf8_lossy(body.get(..SHOWN_BYTES_MAX).unwrap_or(body)).into_owned()
}
