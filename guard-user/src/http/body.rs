//! What the guard answers with: all at once, or a server's stream as it comes.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::Held;

/// Most bytes handed out at once. The HTTP library takes a piece as soon as the client has room for a byte, so more
/// would be held where nobody counts it.
const PIECE_BYTES_MAX: usize = 64 * 1024;

/// A response body. It cannot fail: a stream whose server fails just ends, and its closing record says why.
pub enum Body {
    Whole(Whole),
    Stream(Stream),
}

impl Body {
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub fn whole(bytes: impl Into<Bytes>) -> Self {
        Self::Whole(Whole { rest: bytes.into(), _held: None })
    }

    /// A whole one, with the account of its memory.
    pub fn holding(bytes: Bytes, held: Held) -> Self {
        Self::Whole(Whole { rest: bytes, _held: Some(held) })
    }
}

type Stream = Pin<Box<dyn HttpBody<Data = Bytes, Error = Infallible> + Send>>;

/// What the client has not taken yet.
pub struct Whole {
    rest: Bytes,
    _held: Option<Held>,
}

impl Whole {
    fn next_piece(&mut self) -> Option<Bytes> {
        let length = self.rest.len().min(PIECE_BYTES_MAX);
        (length > 0).then(|| self.rest.split_to(length))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(body) => Poll::Ready(body.next_piece().map(|piece| Ok(Frame::data(piece)))),
            Self::Stream(body) => body.as_mut().poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.rest.is_empty(),
            Self::Stream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(body) => SizeHint::with_exact(u64::try_from(body.rest.len()).unwrap_or(u64::MAX)),
            Self::Stream(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::config::Limits;
    use crate::http::Memory;
    use crate::types::ServerName;

    #[tokio::test]
    async fn a_large_body_is_handed_out_in_pieces_and_holds_its_memory_to_the_end() {
        let server = ServerName::parse("demo").unwrap();
        let limits = Limits { answers_bytes_max: 2 * PIECE_BYTES_MAX, ..Limits::default() };
        let memory = Memory::new(&limits);
        let mut held = memory.answer(&server);
        assert!(held.take(PIECE_BYTES_MAX + 1));
        let mut body = Body::holding(vec![b'x'; PIECE_BYTES_MAX + 1].into(), held);
        let mut lengths = Vec::new();
        while !body.is_end_stream() {
            assert!(!memory.answer(&server).take(PIECE_BYTES_MAX), "given back too early");
            let Ok(frame) = body.frame().await.unwrap();
            lengths.push(frame.into_data().unwrap().len());
        }
        assert_eq!(lengths, [PIECE_BYTES_MAX, 1]);
        drop(body);
        assert!(memory.answer(&server).take(2 * PIECE_BYTES_MAX));
    }
}
