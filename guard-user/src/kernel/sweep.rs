//! Ends connections to protected ports that are older than the protection.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};

use super::diag;

/// Time between two looks; longer than the handshake of a connection that was let in at the last moment.
const PAUSE: Duration = Duration::from_millis(120);
/// Clean looks in a row after which the ports count as clean.
const CLEAN: usize = 2;
/// Looks within which every connection from before has shown itself.
const SETTLED: usize = 5;
/// Looks after which we give up.
const ROUNDS_MAX: usize = 50;

/// Ends every connection with one of these local ports. To be called after the ports are protected and before the
/// guard takes or makes connections, so that no connection it meets is the guard's. Returns how many it ended.
pub(super) fn sweep(ports: &[u16]) -> anyhow::Result<usize> {
    let mut ended = 0;
    let mut clean = 0;
    let mut from_before = HashSet::new();
    for round in 0..ROUNDS_MAX {
        let mut found = 0;
        // One list for all ports: the kernel walks its whole table for each.
        let all = diag::connections(None).context("cannot list connections")?;
        for connection in all.iter().filter(|connection| ports.contains(&connection.local.port())) {
            if round < SETTLED {
                from_before.insert(connection.cookie);
            } else if !from_before.contains(&connection.cookie) {
                // No connection to the server: the port has been closed for long. Somebody connects outward from it.
                continue;
            }
            found += 1;
            let destroyed = diag::destroy(connection).with_context(|| {
                format!(
                    "cannot end the connection {} to {} from before the guard; the kernel needs CONFIG_INET_DIAG_DESTROY",
                    connection.remote, connection.local
                )
            })?;
            ended += usize::from(destroyed);
        }
        clean = if found == 0 { clean + 1 } else { 0 };
        if clean >= CLEAN {
            return Ok(ended);
        }
        sleep(PAUSE);
    }
    bail!(
        "connections from before the guard do not end; stop the protected servers, start the guard, then the servers"
    )
}
