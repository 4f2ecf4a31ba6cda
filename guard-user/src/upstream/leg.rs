//! One connection to a server, and the body that comes over it.
//!
//! No task of its own moves a connection's bytes: the call that uses it does. A task for each would be woken twice in
//! every call, often on another core, which costs more than what it does there.

use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::client::conn::TrySendError;
use hyper::client::conn::http1::{self, Connection, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use super::pool::Pool;
use crate::kernel::Door;

type Wire = Connection<TokioIo<TcpStream>, Full<Bytes>>;

/// The guard's leg of a call: a connection to a server.
pub(super) struct Leg {
    sender: SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<Pin<Box<Wire>>>,
}

impl Leg {
    pub(super) async fn new(io: TcpStream) -> io::Result<Self> {
        let (sender, connection) = http1::handshake(TokioIo::new(io)).await.map_err(io::Error::other)?;
        Ok(Self { sender, connection: Some(Box::pin(connection)) })
    }

    /// Sends `request` and waits for the head of its answer. A request that was not sent comes back in the error.
    pub(super) async fn ask(
        &mut self,
        request: Request<Full<Bytes>>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Full<Bytes>>>> {
        let mut answer = pin!(self.sender.try_send_request(request));
        poll_fn(|cx| {
            self.drive(cx);
            answer.as_mut().poll(cx)
        })
        .await
    }

    /// Whether it can take a request now. Notices that the server has closed it.
    pub(super) fn is_ready(&mut self) -> bool {
        self.drive(&mut Context::from_waker(Waker::noop()));
        self.connection.is_some() && self.sender.is_ready()
    }

    /// Moves what can be moved. An error reaches whoever waits for the answer or its body.
    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(connection) = &mut self.connection
            && connection.as_mut().poll(cx).is_ready()
        {
            self.connection = None;
        }
    }
}

/// The body of a server's answer. Read to its end, its connection is free for another call; dropped before, the
/// connection is closed, which tells the server that nobody listens any more.
pub struct ReplyBody {
    incoming: Incoming,
    leg: Option<Leg>,
    door: Door,
    pool: Arc<Pool>,
}

impl ReplyBody {
    pub(super) fn new(incoming: Incoming, leg: Leg, door: Door, pool: Arc<Pool>) -> Self {
        Self { incoming, leg: Some(leg), door, pool }
    }

    fn poll_once(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if let Some(leg) = &mut self.leg {
            leg.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }
}

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let frame = match this.poll_once(cx) {
            // Only now does the connection know that more is wanted.
            Poll::Pending => ready!(this.poll_once(cx)),
            Poll::Ready(frame) => frame,
        };
        match &frame {
            Some(Ok(_)) => {}
            Some(Err(_broken)) => this.leg = None,
            None => {
                if let Some(leg) = this.leg.take() {
                    this.pool.put(this.door, leg);
                }
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
