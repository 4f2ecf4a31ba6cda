//! What the requests and the answers under way may hold together, over all connections.
//!
//! Each request and each connection has its own limits, but their product is far more than a host has: one connection
//! may have a hundred streams with a body each.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::HeaderMap;

/// Of all memory for requests, the part for those whose sender is not known. It is apart from the rest, so that
/// nobody without a credential can take the place of somebody who has one.
const UNIDENTIFIED_PART: usize = 8;

/// What a header field costs beside its name and value, in bytes.
const FIELD_BYTES: usize = 96;

/// The bytes that requests and answers under way may hold. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    identified: Arc<Pool>,
    unidentified: Arc<Pool>,
    answers: Arc<Pool>,
}

#[derive(Debug)]
struct Pool {
    left: AtomicUsize,
}

/// The bytes that one request or answer holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    bytes: usize,
}

impl Memory {
    /// `requests_bytes_max`: what requests of known senders may hold; an eighth of it comes on top for the others.
    pub fn new(requests_bytes_max: usize, answers_bytes_max: usize) -> Self {
        let pool = |bytes| Arc::new(Pool { left: AtomicUsize::new(bytes) });
        Self {
            identified: pool(requests_bytes_max),
            unidentified: pool(requests_bytes_max / UNIDENTIFIED_PART),
            answers: pool(answers_bytes_max),
        }
    }

    /// Begins the account of one answer.
    pub fn answer(&self) -> Held {
        Held { pool: Arc::clone(&self.answers), bytes: 0 }
    }

    /// Begins the account of one request, which holds nothing yet.
    pub(super) fn open(&self, is_identified: bool) -> Held {
        let pool = if is_identified { &self.identified } else { &self.unidentified };
        Held { pool: Arc::clone(pool), bytes: 0 }
    }
}

impl Held {
    /// Takes this much more; false if it is not there.
    pub fn take(&mut self, bytes: usize) -> bool {
        let taken = self
            .pool
            .left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes))
            .is_ok();
        if taken {
            self.bytes = self.bytes.saturating_add(bytes);
        }
        taken
    }

    /// Holds this much from now on; false, and nothing changed, if it is not there.
    pub fn hold(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            return self.take(more);
        }
        self.pool.left.fetch_add(self.bytes - bytes, Ordering::Relaxed);
        self.bytes = bytes;
        true
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.pool.left.fetch_add(self.bytes, Ordering::Relaxed);
    }
}

/// What `headers` cost.
pub(super) fn cost(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_given_back_and_senders_unknown_take_nothing_from_the_others() {
        let memory = Memory::new(800, 50);
        let mut unknown = memory.open(false);
        assert!(unknown.take(60) && unknown.take(40));
        assert!(!unknown.take(1));
        assert!(!memory.open(false).take(1));
        let mut known = memory.open(true);
        assert!(known.take(800));
        assert!(!known.take(1));
        drop((unknown, known));
        assert!(memory.open(false).take(100));
        assert!(memory.open(true).take(800));
    }

    #[test]
    fn an_answer_holds_what_it_says_last() {
        let memory = Memory::new(0, 50);
        let mut answer = memory.answer();
        assert!(answer.hold(50) && answer.hold(10));
        let mut other = memory.answer();
        assert!(!other.hold(41) && other.hold(40));
        assert!(!answer.hold(11));
        drop(other);
        assert!(answer.hold(50));
    }
}
