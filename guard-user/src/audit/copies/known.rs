//! What is known of the trail when a guard starts: its own checkpoint, and the copies that can be reached.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use super::super::disk;
use super::super::keys::Keys;
use super::super::merkle::Tree;
use super::super::note::{Checkpoint, NoteError};
use super::loss::{Loss, Reason};
use super::witness::{Refused, Submission, file_name};
use super::{files, keeper::NOTE_BYTES_MAX};
use crate::audit::{CHECKPOINT_FILE, WITNESS_KEY_FILE};
use crate::config::{Config, Witness, read_bounded};

/// How long a start waits for copies, which may be on other hosts.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// Whom a start asks about the trail, and whether it goes on without what is lost.
#[derive(Debug, Clone, Default)]
pub struct Start {
    files: Vec<PathBuf>,
    copy_to: Option<PathBuf>,
    witnesses: Vec<Witness>,
    protected: Arc<[u16]>,
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
    #[error("the key that witnesses know the trail in {} by is gone or cannot be used ({why}), so that they cannot be asked what they have signed", .dir.display())]
    NoWitnessKey { dir: PathBuf, why: String },
    #[error("there is no trail in {}, but in {place} the checkpoint of one: it was removed, or moved away, or that place is another guard's", .dir.display())]
    Gone { dir: PathBuf, place: String },
}

impl Disagreement {
    /// What is left to do.
    pub(in crate::audit) fn next(&self) -> &'static str {
        match self {
            Self::KeyGone { .. } => {
                "Keep the directory as evidence and look for the records. Without them, move it away: \
                 `mcp-guard run --accept-loss \"REASON\"` begins a new trail then"
            }
            Self::NoWitnessKey { .. } => {
                "Restore `witness-key` (mode 0600). If it is lost for good, and no record is, move it and the files `witnessed-*` away: \
                 the guard makes another key, which the witnesses' operators must be told of"
            }
            _ => {
                "Another host may go on with a copy of this trail, or use the same place for its copies. Else keep the directory as evidence and look for the records. `mcp-guard run --accept-loss \"REASON\"` goes on \
                 without them and records who wanted that and why"
            }
        }
    }
}

/// What the copies say.
pub(in crate::audit) struct Known {
    dir: PathBuf,
    copies: Vec<(String, Checkpoint)>,
    /// More records than the trail's own checkpoint covers, which a witness has signed.
    sizes: Vec<(String, u64)>,
    /// Records that a witness has signed, and that are others here.
    others: Vec<(String, u64)>,
    accepts: Option<Acceptance>,
    losses: Vec<Loss>,
}

impl Start {
    /// By `guard.yaml`.
    pub fn new(config: &Config, accepts: Option<Acceptance>) -> Self {
        let witnesses = config.audit.checkpoints.witnesses.clone();
        let copy_to = config.audit.checkpoints.copy_to.clone();
        let protected = config.server_ports().into();
        Self { files: files(config), copy_to, witnesses, protected, accepts }
    }

