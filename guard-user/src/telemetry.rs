//! The daemon's log: human lines on standard error, filtered by `MCP_GUARD_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

const FILTER_VARIABLE: &str = "MCP_GUARD_LOG";

/// To be called once, by the daemon alone.
pub fn init() {
    let filter = EnvFilter::try_from_env(FILTER_VARIABLE).unwrap_or_else(|_unset| EnvFilter::new("info"));
    // Fails only if a test has set a subscriber already, and then that one is wanted.
    let _set = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(std::io::stderr().is_terminal())
        // A full disk under the log must not end whoever has something to say: it would be told by a panic.
        .log_internal_errors(false)
        .try_init();
}
