//! A start that fails leaves no port open.

use std::sync::Arc;

use crate::audit::OpenError;
use crate::config::Config;
use crate::kernel::{self, Handover, Remains};

/// After a start that failed for `error`. Who repairs a file after a boot must not find that the servers were reached meanwhile.
pub(super) async fn after(config: &Arc<Config>, error: &anyhow::Error) {
    // Pins that are there refuse already. Who holds the trail is a guard that starts, too.
    let is_another = matches!(error.downcast_ref(), Some(OpenError::Locked(_)));
    if is_another || kernel::remains(&config.kernel) != Remains::Nothing {
        return;
    }
    match kernel::Guard::start_with(Arc::clone(config), Handover::default()).await {
        Ok(closed) => {
            drop(closed);
            tracing::warn!(
                "the servers' ports are CLOSED, though no guard serves: `mcp-guard run` once this is mended, or `mcp-guard unload` opens them"
            );
        }
        Err(error) => tracing::error!("the servers' ports could not be closed: {error:#}"),
    }
}
