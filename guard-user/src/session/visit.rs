//! A request's hold on its session: while it lasts, the session is in use.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

use tokio::sync::watch;

use super::unix_milliseconds;
use crate::types::Within;

/// No session has so many.
const UNCOUNTED: u64 = u64::MAX;

/// What a session and its visits share.
#[derive(Debug)]
pub(super) struct Presence {
    visits: AtomicU32,
    /// By this clock, in milliseconds.
    clock: fn() -> u64,
    /// When it was opened.
    opened_at: u64,
    /// Calls that have begun; [`UNCOUNTED`]: a former guard has not said.
    calls: AtomicU64,
    /// When the last visit began or ended.
    used_at: AtomicU64,
    over: watch::Sender<bool>,
    /// Its server has said that there is no such session.
    is_denied: AtomicBool,
}

impl Presence {
    /// In milliseconds since 1970.
    pub(super) fn new(now: u64) -> Arc<Self> {
        Self::by(unix_milliseconds, now)
    }

    pub(super) fn by(clock: fn() -> u64, now: u64) -> Arc<Self> {
        Arc::new(Self {
            clock,
            visits: AtomicU32::new(0),
            opened_at: now,
            calls: AtomicU64::new(0),
            used_at: AtomicU64::new(now),
            over: watch::channel(false).0,
            is_denied: AtomicBool::new(false),
        })
    }

    /// That of a session which a former guard had.
    pub(super) fn restored(opened_at: u64, used_at: u64) -> Arc<Self> {
        Arc::new(Self {
            clock: unix_milliseconds,
            visits: AtomicU32::new(0),
            opened_at,
            calls: AtomicU64::new(UNCOUNTED),
            used_at: AtomicU64::new(used_at),
            over: watch::channel(false).0,
            is_denied: AtomicBool::new(false),
        })
    }

    pub(super) fn visit(self: &Arc<Self>, now: u64) -> Visit {
        self.visits.fetch_add(1, Ordering::Relaxed);
        self.used_at.fetch_max(now, Ordering::Relaxed);
        Visit { presence: Arc::clone(self) }
    }

    pub(super) fn visits(&self) -> u32 {
        self.visits.load(Ordering::Relaxed)
    }

    /// A session with a request under way, such as an open stream, is in use now.
    pub(super) fn used_at(&self, now: u64) -> u64 {
        if self.visits() > 0 { now } else { self.used_at.load(Ordering::Relaxed) }
    }

    pub(super) fn deny(&self, is_denied: bool) {
        self.is_denied.store(is_denied, Ordering::Relaxed);
    }

    /// Ends every request under way.
    pub(super) fn end(&self) {
        self.over.send_replace(true);
    }
}

/// A request that uses a session. Dropped at the end of its answer.
#[derive(Debug)]
pub struct Visit {
    presence: Arc<Presence>,
}

impl Visit {
    /// The session's state; a call is counted by it, whatever becomes of the call, so that of two at a time one comes first.
    pub(super) fn within(&self, is_call: bool) -> Within {
        let Presence { calls, opened_at, clock, .. } = &*self.presence;
        let count = |calls: u64| (calls < UNCOUNTED).then(|| calls.saturating_add(u64::from(is_call)));
        let before = calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, count).ok();
        Within::Session { calls: before, milliseconds: clock().saturating_sub(*opened_at) }
    }

    /// Whether the session's server has said that there is no such session.
    pub fn is_denied(&self) -> bool {
        self.presence.is_denied.load(Ordering::Relaxed)
    }

    pub(super) fn is_of(&self, presence: &Arc<Presence>) -> bool {
        Arc::ptr_eq(&self.presence, presence)
    }

    pub(super) fn is_over(&self) -> bool {
        *self.presence.over.borrow()
    }

    /// Ends when the session does.
    pub fn until_over(&self) -> impl Future<Output = ()> + Send + 'static {
        let mut over = self.presence.over.subscribe();
        async move {
            if over.wait_for(|over| *over).await.is_err() {
                // The session was dropped with its table: the guard ends.
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.presence.used_at.fetch_max((self.presence.clock)(), Ordering::Relaxed);
        self.presence.visits.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn before(visit: &Visit, is_call: bool) -> Option<u64> {
        let Within::Session { calls, .. } = visit.within(is_call) else { panic!("it is in a session") };
        calls
    }

    #[test]
    fn each_call_has_its_own_number_and_what_a_former_guard_counted_nobody_knows() {
        let presence = Presence::new(unix_milliseconds());
        let visit = presence.visit(0);
        assert_eq!(
            [before(&visit, true), before(&visit, false), before(&visit, true)],
            [Some(0), Some(1), Some(1)]
        );
        let mut seen: Vec<_> = std::thread::scope(|scope| {
            let visits = [0; 4].map(|_| {
                scope.spawn(|| {
                    let visit = presence.visit(0);
                    [0; 50].map(|_| before(&visit, true)).to_vec()
                })
            });
            visits.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        seen.sort_unstable();
        assert_eq!(seen, (2..202).map(Some).collect::<Vec<_>>(), "of two calls at a time one comes first");
        let restored = Presence::restored(0, 0);
        assert_eq!([before(&restored.visit(0), true), before(&restored.visit(0), true)], [None, None]);
        let Within::Session { milliseconds, .. } = restored.visit(0).within(false) else { panic!() };
        assert!(milliseconds > 1_000_000, "its age is known");
    }
}