    /// Reads the copies of the trail in `dir`, which has these keys; none: there is no trail yet.
    pub(in crate::audit) fn known(&self, dir: &Path, keys: Option<&Keys>) -> Result<Known, Disagreement> {
        let accepts = self.accepts.clone();
        let (copies, sizes, others) = (Vec::new(), Vec::new(), Vec::new());
        let mut known = Known { dir: dir.to_owned(), copies, sizes, others, accepts, losses: Vec::new() };
        let end = Instant::now() + PATIENCE;
        if let Some(why) = keys.and_then(|keys| self.cannot_ask(dir, keys)) {
            known.disagree(Disagreement::NoWitnessKey { dir: dir.to_owned(), why })?;
        }
        let asked = self.ask_witnesses(dir, keys);
        for (path, read) in self.files.iter().zip(read_all(&self.files, end)) {
            let place = path.display().to_string();
            let note = match read {
                Ok(note) => note,
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if self.copy_to.as_deref().is_some_and(|dir| path.starts_with(dir) && !dir.exists()) {
                        tracing::warn!(
                            place,
                            "audit.checkpoints.copy_to is not there, so its copy cannot be asked; is it a mount that comes later?"
                        );
                    }
                    continue;
                }
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
        for (place, asked) in asked {
            match collect(asked, end) {
                None => {}
                Some(Err(Refused::Fewer { known: size, .. })) => known.sizes.push((place, size)),
                Some(Err(Refused::Other { size })) => known.others.push((place, size)),
                Some(Err(Refused::Otherwise(why))) => {
                    tracing::warn!(place, "this witness of the audit trail cannot be asked: {why}");
                }
                Some(Ok(size)) => tracing::info!(place, size, "the witness has the same audit trail"),
            }
        }
        Ok(known)
    }

    /// Why no witness can be asked, though one has signed. Without its key, the guard would be a stranger to them.
    fn cannot_ask(&self, dir: &Path, keys: &Keys) -> Option<String> {
        let [first, ..] = self.witnesses.as_slice() else { return None };
        let has_signed =
            || self.witnesses.iter().any(|one| dir.join(file_name(one)).symlink_metadata().is_ok());
        match Submission::of_known((dir, keys.root()), first, &self.protected) {
            Ok(Some(_)) => None,
            Ok(None) if has_signed() => Some(format!("{WITNESS_KEY_FILE} is not there")),
            Ok(None) => {
                tracing::warn!(
                    "no witness was asked about the audit trail: there is no {WITNESS_KEY_FILE}. If one has signed before, the trail was put back"
                );
                None
            }
            Err(error) if has_signed() => Some(error.to_string()),
            Err(error) => {
                tracing::warn!("no witness was asked about the audit trail: {error}");
                None
            }
        }
    }

    /// Shows the trail's own checkpoint to every witness. None is waited for yet.
    fn ask_witnesses(&self, dir: &Path, keys: Option<&Keys>) -> Vec<(String, Asked)> {
        // Without a trail, there is nothing that a witness could know.
        let Some(keys) = keys else { return Vec::new() };
        let ask = |witness: &Witness| {
            let (dir, root, witness) = (dir.to_owned(), keys.root().clone(), witness.clone());
            let place = format!("the store of the witness {}", witness.url);
            let protected = Arc::clone(&self.protected);
            let asked = apart(move || {
                let submission = Submission::of_known((&dir, &root), &witness, &protected);
                let otherwise = |error: &dyn std::fmt::Display| Refused::Otherwise(error.to_string());
                let Some(submission) = submission.map_err(|error| otherwise(&error))? else {
                    return Ok(None);
                };
                let note = read_bounded(&dir.join(CHECKPOINT_FILE), NOTE_BYTES_MAX);
                let note = String::from_utf8(note.map_err(|error| otherwise(&error))?);
                let note = note.map_err(|error| otherwise(&error))?;
                disk::sync_dir(&dir).map_err(|error| otherwise(&error))?;
                // Nobody but the witness says what it has.
                submission.submit(&note, None)?;
                Ok(Checkpoint::said(&note).ok().map(|said| said.size))
            });
            (place, asked)
        };
        self.witnesses.iter().map(ask).collect()
    }
}

/// What a witness said to the trail's own checkpoint: that it has the same trail, up to so many records. `None`: nobody has asked it yet.
type Asked = io::Result<Receiver<Result<Option<u64>, Refused>>>;

fn collect(asked: Asked, end: Instant) -> Option<Result<u64, Refused>> {
    let late = || Refused::Otherwise(format!("no answer within {} s of the start", PATIENCE.as_secs()));
    let answer = match asked {
        Ok(answer) => answer.recv_timeout(until(end)).unwrap_or_else(|_late| Err(late())),
        Err(error) => Err(Refused::Otherwise(error.to_string())),
    };
    answer.transpose()
}

impl Known {
    /// Records that a copy covers, at most. What a witness only names is not signed by anybody here.
    pub(in crate::audit) fn size(&self) -> u64 {
        self.most().map_or(0, |(size, _)| size)
    }

    fn most(&self) -> Option<(u64, &str)> {
        self.copies.iter().map(|(place, copy)| (copy.size, place.as_str())).max()
    }

    /// The trail begins with record `first`. What a copy covers before that is pruned, and cannot be compared.
    pub(in crate::audit) fn begin(&self, first: u64) {
        for (place, copy) in self.copies.iter().filter(|(_, copy)| first > 0 && copy.size <= first) {
            tracing::error!(
                place,
                size = copy.size,
                first,
                "this copy of the audit checkpoint covers only records that are pruned, so it cannot show whether this is the same trail"
            );
        }
    }

