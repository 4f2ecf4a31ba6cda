//! How long the keys of an issuer that is asked are good.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::types::Uptime;

/// Until when what was heard of an issuer is good. All versions of the rules share it: to hear the same again makes no new
/// version. Whoever uses a key looks at it, so keys end also where nobody is there to end them: a host that was suspended wakes
/// without them.
#[derive(Debug, Clone, Default)]
pub struct Fresh(Arc<AtomicU64>);

impl Fresh {
    /// They were heard of, and are good until `end`, to the millisecond.
    pub fn until(&self, end: Uptime) {
        self.0.store(end.as_millis(), Ordering::Release);
    }

    /// They are good no more until they are heard of again.
    pub fn end(&self) {
        self.until(Uptime::ZERO);
    }

    pub fn is_over(&self, now: Uptime) -> bool {
        now >= Uptime::from_millis(self.0.load(Ordering::Acquire))
    }
}
