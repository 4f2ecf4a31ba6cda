//! Ends connections to protected ports that are older than the protection.

use std::collections::HashSet;
use std::thread::sleep;
use std::time::Duration;

use anyhow::{Context, bail};

use super::diag;
use super::netns::Netns;

/// Time between two looks; longer than the handshake of a connection that was let in at the last moment.
const PAUSE: Duration = Duration::from_millis(120);
/// Clean looks in a row after which the ports count as clean.
const CLEAN: usize = 2;
/// Looks within which every connection from before has shown itself.
const SETTLED: usize = 5;
/// Looks after which we give up.
const ROUNDS_MAX: usize = 50;

/// Ends every connection with one of these local ports, in this namespace. To be called after the ports are protected and
/// before the guard takes or makes connections, so that no connection it meets is the guard's. Returns how many it ended.
pub(super) fn sweep(ports: &[u16]) -> anyhow::Result<usize> {
    let mut sweep = Sweep::new(ports);
    while !sweep.look()? {
        sleep(PAUSE);
    }
    Ok(sweep.ended)
}

/// The same in several namespaces, which does not take longer than in one. One answer for each.
pub(super) fn sweep_all(places: &[(&Netns, &[u16])]) -> Vec<anyhow::Result<usize>> {
    let mut sweeps: Vec<(Sweep<'_>, Option<anyhow::Result<usize>>)> =
        places.iter().map(|(_, ports)| (Sweep::new(ports), None)).collect();
    loop {
        for ((netns, _), (sweep, done)) in places.iter().zip(&mut sweeps) {
            if done.is_none() {
                *done = match netns.run(|| sweep.look()) {
                    Ok(Ok(false)) => None,
                    Ok(Ok(true)) => Some(Ok(sweep.ended)),
                    Ok(Err(error)) => Some(Err(error)),
                    Err(error) => Some(Err(error.into())),
                };
            }
        }
        if sweeps.iter().all(|(_, done)| done.is_some()) {
            return sweeps.into_iter().filter_map(|(_, done)| done).collect();
        }
        sleep(PAUSE);
    }
}

/// The looks at some ports.
struct Sweep<'p> {
    ports: &'p [u16],
    ended: usize,
    rounds: usize,
    clean: usize,
    from_before: HashSet<u64>,
}

impl<'p> Sweep<'p> {
    fn new(ports: &'p [u16]) -> Self {
        Self { ports, ended: 0, rounds: 0, clean: 0, from_before: HashSet::new() }
    }

    /// One look. True: nothing is left.
    fn look(&mut self) -> anyhow::Result<bool> {
        let mut found = 0;
        // One list for all ports: the kernel walks its whole table for each.
        let all = diag::connections(None).context("cannot list connections")?;
        for connection in all.iter().filter(|connection| self.ports.contains(&connection.local.port())) {
            if self.rounds < SETTLED {
                self.from_before.insert(connection.cookie);
            } else if !self.from_before.contains(&connection.cookie) {
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
            self.ended += usize::from(destroyed);
        }
        self.rounds += 1;
        self.clean = if found == 0 { self.clean + 1 } else { 0 };
        if self.clean < CLEAN && self.rounds >= ROUNDS_MAX {
            bail!(
                "connections from before the guard do not end; stop the protected servers, start the guard, then the servers"
            )
        }
        Ok(self.clean >= CLEAN)
    }
}
