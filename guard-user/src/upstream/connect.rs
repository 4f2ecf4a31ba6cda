//! Opens connections to protected servers: the kernel lets only these through.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper::rt::ReadBufCursor;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tower_service::Service;

use crate::kernel::Dialer;

/// Dials by the port in the request's address.
#[derive(Clone)]
pub(super) struct Connect {
    dialer: Dialer,
    patience: Duration,
}

impl Connect {
    pub(super) fn new(dialer: Dialer, patience: Duration) -> Self {
        Self { dialer, patience }
    }
}

impl Service<Uri> for Connect {
    type Response = Leg;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Leg>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, address: Uri) -> Self::Future {
        let Self { dialer, patience } = self.clone();
        Box::pin(async move {
            let port = address.port_u16().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let io = tokio::time::timeout(patience, dialer.dial(port)).await??;
            Ok(Leg(TokioIo::new(io)))
        })
    }
}

/// The guard's leg of a call: a connection to a server.
pub(super) struct Leg(TokioIo<TcpStream>);

impl Connection for Leg {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl hyper::rt::Read for Leg {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl hyper::rt::Write for Leg {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }
}
