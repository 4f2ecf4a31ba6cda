//! Whether anything is under way on a connection, and since when not.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::watch;

use super::Body;

/// Counts the exchanges under way on one connection.
pub(super) struct Activity {
    underway: watch::Sender<usize>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { underway: watch::Sender::new(0) }
    }
}

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Underway {
        self.underway.send_modify(|count| *count += 1);
        Underway(self.clone())
    }

    /// Ends when nothing has been under way for `patience`.
    pub(super) async fn idle_for(&self, patience: Duration) {
        let mut underway = self.underway.subscribe();
        loop {
            let idle = *underway.borrow_and_update() == 0;
            let changed = underway.changed();
            if !idle {
                // The sender lives in `self`, so this cannot fail.
                let _changed = changed.await;
            } else if tokio::time::timeout(patience, changed).await.is_err() {
                return;
            }
        }
    }
}

/// One exchange; over when this is dropped.
pub(super) struct Underway(Arc<Activity>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.underway.send_modify(|count| *count -= 1);
    }
}

impl Underway {
    /// The exchange lasts as long as its answer's body.
    pub(super) fn until_end_of(self, body: Body) -> Lasting {
        Lasting { body, _underway: self }
    }
}

/// A body that keeps its exchange under way.
pub(super) struct Lasting {
    body: Body,
    _underway: Underway,
}

impl HttpBody for Lasting {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_no_answer_is_still_being_sent() {
        let activity = Arc::new(Activity::default());
        let patience = Duration::from_secs(300);
        let body = activity.begin().until_end_of(Body::empty());
        let idle = activity.idle_for(patience);
        tokio::pin!(idle);
        assert!(tokio::time::timeout(patience * 10, &mut idle).await.is_err());
        drop(body);
        assert!(tokio::time::timeout(patience / 2, &mut idle).await.is_err());
        assert!(tokio::time::timeout(patience, &mut idle).await.is_ok());
    }
}
