//! Heartbeat records: what kernel and guard counted, written into the trail.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::App;
use crate::attendance::Counts;
use crate::audit::{BootMoment, HEARTBEAT_SERVERS_MAX, Heartbeat, Occasion, Presence};
use crate::kernel::{Census, Counted};
use crate::types::ServerName;

/// How long a stopping guard waits until it has accepted everybody whose handshake the kernel has finished.
const SETTLE: Duration = Duration::from_millis(500);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

impl App {
    /// Writes what is counted now. A trail that cannot be written refuses calls by itself; the next heartbeat has these
    /// counts too, since they only grow.
    pub(super) async fn heartbeat(&self, occasion: Occasion) {
        let mut first = true;
        for servers in self.config.servers.chunks(HEARTBEAT_SERVERS_MAX) {
            let names: Vec<ServerName> = servers.iter().map(|server| server.name.clone()).collect();
            let (kernel, host) = (self.kernel.clone(), first);
            first = false;
            let count = move || {
                let attendance = kernel.attendance().clone();
                // The guard's half first: what the kernel counts meanwhile is still to be accepted.
                let counts: Vec<Counts> = match occasion {
                    Occasion::Start | Occasion::TakeOver => vec![Counts::default(); names.len()],
                    _ => names.iter().map(|name| attendance.counts(name)).collect(),
                };
                let mut census = kernel.census();
                if matches!(occasion, Occasion::Start | Occasion::TakeOver) {
                    // Somebody may have been served already; this record stands for the moment before.
                    for counted in &mut census.servers {
                        counted.counts.insert("established", counted.before);
                    }
                }
                record(occasion, &names, &counts, census, host)
            };
            if let Err(error) = self.pipeline.audit.heartbeat(occasion, count).await {
                tracing::warn!(%error, "a heartbeat is missing in the trail");
            }
        }
    }

    /// Waits, for a short time, until every connection that the kernel established is accepted.
    pub(super) async fn settle(&self) {
        let end = Instant::now() + SETTLE;
        while Instant::now() < end && self.waiting() > 0 {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Connections that the kernel established for this guard and that it has not accepted.
    fn waiting(&self) -> u64 {
        let waiting = |counted: Counted| {
            let accepted = self.kernel.attendance().counts(&counted.server).accepted;
            let established = counted.counts.get("established").copied().unwrap_or_default();
            established.saturating_sub(counted.before).saturating_sub(accepted)
        };
        self.kernel.census().servers.into_iter().map(waiting).sum()
    }
}

fn record(
    occasion: Occasion,
    names: &[ServerName],
    counts: &[Counts],
    census: Census,
    with_host: bool,
) -> Heartbeat {
    let Census { servers, counters } = census;
    let presence = |(name, guard): (&ServerName, &Counts)| {
        let Counted { server, netns, port, counts, before } =
            servers.iter().find(|counted| counted.server == *name)?.clone();
        Some(Presence {
            server: server.as_str().to_owned(),
            netns,
            port,
            kernel: counts,
            before,
            guard: *guard,
        })
    };
    Heartbeat {
        occasion,
        moment: BootMoment::now(),
        servers: names.iter().zip(counts).filter_map(presence).collect(),
        host: if with_host { counters } else { BTreeMap::new() },
    }
}
