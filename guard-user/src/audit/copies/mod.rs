//! Copies of the trail's signed checkpoint, kept where whoever cuts the trail or puts it back does not reach, and what
//! they say at the next start.
//!
//! ```text
//! keeper    a thread for each place: the latest checkpoint goes there from time to time
//! file      in a directory; journal: to the system journal; witness: to a witness, for its signature
//! known     what the copies that can be reached say when a guard starts
//! survey    whether the trail agrees with the copies, for operators
//! loss      the record of a loss that an operator accepts
//! ```
//!
//! All of it reads the file `checkpoint`, which is on disk after the records that it covers: nothing here is on the path
//! of a call, and no copy covers a record that a power cut could take.

mod file;
mod journal;
mod keeper;
mod known;
mod loss;
mod survey;
mod witness;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::CHECKPOINT_FILE;
use crate::config::Config;
use crate::types::Uptime;
use file::FileCopy;
use journal::Journal;
use keeper::Keeper;
pub(super) use known::Known;
pub use known::{Acceptance, Disagreement, Start};
pub(super) use loss::Loss;
pub use survey::{Agreement, Survey, Surveyed, survey};
use witness::WitnessCopy;

/// A copy's name in its directory.
pub(super) const COPY_FILE: &str = "audit-checkpoint";
/// How long the last copies may take when the guard stops.
const LAST_PATIENCE: Duration = Duration::from_secs(3);

/// What takes checkpoints.
trait Sink: Send {
    /// Returns once the note is there, as far as that can be known; else why not.
    fn put(&mut self, note: &Note) -> Result<(), String>;
}

/// A signed checkpoint as it stands in the file; what it says was not verified.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Note {
    text: String,
    origin: String,
    size: u64,
}

/// How the copies at one place are.
#[derive(Debug, Clone, Serialize)]
pub struct Standing {
    /// `file`, `journal` or `witness`.
    pub kind: &'static str,
    pub place: String,
    /// Records that the last copy covers which arrived since this guard began.
    pub size: Option<u64>,
    #[serde(rename = "age_seconds", serialize_with = "age")]
    pub at: Option<Uptime>,
    /// When the attempt that is under way began.
    #[serde(rename = "attempt_seconds", serialize_with = "age")]
    pub attempt: Option<Uptime>,
    /// When the guard began to copy there.
    #[serde(rename = "waiting_seconds", serialize_with = "waiting")]
    pub since: Uptime,
    /// Copies that did not arrive since this guard began.
    pub failures: u64,
    /// Why the last one did not.
    pub error: Option<String>,
}

/// The places that get copies. They end with this value; [`Copies::finish`] gives them the last checkpoint first.
#[derive(Debug, Default)]
pub struct Copies(Vec<Keeper>);

impl Copies {
    /// Begins to copy. `accepts`: an operator goes on without what is lost, so that an older checkpoint may take the place of a later one.
    pub fn begin(config: &Config, accepts: bool) -> std::io::Result<Self> {
        let (source, every) = (config.audit_dir().join(CHECKPOINT_FILE), every(config));
        let keep = |(kind, place, sink): (&'static str, String, Box<dyn Sink>)| {
            Keeper::spawn(kind, place, sink, source.clone(), every)
        };
        sinks(config, accepts).into_iter().map(keep).collect::<Result<_, _>>().map(Self)
    }

    /// How each place is.
    pub fn standing(&self) -> Vec<Standing> {
        self.0.iter().map(Keeper::standing).collect()
    }

    /// Gives every place the last checkpoint, and waits a short time for that. To be called when the trail is closed.
    pub fn finish(&self) {
        self.0.iter().for_each(Keeper::stop);
        let end = std::time::Instant::now() + LAST_PATIENCE;
        for keeper in &self.0 {
            if !keeper.has_ended_by(end) {
                let Standing { kind, place, .. } = keeper.standing();
                tracing::warn!(kind, place, "the last checkpoint may not have arrived");
            }
        }
    }
}

impl Note {
    /// `None`: this is no checkpoint.
    fn parse(text: String) -> Option<Self> {
        let mut lines = text.split('\n');
        let (origin, size) = (lines.next()?.to_owned(), lines.next()?.parse().ok()?);
        Some(Self { text, origin, size })
    }
}

/// Where copies in files are, in the order in which a start reads them.
fn files(config: &Config) -> Vec<PathBuf> {
    let dirs =
        [Some(&config.runtime_dir), Some(&config.state_dir), config.audit.checkpoints.copy_to.as_ref()];
    dirs.into_iter().flatten().map(|dir| dir.join(COPY_FILE)).collect()
}

fn every(config: &Config) -> Duration {
    Duration::from_secs(config.audit.checkpoints.every_seconds)
}

fn sinks(config: &Config, may_go_back: bool) -> Vec<(&'static str, String, Box<dyn Sink>)> {
    let mut sinks: Vec<(_, _, Box<dyn Sink>)> = Vec::new();
    for path in files(config) {
        // The guard's own are made if need be. Any other may be a mount that is missing.
        let is_own =
            Some(&path) != config.audit.checkpoints.copy_to.as_ref().map(|dir| dir.join(COPY_FILE)).as_ref();
        sinks.push((
            "file",
            path.display().to_string(),
            // Its own are always there, and the start has compared them.
            Box::new(FileCopy {
                path,
                trail: config.audit_dir(),
                is_own,
                may_go_back,
                is_known: is_own && !may_go_back,
            }),
        ));
    }
    if config.audit.checkpoints.journal.unwrap_or_else(|| Path::new(journal::SOCKET).exists()) {
        sinks.push(("journal", journal::SOCKET.to_owned(), Box::new(Journal)));
    }
    let protected: Arc<[u16]> = config.server_ports().into();
    for witness in config.audit.checkpoints.witnesses.clone() {
        let place = witness.url.to_string();
        let copy = WitnessCopy { dir: config.audit_dir(), witness, protected: Arc::clone(&protected) };
        sinks.push(("witness", place, Box::new(copy)));
    }
    sinks
}

fn waiting<S: serde::Serializer>(since: &Uptime, to: S) -> Result<S::Ok, S::Error> {
    Uptime::now().since(*since).as_secs().serialize(to)
}

#[expect(clippy::ref_option, reason = "serde's derive passes fields by reference")]
fn age<S: serde::Serializer>(at: &Option<Uptime>, to: S) -> Result<S::Ok, S::Error> {
    at.map(|at| Uptime::now().since(at).as_secs()).serialize(to)
}
