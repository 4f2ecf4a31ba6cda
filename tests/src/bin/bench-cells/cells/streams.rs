//! Many event streams at once: what an idle one costs in memory, and how late an event is.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use guard_tests::tls::client_config;
use rustls::pki_types::ServerName;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use super::{Cell, PORT};

/// Handshakes under way at once.
const OPENING_MAX: usize = 64;
const OPENING_LIMIT: Duration = Duration::from_secs(120);
/// Of each second's events none may be lost; a server and a client need a moment to begin.
const SETTLING: Duration = Duration::from_secs(2);

/// The streams of one cell.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) cell: &'static str,
    /// Of the proxy, for each idle stream
    pub(crate) rss_kib: Option<f64>,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
    pub(crate) events: usize,
}

impl Measured {
    pub(crate) fn json(&self) -> Value {
        let Self { cell, rss_kib, p50_us, p99_us, events } = self;
        json!({"cell": cell, "rss_kib": rss_kib, "p50_us": p50_us, "p99_us": p99_us, "events": events})
    }
}

/// Measures `count` streams through each cell, one cell after the other.
pub(crate) fn run(cells: &[Cell], count: usize, seconds: f64) -> anyhow::Result<Vec<Measured>> {
    let measure = |cell: &Cell| {
        cell.answers()?;
        // Once, so that what is made for a first stream does not count.
        cell.open(count.min(OPENING_MAX), 0, 0.1)?;
        let before = cell.usage()?;
        let (_, during) = cell.open(count, 0, seconds)?;
        let rss_kib = before.zip(during).map(|(before, during)| {
            let streams = u32::try_from(count).map_or(f64::MAX, f64::from);
            (during.rss_mib - before.rss_mib) * 1024.0 / streams
        });
        let (mut delays, _) = cell.open(count, 1000, seconds)?;
        ensure!(!delays.is_empty(), "no event came");
        delays.sort_unstable();
        let part = |percent: usize| f64::from(delays[(delays.len() - 1) * percent / 100]);
        let (p50_us, p99_us) = (part(50), part(99));
        Ok(Measured { cell: cell.kind.name(), rss_kib, p50_us, p99_us, events: delays.len() })
    };
    cells.iter().map(|cell| measure(cell).with_context(|| format!("streams, {}", cell.kind.name()))).collect()
}

impl Cell {
    /// Opens the streams, and listens for `seconds` when all are there. Gives each event's delay in microseconds, and
    /// what the proxy used at the end.
    fn open(
        &self,
        count: usize,
        every_ms: u32,
        seconds: f64,
    ) -> anyhow::Result<(Vec<u32>, Option<crate::usage::Usage>)> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.netns.run(|| {
            runtime.block_on(async {
                let tls = self.ca.as_ref().map(|ca| client_config(Some(ca))).transpose()?;
                let tls = tls.map(|config| TlsConnector::from(Arc::new(config)));
                let request = Arc::new(self.request(every_ms)?);
                let opening = Arc::new(Semaphore::new(OPENING_MAX));
                let (ready, mut is_ready) = mpsc::channel(count.max(1));
                let (listen, listening) = watch::channel(false);
                let mut streams = JoinSet::new();
                for _ in 0..count {
                    let (tls, request, opening) = (tls.clone(), request.clone(), opening.clone());
                    let (ready, listening) = (ready.clone(), listening.clone());
                    streams.spawn(async move {
                        let place = opening.acquire_owned().await?;
                        let tcp = TcpStream::connect((std::net::Ipv4Addr::LOCALHOST, PORT)).await?;
                        tcp.set_nodelay(true)?;
                        let told = || {
                            drop(place);
                            ready.try_send(()).is_ok()
                        };
                        match tls {
                            None => listen_to(tcp, &request, told, listening).await,
                            Some(tls) => {
                                let tls = tls.connect(ServerName::try_from("localhost")?, tcp).await?;
                                listen_to(tls, &request, told, listening).await
                            }
                        }
                    });
                }
                let all = async {
                    for _ in 0..count {
                        tokio::select! {
                            _ready = is_ready.recv() => {}
                            Some(ended) = streams.join_next() => {
                                ended?.context("a stream ended")?;
                            }
                        }
                    }
                    anyhow::Ok(())
                };
                tokio::time::timeout(OPENING_LIMIT, all).await.context("not all streams were opened")??;
                tokio::time::sleep(SETTLING).await;
                listen.send_replace(true);
                tokio::time::sleep(Duration::from_secs_f64(seconds)).await;
                let usage = self.usage()?;
                listen.send_replace(false);
                drop(listen);
                let mut delays = Vec::new();
                while let Some(ended) = streams.join_next().await {
                    delays.extend(ended??);
                }
                // The guard sees the ends and writes its records.
                thread::sleep(SETTLING);
                Ok((delays, usage))
            })
        })
    }

    fn request(&self, every_ms: u32) -> anyhow::Result<Vec<u8>> {
        let body = std::fs::read_to_string(self.dir.path().join("call.json"))?.replace("ID", "1");
        let mut lines = vec![
            "POST /mcp HTTP/1.1".to_owned(),
            "Host: localhost".to_owned(),
            "Content-Type: application/json".to_owned(),
            "Accept: application/json, text/event-stream".to_owned(),
        ];
        lines.extend(self.headers.iter().cloned());
        lines.extend([format!("X-Stream-Ms: {every_ms}"), format!("Content-Length: {}", body.len())]);
        let head = format!("{}\r\n\r\n{body}", lines.join("\r\n"));
        Ok(head.into_bytes())
    }
}

/// Takes events until the sender of `listening` is gone; notes the delays of those that come while it says true.
async fn listen_to(
    mut io: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
    told: impl FnOnce() -> bool,
    mut listening: watch::Receiver<bool>,
) -> anyhow::Result<Vec<u32>> {
    const SENT: &str = "\"data\":";
    io.write_all(request).await?;
    io.flush().await?;
    let mut told = Some(told);
    let mut delays = Vec::new();
    let mut bytes = vec![0; 2048];
    loop {
        let count = tokio::select! {
            ended = listening.changed() => match ended {
                Ok(()) => continue,
                Err(_over) => return Ok(delays),
            },
            count = io.read(&mut bytes) => count?,
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        ensure!(count > 0, "the stream ended: {}", String::from_utf8_lossy(&bytes));
        let text = String::from_utf8_lossy(bytes.get(..count).unwrap_or_default());
        for (at, _) in text.match_indices(SENT) {
            let digits = text[at + SENT.len()..].split(|letter: char| !letter.is_ascii_digit()).next();
            let sent = Duration::from_nanos(digits.unwrap_or_default().parse()?);
            if *listening.borrow() {
                delays.push(u32::try_from(now.saturating_sub(sent).as_micros()).unwrap_or(u32::MAX));
            }
            if let Some(told) = told.take() {
                ensure!(told(), "nobody waits");
            }
        }
    }
}
