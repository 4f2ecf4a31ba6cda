//! A start that fails leaves no port open.

use std::sync::Arc;

use crate::audit::{OpenError, lock};
use crate::config::Config;
use crate::kernel::{self, Handover, Remains};

/// How to open them, though a service manager may start the guard again and again.
const OPEN: &str = "`mcp-guard run` serves once this is mended; `systemctl stop mcp-guard` and then `mcp-guard unload` open them";

/// Whether another guard has the trail: one that runs, or starts. It closes the ports itself.
pub(super) fn is_another(config: &Config) -> bool {
    matches!(lock(&config.audit_dir()), Err(OpenError::Locked(_)))
}

/// After a start that failed for `error`, while no other guard ran. Who repairs a file after a boot must not find that the servers were
/// reached meanwhile. Servers in namespaces that come later are closed by a guard that runs.
pub(super) async fn after(config: &Config, error: &anyhow::Error) {
    if matches!(error.downcast_ref(), Some(OpenError::Locked(_))) {
        return;
    }
    let closing = match kernel::remains(&config.kernel) {
        Remains::Nothing => {
            let mut config = config.clone();
            // What a server may reach may be what failed, and closes no port.
            config.servers.iter_mut().for_each(|server| server.egress = None);
            kernel::Guard::start_with(Arc::new(config), Handover::default()).await.map(drop)
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
