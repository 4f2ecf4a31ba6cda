//! The record that says how many connections there were, so that a missing record of one shows.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{BootMoment, text};
use crate::attendance::Counts;

/// Servers in one heartbeat record; with more there are several records.
pub const HEARTBEAT_SERVERS_MAX: usize = 40;

/// Counts of kernel and guard at one moment. They only grow: the kernel's since the pins were made, the guard's since
/// its start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "heartbeat")]
pub struct Heartbeat {
    pub occasion: Occasion,
    #[serde(flatten)]
    pub moment: BootMoment,
    pub servers: Vec<Presence>,
    /// The kernel's counters over all servers. Empty in the second and later records of one moment.
    pub host: BTreeMap<&'static str, u64>,
}

/// Why a heartbeat was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Occasion {
    /// The guard begins: nothing is accepted yet.
    Start,
    /// The guard goes on where another one left off; connections may have waited meanwhile.
    TakeOver,
    /// `audit.heartbeat_seconds` are over.
    Interval,
    /// The guard ends and the ports are closed.
    Stop,
    /// The guard hands its listeners on.
    HandOver,
}

/// One server's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Presence {
    #[serde(serialize_with = "name")]
    pub server: String,
    /// Cookie of its network namespace.
    pub netns: u64,
    pub port: u16,
    pub kernel: BTreeMap<&'static str, u64>,
    /// Of the kernel's `established`, what was not for this guard.
    pub before: u64,
    pub guard: Counts,
}

fn name<S: serde::Serializer>(name: &str, to: S) -> Result<S::Ok, S::Error> {
    text::name(name, to)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::LINE_BYTES_MAX;

    #[test]
    fn the_longest_heartbeat_fits_a_line() {
        let big = u64::MAX;
        let guard = Counts {
            accepted: big,
            canaries: big,
            loops: big,
            over_limit: big,
            turned_away: big,
            ended: big,
            recorded: big,
            open: big,
        };
        // More names than either side has, each as long as the longest.
        let mut kernel = BTreeMap::from([("abcdefghijklmnopqrst", big)]);
        kernel.extend(guard_common::Stat::ALL.iter().take(15).map(|(_, name)| (*name, big)));
        let server =
            Presence { server: "x".repeat(128), netns: big, port: u16::MAX, kernel, before: big, guard };
        let beat = Heartbeat {
            occasion: Occasion::TakeOver,
            moment: BootMoment::longest_for_tests(),
            servers: vec![server; HEARTBEAT_SERVERS_MAX],
            host: guard_common::Stat::ALL.iter().map(|(_, name)| (*name, big)).collect(),
        };
        let bytes = text::encode(&beat).unwrap().len();
        assert!(bytes < LINE_BYTES_MAX - 1024, "{bytes}");
    }
}
