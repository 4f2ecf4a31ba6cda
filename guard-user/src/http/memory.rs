//! What the requests and the answers under way may hold together, over all connections.
//!
//! Each request and each connection has its own limits, but their product is far more than a host has: one connection
//! may have a hundred streams with a body each.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use http::HeaderMap;

use crate::config::Limits;
use crate::types::{AgentName, ServerName};

/// Of all memory for requests, the part for those whose sender is not known. It is apart from the rest, so that
/// nobody without a credential can take the place of somebody who has one.
const UNIDENTIFIED_PART: usize = 8;

/// What a header field costs beside its name and value, in bytes.
const FIELD_BYTES: usize = 96;

/// The bytes that requests and answers under way may hold. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    identified: Shared,
    unidentified: Arc<Pool>,
    answers: Shared,
}

/// Of one pool nobody takes more than his share, so that one agent or server cannot take what all others need.
#[derive(Debug, Clone)]
struct Shared {
    pool: Arc<Pool>,
    share_bytes_max: usize,
    shares: Arc<Mutex<HashMap<String, Weak<Pool>>>>,
}

#[derive(Debug)]
struct Pool {
    left: AtomicUsize,
}

/// The bytes that one request or answer holds; given back when dropped.
#[derive(Debug)]
pub struct Held {
    pool: Arc<Pool>,
    /// Its agent's or server's.
    share: Option<Arc<Pool>>,
    bytes: usize,
}

impl Memory {
    pub fn new(limits: &Limits) -> Self {
        Self {
            identified: Shared::new(limits.requests_bytes_max, limits.requests_bytes_per_agent_max),
            unidentified: Pool::new(limits.requests_bytes_max / UNIDENTIFIED_PART),
            answers: Shared::new(limits.answers_bytes_max, limits.answers_bytes_per_server_max),
        }
    }

    /// Begins the account of one answer.
    pub fn answer(&self, server: &ServerName) -> Held {
        self.answers.open(server.as_str())
    }

    /// Begins the account of one request, which holds nothing yet. `agent`: its sender, if that is known.
    pub(super) fn request(&self, agent: Option<&AgentName>) -> Held {
        match agent {
            Some(agent) => self.identified.open(agent.as_str()),
            None => Held { pool: Arc::clone(&self.unidentified), share: None, bytes: 0 },
        }
    }
}

impl Shared {
    fn new(bytes_max: usize, share_bytes_max: usize) -> Self {
        Self { pool: Pool::new(bytes_max), share_bytes_max, shares: Arc::default() }
    }

    fn open(&self, name: &str) -> Held {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let share = shares.get(name).and_then(Weak::upgrade).unwrap_or_else(|| {
            // Those that hold nothing are made anew.
            shares.retain(|_, share| share.strong_count() > 0);
            let share = Pool::new(self.share_bytes_max);
            shares.insert(name.to_owned(), Arc::downgrade(&share));
            share
        });
        Held { pool: Arc::clone(&self.pool), share: Some(share), bytes: 0 }
    }
}

impl Pool {
    fn new(bytes_max: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(bytes_max) })
    }

    fn take(&self, bytes: usize) -> bool {
        let take = |left: usize| left.checked_sub(bytes);
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    fn give(&self, bytes: usize) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Held {
    /// Takes this much more; false if it is not there.
    pub fn take(&mut self, bytes: usize) -> bool {
        if !self.share.as_ref().is_none_or(|share| share.take(bytes)) {
            return false;
        }
        if !self.pool.take(bytes) {
            self.share.iter().for_each(|share| share.give(bytes));
            return false;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        true
    }

    /// Holds this much from now on; false, and nothing changed, if it is not there.
    pub fn hold(&mut self, bytes: usize) -> bool {
        if let Some(more) = bytes.checked_sub(self.bytes) {
            return self.take(more);
        }
        self.give(self.bytes - bytes);
        self.bytes = bytes;
        true
    }

    fn give(&self, bytes: usize) {
        self.pool.give(bytes);
        self.share.iter().for_each(|share| share.give(bytes));
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.give(self.bytes);
    }
}

/// What `headers` cost.
pub(super) fn cost(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + FIELD_BYTES).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(requests: usize, answers: usize, share: usize) -> Memory {
        Memory::new(&Limits {
            requests_bytes_max: requests,
            requests_bytes_per_agent_max: share,
            answers_bytes_max: answers,
            answers_bytes_per_server_max: share,
            ..Limits::default()
        })
    }

    fn agent(name: &str) -> AgentName {
        AgentName::parse(name).unwrap()
    }

    fn server(name: &str) -> ServerName {
        ServerName::parse(name).unwrap()
    }

    #[test]
    fn what_is_held_is_given_back_and_senders_unknown_take_nothing_from_the_others() {
        let memory = memory(800, 50, 800);
        let mut unknown = memory.request(None);
        assert!(unknown.take(60) && unknown.take(40));
        assert!(!unknown.take(1));
        assert!(!memory.request(None).take(1));
        let mut known = memory.request(Some(&agent("a")));
        assert!(known.take(800));
        assert!(!known.take(1));
        drop((unknown, known));
        assert!(memory.request(None).take(100));
        assert!(memory.request(Some(&agent("a"))).take(800));
    }

    #[test]
    fn nobody_takes_more_than_his_share_and_not_what_is_not_there() {
        let memory = memory(100, 100, 60);
        let mut one = memory.request(Some(&agent("a")));
        let mut same = memory.request(Some(&agent("a")));
        assert!(one.take(50) && same.take(10) && !same.take(1));
        let mut other = memory.request(Some(&agent("b")));
        assert!(other.take(40) && !other.take(1));
        drop((one, same));
        assert!(other.take(20) && !other.take(1), "what was refused was not counted");
        let mut answer = memory.answer(&server("a"));
        assert!(answer.take(60) && !answer.take(1));
        assert!(memory.answer(&server("b")).take(40));
    }

    #[test]
    fn an_answer_holds_what_it_says_last() {
        let memory = memory(0, 50, 50);
        let mut answer = memory.answer(&server("a"));
        assert!(answer.hold(50) && answer.hold(10));
        let mut other = memory.answer(&server("a"));
        assert!(!other.hold(41) && other.hold(40));
        assert!(!answer.hold(11));
        drop(other);
        assert!(answer.hold(50));
    }
}
