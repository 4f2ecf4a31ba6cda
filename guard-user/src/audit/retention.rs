//! When the trail goes on in a new segment, and what becomes of the full ones.

use std::time::Duration;

use crate::config;

/// An operator's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// A segment of so many bytes is full.
    pub segment_bytes: u64,
    /// So is one that is this old, and has a record of something else than its beginning.
    pub segment_age: Duration,
    /// Pack full segments.
    pub compress: bool,
}

impl From<&config::Audit> for Retention {
    fn from(audit: &config::Audit) -> Self {
        Self {
            segment_bytes: audit.segment_bytes,
            segment_age: Duration::from_secs(audit.segment_seconds),
            compress: audit.compress,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::from(&config::Audit::default())
    }
}
