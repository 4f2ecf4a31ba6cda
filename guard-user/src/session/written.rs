//! A client hears of its session or task once that is written down: then also a guard that is killed keeps it.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Timeout, timeout};

/// How long a client waits for a disk. Then it hears of its session all the same, which may not outlive the guard.
const PATIENCE: Duration = Duration::from_secs(2);

/// Comes when a line is written, or cannot be.
pub(super) type Written = oneshot::Receiver<()>;

/// What an answer waits for.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<VecDeque<Pin<Box<Timeout<Written>>>>>);

impl Pending {
    pub(super) fn add(&self, written: Option<Written>) {
        if let Some(written) = written {
            self.lock().push_back(Box::pin(timeout(PATIENCE, written)));
        }
    }

    /// Takes over what another one waits for.
    pub(super) fn join(&self, other: &Self) {
        let theirs = std::mem::take(&mut *other.lock());
        self.lock().extend(theirs);
    }

    /// Ready when all is written.
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut all = self.lock();
        while let Some(first) = all.front_mut() {
            if ready!(first.as_mut().poll(cx)).is_err() {
                tracing::warn!("a session or task is told of before it is written: the disk takes too long");
            }
            all.pop_front();
        }
        Poll::Ready(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Pin<Box<Timeout<Written>>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_answer_waits_for_its_line_and_not_for_ever() {
        let pending = Pending::default();
        let (tell, told) = oneshot::channel();
        let other = Pending::default();
        other.add(Some(told));
        pending.join(&other);
        let wait = || poll_fn(|cx| pending.poll(cx));
        assert!(timeout(PATIENCE / 2, wait()).await.is_err(), "nothing is written");
        tell.send(()).unwrap();
        wait().await;
        let (_never, told) = oneshot::channel();
        pending.add(Some(told));
        wait().await;
    }
}
