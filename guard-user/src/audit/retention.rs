//! When the trail goes on in a new segment or with a new key, and what becomes of the full ones.

use std::path::PathBuf;
use std::time::Duration;

use crate::config;

/// An operator's choice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Retention {
    /// A segment of so many bytes is full.
    pub segment_bytes: u64,
    /// So is one that is this old, and has a record of something else than its beginning.
    pub segment_age: Duration,
    /// The key that signs is replaced by another, and destroyed, when it is so old.
    pub key_epoch: Duration,
    /// Pack full segments.
    pub compress: bool,
    /// How long records are kept; none: for ever.
    pub keep: Option<Duration>,
    /// Bytes on disk that are kept at least; none: all.
    pub keep_bytes: Option<u64>,
    /// What these exports have not behind them is kept.
    pub cursors: Vec<PathBuf>,
    /// Room that is set aside for a full disk; 0: none.
    pub reserve_bytes: u64,
}

impl From<&config::Audit> for Retention {
    fn from(audit: &config::Audit) -> Self {
        Self {
            segment_bytes: audit.segment_bytes,
            segment_age: Duration::from_secs(audit.segment_seconds),
            key_epoch: Duration::from_secs(audit.key_epoch_seconds),
            compress: audit.compress,
            keep: audit.keep_days.map(|days| Duration::from_secs(days.saturating_mul(24 * 3600))),
            keep_bytes: audit.keep_bytes,
            cursors: audit.export_cursors.clone(),
            reserve_bytes: audit.reserve_bytes,
        }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self::from(&config::Audit::default())
    }
}
