//! From plain HTTP to a guard's TLS, for programs that speak HTTP only.
//!
//! It adds the agent's headers to each request, below those that are there, and passes every other byte on as it
//! came: the request line, `Host`, `Origin`, oddly written names and all of what is answered. Of a request it reads
//! no more than where it ends.

use std::io;
use std::net::{SocketAddr, TcpListener as BlockingListener};
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use anyhow::{Context, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio_rustls::TlsConnector;

use crate::client::Endpoint;

/// No program that the tests run sends more headers than this.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// Listens on a free loopback port until it is dropped. It and its connections are in the network of the thread that
/// started it.
#[derive(Debug)]
pub struct Connector {
    pub address: SocketAddr,
    /// Dropped first: that ends the thread.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Where connections go, and what is added to their requests.
struct Way {
    guard: SocketAddr,
    tls: TlsConnector,
    added: Vec<u8>,
}

impl Connector {
    /// To the guard at `guard`, which must have a certificate of the endpoint's CA for `localhost`, with the headers
    /// of the endpoint.
    pub fn start(guard: SocketAddr, endpoint: &Endpoint) -> anyhow::Result<Self> {
        let ca = endpoint.ca.as_deref().context("there is no CA to trust")?;
        let way = Arc::new(Way { guard, tls: tls(ca)?, added: lines(&endpoint.headers) });
        let listener = BlockingListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = serve(listener, &way) => eprintln!("the connector ended: {result:?}"),
                    _dropped = stopped => {}
                }
            });
        });
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// The MCP endpoint as the programs see it.
    pub fn url(&self) -> String {
        format!("http://{}/mcp", self.address)
    }
}

impl Drop for Connector {
    fn drop(&mut self) {
        drop(self.stop.take());
        // A panic of the thread has been printed, and fails the test by what is missing.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn tls(ca: &Path) -> anyhow::Result<TlsConnector> {
    let mut tls = crate::tls::client_config(Some(ca))?;
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(tls).into())
}

fn lines(headers: &[(String, String)]) -> Vec<u8> {
    headers.iter().flat_map(|(name, value)| format!("{name}: {value}\r\n").into_bytes()).collect()
}

async fn serve(listener: BlockingListener, way: &Arc<Way>) -> io::Result<()> {
    let listener = TcpListener::from_std(listener)?;
    loop {
        let (client, _) = listener.accept().await?;
        let way = Arc::clone(way);
        tokio::spawn(async move {
            if let Err(error) = connection(client, &way).await {
                eprintln!("connector: {error:#}");
            }
        });
    }
}

/// Until either side hangs up. What one side leaves, the other one is left too.
async fn connection(client: TcpStream, way: &Way) -> anyhow::Result<()> {
    let guard = TcpStream::connect(way.guard).await.context("no connection to the guard")?;
    client.set_nodelay(true)?;
    guard.set_nodelay(true)?;
    let guard = way.tls.connect("localhost".try_into()?, guard).await.context("the TLS handshake")?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_guard, mut to_guard) = tokio::io::split(guard);
    tokio::select! {
        result = requests(&mut from_client, &mut to_guard, &way.added) => result,
        // A side that resets the connection has left, too.
        _left = tokio::io::copy(&mut from_guard, &mut to_client) => Ok(()),
    }
}

/// Passes requests on, with the added lines, until the client has no more.
async fn requests(
    client: &mut (impl AsyncRead + Unpin),
    guard: &mut (impl AsyncWrite + Unpin),
    added: &[u8],
) -> anyhow::Result<()> {
    let mut unread = Vec::new();
    while let Some(end) = head(client, &mut unread).await? {
        let mut left = body_length(&unread[..end])?;
        let blank = end - 2;
        let mut request = unread[..blank].to_vec();
        request.extend_from_slice(added);
        request.extend_from_slice(&unread[blank..end]);
        unread.drain(..end);
        loop {
            let now = left.min(unread.len());
            request.extend(unread.drain(..now));
            // Whoever is answered early may hang up before the rest.
            if guard.write_all(&request).await.and(guard.flush().await).is_err() {
                return Ok(());
            }
            request.clear();
            left -= now;
            if left == 0 {
                break;
            }
            if matches!(client.read_buf(&mut unread).await, Ok(0) | Err(_)) {
                return Ok(());
            }
        }
    }
    Ok(())
}

/// Reads until a head is whole and returns its length with the empty line; none if the client has left before one.
async fn head(client: &mut (impl AsyncRead + Unpin), unread: &mut Vec<u8>) -> anyhow::Result<Option<usize>> {
    loop {
        if let Some(at) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
            return Ok(Some(at + 4));
        }
        ensure!(unread.len() < HEAD_BYTES_MAX, "a head without an end");
        if matches!(client.read_buf(unread).await, Ok(0) | Err(_)) {
            return Ok(None);
        }
    }
}

fn body_length(head: &[u8]) -> anyhow::Result<usize> {
    let head = String::from_utf8_lossy(head);
    let mut length = 0;
    for (name, value) in head.lines().filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            bail!("the connector knows no transfer encoding: {head}");
        }
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse()?;
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn passed(from: &[u8]) -> String {
        let mut to = Vec::new();
        requests(&mut &*from, &mut to, b"X-Client-ID: it\r\n").await.unwrap();
        String::from_utf8(to).unwrap()
    }

    #[tokio::test]
    async fn every_request_of_a_connection_gets_the_lines_and_loses_nothing() {
        let from = "POST /mcp HTTP/1.1\r\nhOsT:evil.example.com \r\nContent-LENGTH: 3\r\n\r\n\r\n\
                    !GET /mcp HTTP/1.1\r\nOrigin:  \tx\r\n\r\n";
        let wanted = "POST /mcp HTTP/1.1\r\nhOsT:evil.example.com \r\nContent-LENGTH: 3\r\nX-Client-ID: it\r\n\r\n\
                      \r\n!GET /mcp HTTP/1.1\r\nOrigin:  \tx\r\nX-Client-ID: it\r\n\r\n";
        assert_eq!(passed(from.as_bytes()).await, wanted);
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_passed_as_far_as_it_came() {
        let begun = "POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n{";
        assert!(passed(begun.as_bytes()).await.ends_with("X-Client-ID: it\r\n\r\n{"));
    }
}
