//! What the kernel side tells of by itself, written into the audit trail.

use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::Context;

use super::App;
use crate::audit::{Block, Event};
use crate::kernel::{BlockStatus, DeniedCall, OtherPort};

/// Between two attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(1);
/// Refused system calls that are recorded within [`SECOND`], and as many new ports; counters or `status` have all of them.
const RECORDS_PER_SECOND_MAX: u32 = 50;
const SECOND: Duration = Duration::from_secs(1);

impl App {
    /// Reads the blocks anew and records what has changed. Returns those that hold.
    pub(super) async fn heed_blocks(&self) -> anyhow::Result<Vec<BlockStatus>> {
        self.kernel.refresh_blocks()?;
        self.record_blocks().await?;
        Ok(self.kernel.blocks().list())
    }

    /// Records each block that is new or gone since the last call; at the start, each that is found.
    pub(super) async fn record_blocks(&self) -> anyhow::Result<()> {
        let mut recorded = self.recorded.lock().await;
        let now = self.kernel.blocks().changes().borrow().clone();
        let gone: Vec<_> =
            recorded.iter().filter(|(key, _)| !now.contains_key(key)).map(|(key, _)| *key).collect();
        for key in gone {
            if let Some(block) = recorded.get(&key) {
                self.unblocked(block).await?;
            }
            recorded.remove(&key);
            self.kernel.forget_lifted(&key)?;
        }
        // Of what was taken back while no guard ran, the kernel remembers it.
        for (key, block) in self.kernel.lifted() {
            // It is just being taken back: then it is gone at the next call.
            if now.get(&key) == Some(&block) {
                continue;
            }
            self.unblocked(&block).await?;
            self.kernel.forget_lifted(&key)?;
        }
        for (key, block) in now.iter() {
            if recorded.get(key) != Some(block) {
                tracing::warn!(what = block.kind, name = block.name, reason = block.reason, "BLOCKED");
                self.note(&Event::Blocked(record(block))).await?;
                recorded.insert(*key, block.clone());
            }
        }
        Ok(())
    }

    async fn unblocked(&self, block: &BlockStatus) -> anyhow::Result<()> {
        tracing::warn!(what = block.kind, name = block.name, "unblocked");
        self.note(&Event::Unblocked(record(block))).await
    }

    async fn note(&self, event: &Event<'_>) -> anyhow::Result<()> {
        self.pipeline.audit.note(event).await.context("the audit trail cannot tell of it")?;
        Ok(())
    }

    async fn record_denied(&self, call: &DeniedCall) {
        let server = self.kernel.server_of(call);
        let event = Event::Denied {
            reason: call.reason,
            address: call.address,
            protocol: call.protocol,
            pid: call.pid,
            uid: call.uid,
            comm: &call.comm,
            cgroup: call.cgroup.as_deref(),
            cgroup_id: call.cgroup_id,
            server: server.as_deref(),
        };
        tracing::warn!(
            reason = call.reason,
            address = %call.address,
            pid = call.pid,
            uid = call.uid,
            comm = call.comm,
            server,
            "a system call was refused"
        );
        if let Err(error) = self.note(&event).await {
            tracing::error!("a refused system call is not recorded: {error:#}");
        }
    }
}

fn record(block: &BlockStatus) -> Block<'_> {
    Block { what: block.kind, name: &block.name, reason: &block.reason, since: block.since, uid: block.uid }
}

/// Starts to record. Ends with the guard.
pub(super) fn spawn(app: &Arc<App>) {
    tokio::spawn(blocks(Arc::downgrade(app), app.kernel.blocks().changes()));
    if let Some(calls) = app.kernel.denied() {
        tokio::spawn(denied(Arc::downgrade(app), calls));
    }
    if let Some(ports) = app.kernel.other_ports() {
        tokio::spawn(other_ports(Arc::downgrade(app), ports));
    }
}

async fn blocks<T>(app: Weak<App>, mut changes: tokio::sync::watch::Receiver<T>) {
    while changes.changed().await.is_ok() {
        loop {
            let Some(app) = app.upgrade() else { return };
            let Err(error) = app.record_blocks().await else { break };
            tracing::error!("a block is not recorded yet: {error:#}");
            drop(app);
            tokio::time::sleep(RETRY).await;
        }
    }
}

async fn denied(app: Weak<App>, mut calls: tokio::sync::mpsc::Receiver<DeniedCall>) {
    let mut room = Room::default();
    while let Some(call) = calls.recv().await {
        let Some(app) = app.upgrade() else { return };
        // Whoever is refused can try without end; the trail must not be what they fill.
        if room.admits(tokio::time::Instant::now()) {
            app.record_denied(&call).await;
        }
    }
}

async fn other_ports(app: Weak<App>, mut ports: tokio::sync::mpsc::Receiver<OtherPort>) {
    let mut room = Room::default();
    while let Some(OtherPort { server, port, netns, uid, done }) = ports.recv().await {
        let Some(app) = app.upgrade() else { return };
        let event = Event::OtherPort { server: &server, netns, port, uid, done };
        if room.admits(tokio::time::Instant::now())
            && let Err(error) = app.note(&event).await
        {
            tracing::error!(server, port, "another port of a server is not recorded: {error:#}");
        }
    }
}

/// How many are recorded in the second under way.
#[derive(Default)]
struct Room {
    begun: Option<tokio::time::Instant>,
    taken: u32,
}

impl Room {
    fn admits(&mut self, now: tokio::time::Instant) -> bool {
        if self.begun.is_none_or(|begun| now.duration_since(begun) >= SECOND) {
            (self.begun, self.taken) = (Some(now), 0);
        }
        self.taken += 1;
        self.taken <= RECORDS_PER_SECOND_MAX
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_above_the_rate_are_left_to_the_counters() {
        let (mut room, now) = (Room::default(), tokio::time::Instant::now());
        let admitted = (0..100).filter(|_| room.admits(now)).count();
        assert_eq!(admitted, RECORDS_PER_SECOND_MAX as usize);
        assert!(room.admits(now + SECOND));
    }
}
