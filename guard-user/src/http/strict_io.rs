//! A stream whose reader sees only well-framed HTTP/1.1 requests.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::framing::{FramingError, Inspector};

/// Put between a connection and the HTTP/1 server (not HTTP/2, whose frames have one reading).
///
/// On a violation a read fails with `InvalidData` around a [`FramingError`], and nothing of that read reaches the
/// server. Writes go through, so that the client still gets an answer. It depends on what the server had before:
/// - a whole head: the request's service sees the failing body ([`FramingError::find`]) and answers. Later reads wait:
///   another error would make hyper end the connection before that answer is out;
/// - else hyper ends the connection, often without an error. The owner drives it with `poll_without_shutdown`,
///   takes the stream back with `into_parts`, asks [`Self::fault_in_head`], writes the answer and closes.
#[derive(Debug)]
pub struct StrictIo<S> {
    stream: S,
    inspector: Inspector,
    head_patience: Duration,
    /// Runs from the first bytes of a head that did not come whole; most do, and need no clock. For a connection's
    /// first head it runs from the beginning: who has proven nothing yet may not hold a place for `idle_seconds`.
    head_clock: Option<Pin<Box<Sleep>>>,
    /// No byte has come.
    is_fresh: bool,
    /// The fault came within a body that a service was reading.
    is_told: bool,
}

impl<S> StrictIo<S> {
    /// `head_bytes_max` and `head_patience` bound the request line and headers of one request.
    pub fn new(stream: S, head_bytes_max: usize, head_patience: Duration) -> Self {
        Self {
            stream,
            inspector: Inspector::new(head_bytes_max),
            head_patience,
            head_clock: Some(Box::pin(tokio::time::sleep(head_patience))),
            is_fresh: true,
            is_told: false,
        }
    }

    /// Why reading ended, unless a request's service has been told by its body.
    pub fn fault_in_head(&self) -> Option<FramingError> {
        self.inspector.fault().filter(|_| !self.is_told)
    }

    pub fn stream(&self) -> &S {
        &self.stream
    }

