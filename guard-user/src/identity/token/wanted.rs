//! Requests that need a key which is not known, and whoever can ask its issuer. Neither knows the other.
//!
//! A request waits until its issuer was asked, or until it is told that the issuer is not asked again so soon. How often it is
//! asked is not decided here: whoever makes up names of keys must not decide it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::{Notify, watch};

use crate::types::IssuerName;

/// Requests of one issuer's tokens that wait for it at once; one more is refused at once.
const ASKING_MAX: usize = 64;
/// How long a request waits for an issuer.
const ANSWER_PATIENCE: Duration = Duration::from_secs(2);

/// The issuers that can be asked.
#[derive(Debug, Default)]
pub struct Wanted(HashMap<IssuerName, Line>);

#[derive(Debug)]
struct Line {
    asked: Notify,
    /// Counts the answers.
    answered: watch::Sender<u64>,
    waiting: AtomicUsize,
}

/// One that waits.
struct Place<'l>(&'l Line);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Wanted {
    pub fn new(issuers: impl IntoIterator<Item = IssuerName>) -> Self {
        let line =
            || Line { asked: Notify::new(), answered: watch::Sender::new(0), waiting: AtomicUsize::new(0) };
        Self(issuers.into_iter().map(|issuer| (issuer, line())).collect())
    }

    /// Has `issuer` asked, and waits for that. `true`: its keys may be others now.
    pub async fn ask(&self, issuer: &IssuerName) -> bool {
        let Some(line) = self.0.get(issuer) else { return false };
        if line.waiting.fetch_add(1, Ordering::Relaxed) >= ASKING_MAX {
            line.waiting.fetch_sub(1, Ordering::Relaxed);
            return false;
        }
        let _place = Place(line);
        let mut answered = line.answered.subscribe();
        line.asked.notify_one();
        matches!(tokio::time::timeout(ANSWER_PATIENCE, answered.changed()).await, Ok(Ok(())))
    }

    /// For whoever asks issuers: ends when somebody needs a key of this one.
    pub async fn until_asked(&self, issuer: &IssuerName) {
        match self.0.get(issuer) {
            Some(line) => line.asked.notified().await,
            None => std::future::pending().await,
        }
    }

    /// For the same: it was asked, or is not for now.
    pub fn answer(&self, issuer: &IssuerName) {
        if let Some(line) = self.0.get(issuer) {
            line.answered.send_modify(|count| *count = count.wrapping_add(1));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn corp() -> IssuerName {
        IssuerName::parse("corp").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_told_or_gives_up_and_no_more_wait_than_may() {
        let wanted = Arc::new(Wanted::new([corp()]));
        assert!(!wanted.ask(&IssuerName::parse("other").unwrap()).await);
        assert!(!wanted.ask(&corp()).await, "nobody answers");
        let waiting: Vec<_> = (0..ASKING_MAX)
            .map(|_| {
                let wanted = Arc::clone(&wanted);
                tokio::spawn(async move { wanted.ask(&corp()).await })
            })
            .collect();
        while wanted.0[&corp()].waiting.load(Ordering::Relaxed) < ASKING_MAX {
            tokio::task::yield_now().await;
        }
        wanted.until_asked(&corp()).await;
        let begun = tokio::time::Instant::now();
        assert!(!wanted.ask(&corp()).await);
        assert_eq!(begun.elapsed(), Duration::ZERO, "one more is told at once");
        wanted.answer(&corp());
        for waited in waiting {
            assert!(waited.await.unwrap());
        }
        assert!(!wanted.ask(&corp()).await, "their places are free again, and nobody answers");
        assert_eq!(begun.elapsed(), ANSWER_PATIENCE);
    }
}