    /// Where a copy ends, the tree has its root.
    pub(in crate::audit) fn look(&mut self, tree: &Tree) -> Result<(), Disagreement> {
        let other = |(_, copy): &&(String, Checkpoint)| copy.size == tree.size() && copy.root != tree.root();
        let Some((place, copy)) = self.copies.iter().find(other) else { return Ok(()) };
        let (dir, size, place) = (self.dir.clone(), copy.size, place.clone());
        self.disagree(Disagreement::Other { dir, size, place })
    }

    /// The trail ends after `have` records, its own checkpoint covers `own`, and signed records in it say that losses of so many first
    /// records were `accepted`. Copies are written anew after that; a witness forgets nothing, and goes on naming the same number.
    pub(in crate::audit) fn end(
        &mut self,
        have: u64,
        own: u64,
        accepted: &BTreeSet<u64>,
    ) -> Result<(), Disagreement> {
        let is_news = |(place, size): &(String, u64)| {
            let is_accepted = accepted.contains(size);
            if is_accepted {
                tracing::warn!(
                    place,
                    size,
                    "records that this witness has signed were lost, and an operator accepted that: it signs no more of this trail"
                );
            }
            !is_accepted
        };
        self.sizes.retain(is_news);
        self.others.retain(is_news);
        let dir = self.dir.clone();
        for (place, size) in std::mem::take(&mut self.others) {
            self.disagree(Disagreement::Other { dir: dir.clone(), size, place })?;
        }
        // The guard's own checkpoint is on disk before a witness is shown it: what stands behind that is nobody's.
        for (place, known) in std::mem::take(&mut self.sizes) {
            if known > own {
                self.disagree(Disagreement::Fewer { dir: dir.clone(), have: own, known, place })?;
            }
        }
        let Some((known, place)) = self.most().max(Some((own, "the directory itself"))) else {
            return Ok(());
        };
        if have >= known {
            return Ok(());
        }
        let place = place.to_owned();
        self.disagree(Disagreement::Fewer { dir, have, known, place })
    }

    /// An error, unless an operator goes on without what is lost.
    fn disagree(&mut self, found: Disagreement) -> Result<(), Disagreement> {
        let Some(Acceptance { reason, uid }) = &self.accepts else { return Err(found) };
        tracing::warn!("the audit trail goes on without what is lost: {found}");
        let (from, to) = match &found {
            Disagreement::Fewer { have, known, .. } => (Some(*have), known.checked_sub(1)),
            Disagreement::Other { size, .. } | Disagreement::LaterKey { size, .. } => {
                (None, size.checked_sub(1))
            }
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
        // Where more than one place says the same, one record tells.
        let is_told = |before: &Loss| match loss.lost_to {
            Some(_) => before.lost_to == loss.lost_to,
            None => before.cause == loss.cause,
        };
        if !self.losses.iter().any(is_told) {
            self.losses.push(loss);
        }
        Ok(())
    }

    /// What was accepted.
    pub(in crate::audit) fn take_losses(&mut self) -> Vec<Loss> {
        if self.losses.is_empty() && self.accepts.is_some() {
            tracing::warn!("--accept-loss was not needed: the audit trail has all that is known of it");
        }
        std::mem::take(&mut self.losses)
    }
}

/// Each in a thread of its own, so that none is waited for longer than another.
fn read_all(files: &[PathBuf], end: Instant) -> Vec<io::Result<String>> {
    let start = |file: &PathBuf| {
        let file = file.clone();
        apart(move || {
            let bytes = read_bounded(&file, NOTE_BYTES_MAX);
            // What is no text is no checkpoint either, and is told as that.
            bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        })
    };
    let reading: Vec<_> = files.iter().map(start).collect();
    let late = |_late| Err(io::Error::from(io::ErrorKind::TimedOut));
    reading.into_iter().map(|read| read?.recv_timeout(until(end)).unwrap_or_else(late)).collect()
}

pub(super) fn until(end: Instant) -> Duration {
    end.saturating_duration_since(Instant::now())
}

pub(super) fn apart<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> io::Result<Receiver<T>> {
    let (send, receive) = mpsc::channel();
    let working = thread::Builder::new().name("audit-known".into());
    // Whoever waits for it may have given up.
    let detached = working.spawn(move || drop(send.send(work())));
    detached.map(|_detached| receive)
}
