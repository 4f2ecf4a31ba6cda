//! HTTP/1.1 and HTTP/2 connections with every limit set by hand: a library's default is not a decision.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Response;
use http_body_util::BodyExt;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::sync::watch;

use super::activity::Activity;
use super::strict_io::StrictIo;
use super::{Body, FramingError};
use crate::config::Limits;
use crate::tls::Secured;

/// HTTP/2 streams that a client may open and reset before the guard ends the connection (rapid reset).
const H2_PENDING_RESETS_MAX: usize = 20;
/// HTTP/2 streams that the guard may reset for a client's faults before it ends the connection.
const H2_LOCAL_RESETS_MAX: usize = 100;
/// Bytes the guard buffers for one slow HTTP/2 reader.
const H2_SEND_BYTES_MAX: usize = 64 * 1024;
/// How often a silent HTTP/2 peer is asked whether it lives, and how long it may take to answer.
const H2_PING_INTERVAL: Duration = Duration::from_secs(30);
const H2_PING_PATIENCE: Duration = Duration::from_secs(20);

/// What a connection's requests are answered with.
pub trait Handler: Clone + Send + 'static {
    fn answer(&self, request: Request<Incoming>) -> impl Future<Output = Response<Body>> + Send;

    /// The last answer on a connection whose next request cannot be told from the bytes around it.
    fn refuse(&self, fault: FramingError) -> impl Future<Output = Response<Body>> + Send;
}

/// Serves one connection until it ends, is idle for `idle_seconds`, or `drain` turns true and its last answer
/// is out.
pub async fn serve(secured: Secured, limits: &Limits, drain: watch::Receiver<bool>, handler: impl Handler) {
    let h2 = secured.is_h2();
    // Boxed, or each connection would hold the room of the largest.
    match secured {
        Secured::Tls(io) if h2 => Box::pin(serve_h2(*io, limits, drain, handler)).await,
        Secured::Tls(io) => Box::pin(serve_h1(*io, limits, drain, handler)).await,
        Secured::Plain(io) => Box::pin(serve_h1(io, limits, drain, handler)).await,
    }
}

async fn serve_h1<Io>(io: Io, limits: &Limits, mut drain: watch::Receiver<bool>, handler: impl Handler)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let mut io = StrictIo::new(io, limits.header_bytes_max, Duration::from_secs(limits.header_seconds));
    {
        let service = service_fn(|request| {
            let handler = handler.clone();
            // Boxed: hyper keeps the room for a future as long as the connection, and an idle stream needs none.
            async move { Ok::<_, Infallible>(Box::pin(handler.answer(request)).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            // hyper's clock for a head starts when the last answer is out, so this is the idle limit;
            // `StrictIo` bounds the head itself from its first byte.
            .header_read_timeout(Duration::from_secs(limits.idle_seconds))
            .max_headers(limits.headers_max)
            .max_header_size(limits.header_bytes_max)
            .half_close(false)
            .serve_connection(TokioIo::new(KeepOpen(&mut io)), service);
        let mut connection = pin!(connection);
        tokio::select! {
            _ended = connection.as_mut() => {}
            () = turned_true(&mut drain) => {
                connection.as_mut().graceful_shutdown();
                let _ended = connection.await;
            }
        }
    }
    if let Some(fault) = io.fault_in_head() {
        let _sent = write_last(&mut io, handler.refuse(fault).await).await;
    }
    let _closed = io.shutdown().await;
}

async fn serve_h2<Io>(io: Io, limits: &Limits, mut drain: watch::Receiver<bool>, handler: impl Handler)
where
    Io: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Arc::new(Activity::default());
    let header_patience = Duration::from_secs(limits.header_seconds);
    let service = service_fn(|request| {
        let underway = activity.begin();
        let handler = handler.clone();
        async move {
            let answer = handler.answer(request).await;
            Ok::<_, Infallible>(answer.map(|body| underway.until_end_of(body)))
        }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits.h2_streams_max)
        .max_header_list_size(u32::try_from(limits.header_bytes_max).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(H2_PENDING_RESETS_MAX)
        .max_local_error_reset_streams(H2_LOCAL_RESETS_MAX)
        .max_send_buf_size(H2_SEND_BYTES_MAX)
        .keep_alive_interval(H2_PING_INTERVAL)
        .keep_alive_timeout(H2_PING_PATIENCE)
        .serve_connection(TokioIo::new(io), service);
    let mut connection = pin!(connection);
    tokio::select! {
        _ended = connection.as_mut() => return,
        () = turned_true(&mut drain) => {}
        () = activity.idle_for(header_patience, Duration::from_secs(limits.idle_seconds)) => {}
    }
    connection.as_mut().graceful_shutdown();
    // hyper waits without end for a client that has not said its first words, and keep-alive pings begin only
    // after those. What the client still has under way may end; then it has this long to take the farewell.
    tokio::select! {
        _ended = connection.as_mut() => {}
        () = activity.idle_for(header_patience, header_patience) => {}
    }
}

/// Waits for `true`; forever if the sender is gone, as then nobody will ask for a drain.
async fn turned_true(watched: &mut watch::Receiver<bool>) {
    if watched.wait_for(|value| *value).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// An answer that hyper cannot send any more, since it gave the connection up.
async fn write_last(io: &mut (impl AsyncWrite + Unpin), answer: Response<Body>) -> io::Result<()> {
    let (head, body) = answer.into_parts();
    let Ok(body) = body.collect().await.map(http_body_util::Collected::to_bytes);
    let status = head.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut message = format!("HTTP/1.1 {} {reason}\r\n", status.as_u16()).into_bytes();
    for (name, value) in &head.headers {
        message.extend_from_slice(name.as_str().as_bytes());
        message.extend_from_slice(b": ");
        message.extend_from_slice(value.as_bytes());
        message.extend_from_slice(b"\r\n");
    }
    message
        .extend_from_slice(format!("content-length: {}\r\nconnection: close\r\n\r\n", body.len()).as_bytes());
    message.extend_from_slice(&body);
    io.write_all(&message).await
}

/// Lets hyper use a connection but not close it, so that a last answer can still be written.
struct KeepOpen<'a, Io>(&'a mut Io);

impl<Io: AsyncRead + Unpin> AsyncRead for KeepOpen<'_, Io> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<Io: AsyncWrite + Unpin> AsyncWrite for KeepOpen<'_, Io> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct Nobody;

    impl Handler for Nobody {
        async fn answer(&self, _request: Request<Incoming>) -> Response<Body> {
            Response::new(Body::empty())
        }

        async fn refuse(&self, _fault: FramingError) -> Response<Body> {
            Response::new(Body::empty())
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_never_speaks_its_http2_is_given_up() {
        let (client, io) = tokio::io::duplex(1024);
        let (_drain, draining) = watch::channel(false);
        let limits = Limits::default();
        let bound = Duration::from_secs(2 * limits.header_seconds + 1);
        let served = tokio::time::timeout(bound, serve_h2(io, &limits, draining, Nobody)).await;
        assert!(served.is_ok(), "it holds its place among the connections for ever");
        drop(client);
    }
}
