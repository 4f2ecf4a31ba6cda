//! Compares the connections in the trail with what kernel and guard counted, from one heartbeat to the next.
//!
//! Three counts must agree, for each server and each time between two heartbeats: the handshakes that the kernel saw
//! finished, the connections that the guard accepted, and those that left a record or another explanation. It reads
//! records only; whether they are genuine is for `verify` to say.

mod life;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::walk::{Found, Lines, segments};
use life::Lives;

/// What a comparison came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Balance {
    /// Every connection that the kernel counted is explained.
    pub complete: bool,
    pub intervals: Vec<Interval>,
    /// What is wrong with the trail as a whole.
    pub faults: Vec<String>,
}

/// One server between two heartbeats.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Interval {
    pub server: String,
    pub port: u16,
    /// `served`, `closed` (from a stop to the next start) or `unwitnessed` (the guard ended without a word).
    pub state: State,
    /// Sequence number and time of the heartbeats at both ends.
    pub from: Moment,
    pub to: Moment,
    /// Connections that the kernel gave to the guard; with the next, those whose handshake was never finished.
    pub steered: u64,
    pub established: u64,
    /// Of the guard's own count. Not known where it is unwitnessed.
    pub accepted: u64,
    /// Connections with their first record here, as the trail has them.
    pub recorded: u64,
    /// Accepted connections without a record, by reason.
    pub explained: BTreeMap<String, u64>,
    /// Open and without a record at the end.
    pub open: u64,
    pub faults: Vec<Fault>,
}

/// A difference that nothing in the trail explains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Connections.
    pub difference: u64,
    pub words: String,
}

/// Whether somebody watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    Served,
    Closed,
    Unwitnessed,
}

/// Where in the trail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Moment {
    pub seq: u64,
    pub time: String,
}

/// The fields of a record that matter here.
#[derive(Debug, Deserialize)]
struct Record {
    seq: u64,
    #[serde(default)]
    time: String,
    kind: String,
    #[serde(default)]
    occasion: Option<String>,
    #[serde(default)]
    server: Option<String>,
    #[serde(default)]
    conn: Option<u64>,
    #[serde(default)]
    servers: Vec<Seen>,
}

/// One server in a heartbeat.
#[derive(Debug, Clone, Deserialize)]
struct Seen {
    server: String,
    netns: u64,
    port: u16,
    kernel: BTreeMap<String, u64>,
    before: u64,
    guard: BTreeMap<String, u64>,
}

/// Reads the trail in `dir` and compares. A last line without its end is left out: a guard may be writing it.
pub fn reconcile(dir: &Path) -> io::Result<Balance> {
    let mut story = Lives::default();
    for (_, path) in segments(dir)? {
        let mut lines = Lines::open(&path)?;
        while let Some(Found::Line(line)) = lines.next()? {
            let record: Record = serde_json::from_slice(line).map_err(|error| {
                io::Error::other(format!("{}, line {}: {error}", path.display(), lines.number))
            })?;
            story.take(record);
        }
    }
    Ok(story.balance())
}

impl Balance {
    fn of(intervals: Vec<Interval>, faults: Vec<String>) -> Self {
        let complete = faults.is_empty() && intervals.iter().all(|interval| interval.faults.is_empty());
        Self { complete, intervals, faults }
    }
}

#[cfg(test)]
mod tests;