    pub fn into_stream(self) -> S {
        self.stream
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for StrictIo<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.is_told {
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let Poll::Ready(read) = Pin::new(&mut this.stream).poll_read(cx, buf) else {
            let Some(clock) = &mut this.head_clock else { return Poll::Pending };
            ready!(clock.as_mut().poll(cx));
            if this.is_fresh {
                // Nothing was asked, so nothing is refused: the connection ends as if the client had ended it.
                return Poll::Ready(Ok(()));
            }
            this.inspector.fail(FramingError::HeadSlow);
            return Poll::Ready(Err(FramingError::HeadSlow.into()));
        };
        read?;
        this.is_fresh &= buf.filled().len() == before;
        let was_in_body = this.inspector.is_in_body();
        let verdict = this.inspector.inspect(buf.filled().get(before..).unwrap_or_default());
        if !this.inspector.is_in_head() {
            this.head_clock = None;
        } else if this.head_clock.is_none() {
            this.head_clock = Some(Box::pin(tokio::time::sleep(this.head_patience)));
        }
        if verdict.is_err() {
            buf.set_filled(before);
            this.is_told = was_in_body;
        }
        Poll::Ready(verdict.map_err(Into::into))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for StrictIo<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http::{Request, Response};
    use http_body_util::{BodyExt as _, Full};
    use hyper::body::Incoming;
    use hyper::server::conn::http1;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Sends `pieces` one by one to a hyper server behind the inspector; gives what the client read, how many whole
    /// requests the server saw, and the fault.
    fn serve(pieces: &[&[u8]]) -> (String, usize, Option<FramingError>) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let (mut client, server) = tokio::io::duplex(64 * 1024);
            let seen = Arc::new(AtomicUsize::new(0));
            let counter = Arc::clone(&seen);
            let service = service_fn(move |request: Request<Incoming>| {
                let counter = Arc::clone(&counter);
                // Boxed: `poll_without_shutdown` needs a future that can move.
                Box::pin(async move {
                    let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes);
                    let body = match body {
                        Ok(body) => {
                            counter.fetch_add(1, Ordering::Relaxed);
                            body
                        }
                        Err(error) => FramingError::find(&error).map_or("?", FramingError::reason).into(),
                    };
                    Ok::<_, Infallible>(Response::new(Full::new(body)))
                })
            });
            let io = TokioIo::new(StrictIo::new(server, 4096, PATIENCE));
            let mut connection = http1::Builder::new().half_close(false).serve_connection(io, service);
            let owner = async {
                _ = poll_fn(|cx| connection.poll_without_shutdown(cx)).await;
                let strict = connection.into_parts().io.into_inner();
                let fault = strict.fault_in_head();
                let mut stream = strict.into_stream();
                if let Some(fault) = fault {
                    let head =
                        format!("HTTP/1.1 {} refused\r\nconnection: close\r\n\r\n", fault.status().as_u16());
                    stream.write_all(head.as_bytes()).await.unwrap();
                }
                fault
            };
            let talk = async {
                for piece in pieces {
                    // Fails once the server has closed.
                    _ = client.write_all(piece).await;
                    tokio::task::yield_now().await;
                }
                _ = client.shutdown().await;
                let mut answer = String::new();
                client.read_to_string(&mut answer).await.unwrap();
                answer
            };
            let (fault, answer) = tokio::join!(owner, talk);
            (answer, seen.load(Ordering::Relaxed), fault)
        })
    }

    #[test]
    fn a_well_framed_request_passes_whole() {
        let (answer, seen, fault) =
            serve(&[b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Le", b"ngth: 2\r\n\r\nhi"]);
        assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("hi"), "{answer}");
        assert_eq!((seen, fault), (1, None));
    }

    #[test]
    fn a_refused_request_is_answered_400_and_never_served() {
        let smuggled = b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
        let (answer, seen, fault) = serve(&[smuggled]);
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!((seen, fault), (0, Some(FramingError::TwoLengths)));
        // The same, byte by byte.
        let bytes: Vec<&[u8]> = smuggled.chunks(1).collect();
        assert_eq!(serve(&bytes).1, 0);
    }

    #[test]
    fn a_bad_body_in_the_same_bytes_as_its_head_is_answered_too() {
        let request =
            b"POST /mcp HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2;x\r\nhi\r\n0\r\n\r\n";
        let (answer, seen, fault) = serve(&[request]);
        assert!(answer.starts_with("HTTP/1.1 400"), "{answer}");
        assert_eq!((seen, fault), (0, Some(FramingError::ChunkExtension)));
    }

    #[test]
    fn a_good_request_before_a_bad_one_is_served() {
        let good = b"POST /mcp HTTP/1.1\r\nHost: h\r\nContent-Length: 2\r\n\r\nhi";
        let (answer, seen, fault) = serve(&[good, b"", b"", b"", b"GET /mcp HTTP/1.1\nHost: h\r\n\r\n"]);
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("HTTP/1.1 400"), "{answer}");
        assert_eq!((seen, fault), (1, Some(FramingError::BareLineFeed)));
    }

    #[test]
    fn a_body_whose_chunks_break_a_rule_never_completes() {
        let head = b"POST /mcp HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
        let (answer, seen, fault) = serve(&[head, b"2\r\nhi\r\n", b"0\r\nMcp-Name: x\r\n\r\n"]);
        assert!(answer.ends_with("\r\n\r\ntrailer"), "{answer}");
        assert_eq!((seen, fault), (0, None));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_head_is_given_up_and_answered() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut strict = StrictIo::new(server, 4096, PATIENCE);
        let mut buffer = [0; 64];
        client.write_all(b"POST /mcp HTTP/1.1\r\nHo").await.unwrap();
        assert_ne!(strict.read(&mut buffer).await.unwrap(), 0);
        // One byte now and then keeps nothing alive.
        tokio::time::advance(PATIENCE / 2).await;
        client.write_all(b"s").await.unwrap();
        assert_ne!(strict.read(&mut buffer).await.unwrap(), 0);
        let error = tokio::time::timeout(PATIENCE, strict.read(&mut buffer)).await.unwrap().unwrap_err();
        assert_eq!(FramingError::find(&error), Some(FramingError::HeadSlow));
        assert_eq!(strict.fault_in_head(), Some(FramingError::HeadSlow));
        strict.write_all(b"HTTP/1.1 408 refused").await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_whose_first_request_never_comes_is_ended_without_an_answer() {
        let (client, server) = tokio::io::duplex(1024);
        let mut strict = StrictIo::new(server, 4096, PATIENCE);
        let read = tokio::time::timeout(PATIENCE * 2, strict.read(&mut [0; 64])).await;
        assert_eq!(read.unwrap().unwrap(), 0);
        assert_eq!(strict.fault_in_head(), None);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_no_head_to_wait_for() {
        let (mut client, server) = tokio::io::duplex(1024);
        let mut strict = StrictIo::new(server, 4096, PATIENCE);
        let mut buffer = [0; 64];
        client.write_all(b"GET /mcp HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
        assert_ne!(strict.read(&mut buffer).await.unwrap(), 0);
        assert!(tokio::time::timeout(PATIENCE * 10, strict.read(&mut buffer)).await.is_err());
    }
}
