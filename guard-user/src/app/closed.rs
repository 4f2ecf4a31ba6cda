//! A start that fails leaves no port open.

use std::sync::Arc;

use crate::audit::{OpenError, lock};
use crate::config::Config;
use crate::kernel::{self, Handover, Remains};

/// How to open them, though a service manager may start the guard again and again.
const OPEN: &str = "`mcp-guard run` serves once this is mended; `systemctl stop mcp-guard` and then `mcp-guard unload` open them";

/// After a start that failed for `error`. Who repairs a file after a boot must not find that the servers were reached meanwhile. Servers in
/// namespaces that come later are closed by a guard that runs.
pub(super) async fn after(config: &Arc<Config>, error: &anyhow::Error) {
    let is_locked = |error: &OpenError| matches!(error, OpenError::Locked(_));
    // Who holds the trail runs, or starts, and closes them itself.
    let is_another = error.downcast_ref().is_some_and(is_locked)
        || lock(&config.audit_dir()).err().as_ref().is_some_and(is_locked);
    if is_another {
        return;
    }
    let closing = match kernel::remains(&config.kernel) {
        Remains::Nothing => {
            kernel::Guard::start_with(Arc::clone(config), Handover::default()).await.map(drop)
        }
        _ => Ok(()),
    };
    match (kernel::remains(&config.kernel), closing) {
        (Remains::Here, _) => {
            tracing::warn!("no guard serves, and the ports that are protected here are CLOSED: {OPEN}");
        }
        (_, Err(error)) => {
            tracing::error!("the servers' ports could not be closed, and may be OPEN: {error:#}");
        }
        (remains, Ok(())) => {
            tracing::error!(
                ?remains,
                "the servers' ports of this namespace may be OPEN: `mcp-guard status` tells more"
            );
        }
    }
}
