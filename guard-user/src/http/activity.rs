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
    /// `None` before the first.
    underway: watch::Sender<Option<usize>>,
}

impl Default for Activity {
    fn default() -> Self {
        Self { underway: watch::Sender::new(None) }
    }
}

impl Activity {
    pub(super) fn begin(self: &Arc<Self>) -> Underway {
        self.underway.send_modify(|count| *count = Some(count.unwrap_or(0) + 1));
        Underway(self.clone())
    }

    /// Ends when nothing has been under way for `patience`, or nothing ever for `first`.
    pub(super) async fn idle_for(&self, first: Duration, patience: Duration) {
        let mut underway = self.underway.subscribe();
        loop {
            let patience = match *underway.borrow_and_update() {
                None => first,
                Some(0) => patience,
                Some(_) => Duration::MAX,
            };
            // The sender lives in `self`, so waiting for a change cannot fail.
            if tokio::time::timeout(patience, underway.changed()).await.is_err() {
                return;
            }
        }
    }
}

/// One exchange; over when this is dropped.
pub(super) struct Underway(Arc<Activity>);

impl Drop for Underway {
    fn drop(&mut self) {
        self.0.underway.send_modify(|count| *count = count.map(|count| count.saturating_sub(1)));
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
    async fn the_first_exchange_has_a_time_of_its_own() {
        let activity = Arc::new(Activity::default());
        let (first, patience) = (Duration::from_secs(10), Duration::from_secs(300));
        assert!(tokio::time::timeout(first * 2, activity.idle_for(first, patience)).await.is_ok());
        drop(activity.begin());
        assert!(tokio::time::timeout(first * 2, activity.idle_for(first, patience)).await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_only_when_no_answer_is_still_being_sent() {
        let activity = Arc::new(Activity::default());
        let patience = Duration::from_secs(300);
        let body = activity.begin().until_end_of(Body::empty());
        let idle = activity.idle_for(patience, patience);
        tokio::pin!(idle);
        assert!(tokio::time::timeout(patience * 10, &mut idle).await.is_err());
        drop(body);
        assert!(tokio::time::timeout(patience / 2, &mut idle).await.is_err());
        assert!(tokio::time::timeout(patience, &mut idle).await.is_ok());
    }
}
