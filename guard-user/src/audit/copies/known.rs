//! What is known of the trail when a guard starts: its own checkpoint, and the copies that can be reached.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use super::super::keys::Keys;
use super::super::merkle::Tree;
use super::super::note::{Checkpoint, NoteError};
use super::loss::{Loss, Reason};
use super::{files, keeper::NOTE_BYTES_MAX};
use crate::config::{Config, read_bounded};

/// How long a start waits for a file, which may be on another host.
const FILE_PATIENCE: Duration = Duration::from_secs(5);

/// Whom a start asks about the trail, and whether it goes on without what is lost.
#[derive(Debug, Clone, Default)]
pub struct Start {
    files: Vec<PathBuf>,
    accepts: Option<Acceptance>,
}

/// An operator goes on without records that are lost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Acceptance {
    pub reason: String,
    pub uid: u32,
}

/// The trail is not what a checkpoint says that it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Disagreement {
    #[error("{} holds {have} records, but {known} in the checkpoint in {place}: records were lost or removed, or it was put back to an older state", .dir.display())]
    Fewer { dir: PathBuf, have: u64, known: u64, place: String },
    #[error("the first {size} records in {} are not those that the checkpoint in {place} covers: others were written in their place", .dir.display())]
    Other { dir: PathBuf, size: u64, place: String },
    #[error("the checkpoint in {place} is not of the trail in {}: {error}. That one was replaced, or moved away", .dir.display())]
    Foreign { dir: PathBuf, place: String, error: NoteError },
    #[error("the checkpoint in {place} covers {size} records, and none of the keys that {} tells of signed it: the trail was put back to the time of an older key, or that file is not the guard's", .dir.display())]
    LaterKey { dir: PathBuf, size: u64, place: String },
    #[error("{} holds {have} records, and record {seq} handed over to the key of now; the one before, which could go on here, is destroyed", .dir.display())]
    KeyGone { dir: PathBuf, have: u64, seq: u64 },
    #[error("there is no trail in {}, but in {place} the checkpoint of one: it was removed, or moved away", .dir.display())]
    Gone { dir: PathBuf, place: String },
}

impl Disagreement {
    /// What is left to do.
    pub(in crate::audit) fn next(&self) -> &'static str {
        match self {
            Self::KeyGone { .. } => {
                "Keep the directory as evidence and look for the records. Without them, a new trail begins once it is moved away"
            }
            _ => {
                "Keep the directory as evidence and look for the records. `mcp-guard run --accept-loss \"REASON\"` goes on \
                 without them and records who wanted that and why"
            }
        }
    }
}

/// What the copies say.
pub(in crate::audit) struct Known {
    dir: PathBuf,
    copies: Vec<(String, Checkpoint)>,
    accepts: Option<Acceptance>,
    loss: Option<Loss>,
}

impl Start {
    /// By `guard.yaml`.
    pub fn new(config: &Config, accepts: Option<Acceptance>) -> Self {
        Self { files: files(config), accepts }
    }

    /// Reads the copies of the trail in `dir`, which has these keys; none: there is no trail yet.
    pub(in crate::audit) fn known(&self, dir: &Path, keys: Option<&Keys>) -> Result<Known, Disagreement> {
        let accepts = self.accepts.clone();
        let mut known = Known { dir: dir.to_owned(), copies: Vec::new(), accepts, loss: None };
        for (path, read) in self.files.iter().zip(read_all(&self.files)) {
            let place = path.display().to_string();
            let note = match read {
                Ok(note) => note,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => {
                    tracing::warn!(place, %error, "this copy of the audit checkpoint cannot be asked");
                    continue;
                }
            };
            let dir = dir.to_owned();
            let Some(keys) = keys else {
                known.disagree(Disagreement::Gone { dir, place })?;
                continue;
            };
            match keys.open_checkpoint(&note) {
                Ok(checkpoint) => known.copies.push((place, checkpoint)),
                Err(error) => known.disagree(match Checkpoint::said(&note) {
                    Ok(said) if said.origin == keys.name() => {
                        Disagreement::LaterKey { dir, size: said.size, place }
                    }
                    _ => Disagreement::Foreign { dir, place, error },
                })?,
            }
        }
        Ok(known)
    }
}

impl Known {
    /// Records that a copy covers, at most.
    pub(in crate::audit) fn size(&self) -> u64 {
        self.copies.iter().map(|(_, copy)| copy.size).max().unwrap_or(0)
    }

    /// Where a copy ends, the tree has its root.
    pub(in crate::audit) fn look(&mut self, tree: &Tree) -> Result<(), Disagreement> {
        let other = |(_, copy): &&(String, Checkpoint)| copy.size == tree.size() && copy.root != tree.root();
        let Some((place, copy)) = self.copies.iter().find(other) else { return Ok(()) };
        let (dir, size, place) = (self.dir.clone(), copy.size, place.clone());
        self.disagree(Disagreement::Other { dir, size, place })
    }

    /// The trail ends after `have` records, and its own checkpoint covers `own`.
    pub(in crate::audit) fn end(&mut self, have: u64, own: u64) -> Result<(), Disagreement> {
        let most = self.copies.iter().map(|(place, copy)| (copy.size, place.as_str())).max();
        let Some((known, place)) = most.max(Some((own, "the directory itself"))) else { return Ok(()) };
        if have >= known {
            return Ok(());
        }
        let (dir, place) = (self.dir.clone(), place.to_owned());
        self.disagree(Disagreement::Fewer { dir, have, known, place })
    }

    /// An error, unless an operator goes on without what is lost.
    fn disagree(&mut self, found: Disagreement) -> Result<(), Disagreement> {
        let Some(Acceptance { reason, uid }) = &self.accepts else { return Err(found) };
        tracing::warn!("the audit trail goes on without what is lost: {found}");
        let (from, to) = match &found {
            Disagreement::Fewer { have, known, .. } => (Some(*have), known.checked_sub(1)),
            _ => (None, None),
        };
        let loss = Loss {
            reason: Reason::LossAccepted,
            cause: found.to_string(),
            text: reason.clone(),
            uid: *uid,
            lost_from: from,
            lost_to: to,
        };
        // Where more than one place says so, one record tells: of the most that is gone.
        if self.loss.as_ref().is_none_or(|before| before.lost_to <= loss.lost_to) {
            self.loss = Some(loss);
        }
        Ok(())
    }

    /// What was accepted.
    pub(in crate::audit) fn take_loss(&mut self) -> Option<Loss> {
        if self.loss.is_none() && self.accepts.is_some() {
            tracing::warn!("--accept-loss was not needed: the audit trail has all that is known of it");
        }
        self.loss.take()
    }
}

/// Each in a thread of its own, so that none is waited for longer than another.
fn read_all(files: &[PathBuf]) -> Vec<io::Result<String>> {
    let start = |file: &PathBuf| {
        let (send, read) = mpsc::channel();
        let file = file.clone();
        let reading = thread::Builder::new().name("audit-known".into()).spawn(move || {
            let bytes = read_bounded(&file, NOTE_BYTES_MAX);
            // What is no text is no checkpoint either, and is told as that.
            let _nobody_waits = send.send(bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()));
        });
        reading.map(|_detached| read)
    };
    let reading: Vec<_> = files.iter().map(start).collect();
    let late = |_late| Err(io::Error::from(io::ErrorKind::TimedOut));
    reading.into_iter().map(|read| read?.recv_timeout(FILE_PATIENCE).unwrap_or_else(late)).collect()
}
