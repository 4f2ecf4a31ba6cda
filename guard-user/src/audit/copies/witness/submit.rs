//! Shows a checkpoint to a witness.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use http::Request;
use http::header::CONTENT_TYPE;
use http_body_util::Full;

use super::super::super::WITNESS_VERIFIER_KEY_FILE;
use super::super::super::error::OpenError;
use super::super::super::keys::Keys;
use super::super::super::note::{SigningKey, VerifierKey};
use super::super::super::prove::growth;
use super::answer::{self, Said};
use super::{cosignature, key};
use crate::config::Witness;
use crate::outbound::{self, BodyMax, Place};
use crate::tls::Peer;

/// One question: names, connection, handshake, answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of an answer: some lines of signatures.
const ANSWER_BYTES_MAX: usize = 16 * 1024;
/// Questions for one checkpoint. The first may be about a size that the witness is beyond; then somebody else asks, too.
const ATTEMPTS_MAX: usize = 3;

/// What is shown, and to whom.
pub(in super::super) struct Submission<'a> {
    pub(super) dir: &'a Path,
    /// The trail's first key.
    pub(super) root: VerifierKey,
    pub(super) key: SigningKey,
    pub(super) witness: &'a Witness,
    pub(super) protected: &'a [u16],
}

/// Why there is no cosignature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(in super::super) enum Refused {
    #[error(
        "it has signed a checkpoint of {known} records of this trail, and this one is of {have}: records were lost or removed, or the trail was put back to an older state"
    )]
    Fewer { have: u64, known: u64 },
    #[error(
        "the first {size} records of this trail are not those that it has signed: others were written in their place"
    )]
    Other { size: u64 },
    #[error("{0}")]
    Otherwise(String),
}

impl<'a> Submission<'a> {
    /// Of the trail in `dir`, as far as it is known to witnesses: `None` if it has no key for them yet.
    pub(in super::super) fn of_known(
        (dir, root): (&'a Path, &VerifierKey),
        witness: &'a Witness,
        protected: &'a [u16],
    ) -> Result<Option<Self>, OpenError> {
        let key = key::open(dir, root.name())?;
        Ok(key.map(|key| Self { dir, root: root.clone(), key, witness, protected }))
    }

    /// Has the witness sign the checkpoint in `note`; returns it with that signature. `old`: what the witness is thought to have. It
    /// tells what it has, and nothing is read of the trail for a size that is its own.
    pub(in super::super) fn submit(&self, note: &str, old: Option<u64>) -> Result<String, Refused> {
        let otherwise = |error: &dyn std::fmt::Display| Refused::Otherwise(error.to_string());
        let keys = Keys::beside(self.dir, self.root.clone()).map_err(|error| otherwise(&error))?;
        let latest = keys.open_checkpoint(note).map_err(|error| otherwise(&error))?;
        let signed = self.key.sign_too(note).map_err(|error| otherwise(&error))?;
        let have = latest.size;
        let mut old = old.map_or(have, |old| old.min(have));
        for attempt in 0..ATTEMPTS_MAX {
            let mut proof = growth((self.dir, &keys), &latest, old);
            if attempt == 0 && proof.is_err() && old < have {
                // The file that says so may be anybody's.
                old = have;
                proof = growth((self.dir, &keys), &latest, old);
            }
            let proof = proof.map_err(|error| otherwise(&error))?;
            let (status, content_type, body) = self.post(proof.consistency_file(old, &signed))?;
            match answer::read(status, content_type.as_deref(), &body) {
                Said::Signed(lines) => {
                    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
                    let line = cosignature::find(lines, &signed, &self.witness.key, now);
                    return line.map(|line| signed.clone() + &line).map_err(Refused::Otherwise);
                }
                Said::Has(known) if known > have => return Err(Refused::Fewer { have, known }),
                Said::Has(known) if known != old => old = known,
                Said::Another | Said::Has(_) if old == have && have > 0 => {
                    return Err(Refused::Other { size: have });
                }
                // Of the same number there is nothing to grow.
                Said::NoGrowth if old > 0 && old < have => return Err(Refused::Other { size: old }),
                Said::NoSuchLog | Said::NoSuchKey => {
                    let what = if status == 404 { "trail" } else { "trail's key" };
                    return Err(Refused::Otherwise(format!(
                        "it does not know this {what}. If it has signed before, the trail was put back; else its operator needs the content of {}",
                        self.dir.join(WITNESS_VERIFIER_KEY_FILE).display()
                    )));
                }
                Said::Odd | Said::NoGrowth | Said::Another | Said::Has(_) => {
                    return Err(Refused::Otherwise(format!("it answered {status}, as no witness does")));
                }
            }
        }
        Err(Refused::Otherwise("it names another number of records each time that it is asked".into()))
    }

    /// Status, type and text of the answer.
    fn post(&self, body: String) -> Result<(u16, Option<String>, String), Refused> {
        let body_max = BodyMax { bytes: ANSWER_BYTES_MAX, time: PATIENCE };
        let asked = async {
            let url = &self.witness.url;
            let place = Place {
                host: url.host(),
                port: url.port(),
                authority: url.authority(),
                is_secret: url.is_secret(),
                ca_file: self.witness.ca_file.as_deref(),
                peer: Peer::WITNESS,
                protected: self.protected,
            };
            let request = Request::post(url.add_checkpoint())
                .header(CONTENT_TYPE, "text/plain; charset=utf-8")
                .body(Full::new(Bytes::from(body)))
                .map_err(|error| error.to_string())?;
            let answer = outbound::ask(&place, request, body_max).await?;
            let content_type = answer.head.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
            let text = String::from_utf8_lossy(&answer.body?).into_owned();
            Ok((answer.head.status.as_u16(), content_type.map(str::to_owned), text))
        };
        outbound::block_on(PATIENCE, asked).map_err(Refused::Otherwise)
    }
}
