//! Asks others over the network: issuers for their keys, witnesses for their signatures. One connection, one request, bounded in
//! time and size. Nothing that comes back leads elsewhere.
//!
//! Such a connection must not end at the guard itself: a port of this host that it protects is refused.

mod connect;
mod https;

use std::time::Duration;

pub use https::{Answer, BodyMax, Place, ask};

/// What `asked` gives within `patience`, for a thread of its own that waits for it.
pub fn block_on<T>(patience: Duration, asked: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| format!("cannot start to work with the network: {error}"))?;
    let result = runtime.block_on(async {
        let late = |_late| Err(format!("no answer within {} s", patience.as_secs()));
        tokio::time::timeout(patience, asked).await.unwrap_or_else(late)
    });
    // A name that is being looked up must not hold this thread for longer.
    runtime.shutdown_background();
    result
}
