//! The writer goes on to another key when the one it has is old enough, and destroys that.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::Serialize;

use super::keys::Keys;
use super::writer::{State, Writer, write_lines};
use super::{key, text};

/// Between two attempts.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// The record that hands over.
#[derive(Serialize)]
#[serde(tag = "kind", rename = "key")]
struct HandOver<'a> {
    /// The number of the new key; the trail's first one has 0.
    epoch: u64,
    /// Signed with the old key: the records before this one, and the new key.
    note: &'a str,
}

/// How long the writer's key has still to sign.
pub(super) struct Epoch {
    pub(super) keys: Keys,
    lasts: Duration,
    /// None: later than this host can tell.
    over_at: Option<Instant>,
    /// The old key is not gone yet, or the file of keys lacks the new one.
    is_settled: bool,
    /// What kept it from that at last.
    told: Option<io::ErrorKind>,
    cause: Arc<str>,
}

impl Epoch {
    /// Of the last of these keys; the first one's turn began at `first`.
    pub(super) fn new(keys: Keys, first: Timestamp, lasts: Duration) -> Self {
        let age = Timestamp::now().duration_since(keys.began().unwrap_or(first));
        // By a clock that was set back since, nobody can tell: then it is over.
        let age = Duration::try_from(age).unwrap_or(lasts);
        let over_at = Instant::now().checked_add(lasts.saturating_sub(age));
        Self { keys, lasts, over_at, is_settled: true, told: None, cause: "".into() }
    }

    /// What kept the last hand-over from its end.
    pub(super) fn cause(&self) -> Arc<str> {
        Arc::clone(&self.cause)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.is_settled && self.over_at.is_some_and(|over_at| over_at <= now)
    }

    /// When the next hand-over is.
    pub(super) fn due(&self) -> Option<Instant> {
        self.over_at.filter(|_| self.is_settled)
    }

    /// Does what is left to do of the last hand-over, and says whether nothing is. No checkpoint of the new key may be published before.
    pub(super) fn settle(&mut self, dir: &Path) -> bool {
        if !self.is_settled {
            match key::settle(dir, &self.keys) {
                Ok(()) => self.is_settled = true,
                Err(error) => self.tell(&error),
            }
        }
        self.is_settled
    }

    /// Tried again and again, told once.
    fn tell(&mut self, error: &io::Error) {
        self.cause = format!("the old key cannot be replaced: {error}").into();
        if self.told.replace(error.kind()) != Some(error.kind()) {
            tracing::warn!(%error, "the audit trail's old key cannot be replaced yet");
        }
    }
}

impl Writer {
    /// Hands over to a new key, if this one's time is over. That it cannot be made is no reason to refuse calls.
    pub(super) fn hand_over_if_due(&mut self) {
        let now = Instant::now();
        if !self.epoch.is_over(now) {
            return;
        }
        self.sync();
        let State::Good(segment) = &self.state else { return };
        let segment = Arc::clone(segment);
        let next = match key::make_next(&self.dir, self.key.verifier()) {
            Ok(next) => next,
            Err(error) => {
                self.epoch.over_at = Some(now + RETRY_EVERY);
                return self.epoch.tell(&error);
            }
        };
        let (size, root) = (self.position.tree.size(), self.position.tree.root());
        let note = self.key.hand_over(size, root, next.verifier());
        let body = text::encode(&HandOver { epoch: self.epoch.keys.epoch() + 1, note: &note });
        // On disk whatever the durability: then the old key goes.
        let written = body.map_err(io::Error::other).and_then(|body| {
            write_lines(segment.as_ref(), true, &self.position, std::iter::once(body.as_slice()))
        });
        let (line, position) = match written {
            Ok(written) => written,
            Err(error) => return self.fail(&error, Vec::new()),
        };
        let line = String::from_utf8_lossy(&line);
        if let Err(reason) = self.epoch.keys.take(line.trim_end()) {
            return self.fail(&io::Error::other(reason), Vec::new());
        }
        self.advance(position, true);
        self.key = Arc::new(next);
        self.health.hand_over(&self.epoch.keys);
        self.epoch.over_at = now.checked_add(self.epoch.lasts);
        self.epoch.is_settled = false;
        self.epoch.told = None;
        self.epoch.settle(&self.dir);
    }
}
