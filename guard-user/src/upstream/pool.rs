//! The connections to servers that no call uses now.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use super::leg::Leg;
use crate::config::Limits;
use crate::kernel::{Dialer, Door};

/// How often idle connections are looked at: for those that the server closed, and those that are too old.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

pub(super) struct Pool {
    dialer: Dialer,
    connect_patience: Duration,
    /// For each protected port, the one used last at the end.
    idle: Mutex<HashMap<Door, Vec<Idle>>>,
    idle_max: usize,
    idle_patience: Duration,
}

struct Idle {
    leg: Leg,
    since: Instant,
}

impl Pool {
    /// Must be called in a runtime: it starts a task that ends with the pool.
    pub(super) fn new(dialer: Dialer, limits: &Limits) -> Arc<Self> {
        let pool = Arc::new(Self {
            dialer,
            connect_patience: Duration::from_secs(limits.upstream_connect_seconds),
            idle: Mutex::default(),
            idle_max: limits.upstream_idle_connections_max,
            idle_patience: Duration::from_secs(limits.upstream_idle_seconds),
        });
        tokio::spawn(sweep(Arc::downgrade(&pool)));
        pool
    }

    /// An open connection, if there is one.
    pub(super) fn take(&self, door: Door) -> Option<Leg> {
        loop {
            let mut idle = self.lock().get_mut(&door)?.pop()?;
            if self.is_fit(&mut idle) {
                return Some(idle.leg);
            }
        }
    }

    /// A new connection. The kernel lets only these through. `NotConnected`: no server is there.
    pub(super) async fn open(&self, door: Door) -> io::Result<Leg> {
        let io = tokio::time::timeout(self.connect_patience, self.dialer.dial(door)).await??;
        Leg::new(io).await
    }

    /// Keeps `leg` for another call, if there is room.
    pub(super) fn put(&self, door: Door, mut leg: Leg) {
        if !leg.is_ready() {
            return;
        }
        let mut idle = self.lock();
        let legs = idle.entry(door).or_default();
        if legs.len() < self.idle_max {
            legs.push(Idle { leg, since: Instant::now() });
        }
    }

    fn is_fit(&self, idle: &mut Idle) -> bool {
        idle.since.elapsed() < self.idle_patience && idle.leg.is_ready()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Door, Vec<Idle>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn sweep(pool: Weak<Pool>) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        pool.lock().retain(|_, legs| {
            legs.retain_mut(|idle| pool.is_fit(idle));
            // Namespaces come and go.
            !legs.is_empty()
        });
    }
}
