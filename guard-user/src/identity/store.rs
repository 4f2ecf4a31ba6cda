//! `credentials.yaml` on disk: read at start and reload, rewritten whole by `mcp-guard tokens`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use jiff::{SignedDuration, Timestamp};

use super::credentials::{Credential, CredentialFile, CredentialId, Credentials};
use super::secret::{Secret, SecretError};
use crate::config::yaml::{self, FILE_BYTES_MAX};
use crate::config::{Problem, Problems, others_may_write, read_bounded};
use crate::types::{AgentName, ClientId, ProfileName};

/// The file in the policy directory that `mcp-guard tokens` owns.
pub const CREDENTIALS_FILE: &str = "credentials.yaml";

/// How long what has expired stays in the file.
const EXPIRED_KEPT: SignedDuration = SignedDuration::from_hours(24);

const HEADING: &str =
    "# Written by `mcp-guard tokens`; secrets are stored as SHA-256 only. Do not edit by hand.\n";

/// Why the file was not changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{0}")]
    Problems(#[from] Problems),
    #[error("{path}: {source}")]
    Io { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Secret(#[from] SecretError),
    #[error("no credential has the id {0:?}; `mcp-guard tokens list` shows them")]
    UnknownId(String),
    #[error("credentials cannot be written as YAML: {0}")]
    Encode(String),
}

/// A credential just made. The secret exists here and nowhere else.
#[derive(Debug)]
pub struct Issued {
    pub credential: Credential,
    pub secret: Secret,
}

impl Credentials {
    /// Reads `credentials.yaml` in `dir`. No file: no credentials. Refused if anybody but root and the guard's
    /// own user may write it.
    pub fn load(dir: &Path) -> Result<Self, Problems> {
        let path = dir.join(CREDENTIALS_FILE);
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Problem::of_file(&path, format!("cannot be read: {error}")).into()),
        };
        if let Some((what, mend)) = others_may_write(&metadata) {
            return Err(Problem::of_file(
                &path,
                format!("{what} may write this file, and so make credentials"),
            )
            .with_hint(format!("run `{mend} {}`", path.display()))
            .into());
        }
        let bytes = read_bounded(&path, FILE_BYTES_MAX)
            .map_err(|error| Problem::of_file(&path, format!("cannot be read: {error}")))?;
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| Problem::of_file(&path, format!("not UTF-8: {error}")))?;
        Self::from_text(&path, text)
    }
}

/// Whom a credential is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipient {
    pub agent: AgentName,
    pub client: ClientId,
    pub profile: ProfileName,
}

/// Makes a credential that is good from `now` until `expires`, and adds it to the file in `dir`. A running guard knows it
/// after its next reload. Those that expired a day ago are left out from now on.
pub fn issue(
    dir: &Path,
    whom: Recipient,
    now: Timestamp,
    expires: Option<Timestamp>,
) -> Result<Issued, StoreError> {
    let _lock = lock(dir)?;
    let existing = Credentials::load(dir)?;
    let issued = issued(whom, now, expires)?;
    let kept = existing.list().into_iter().filter(|old| is_kept(old, now)).cloned();
    write(dir, kept.chain([issued.credential.clone()]).collect())?;
    Ok(issued)
}

fn issued(whom: Recipient, now: Timestamp, expires: Option<Timestamp>) -> Result<Issued, StoreError> {
    let secret = Secret::random()?;
    let mut id = [0; 6];
    aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| SecretError::NoRandomness)?;
    let Recipient { agent, client, profile } = whom;
    let (id, sha256, issued) = (CredentialId::new(id), secret.digest(), seconds(now));
    Ok(Issued { credential: Credential { id, agent, client, profile, sha256, issued, expires }, secret })
}

/// What [`rotate`] did.
#[derive(Debug)]
pub struct Rotated {
    pub next: Issued,
    /// Those before it, with the time at which each expires now.
    pub before: Vec<Credential>,
}

/// Makes the next credential of an agent and profile. Those that it has expire at `overlap`, if not earlier. Without `expires`
/// the next one is good for as long as the latest of them was made for.
pub fn rotate(
    dir: &Path,
    whom: Recipient,
    now: Timestamp,
    expires: Option<Timestamp>,
    overlap: Timestamp,
) -> Result<Rotated, StoreError> {
    let _lock = lock(dir)?;
    let existing = Credentials::load(dir)?;
    let is_meant =
        |old: &Credential| old.agent == whom.agent && old.profile == whom.profile && !old.is_expired(now);
    let (mut before, others): (Vec<_>, Vec<_>) =
        existing.list().into_iter().filter(|old| is_kept(old, now)).cloned().partition(is_meant);
    let same = before.last().and_then(Credential::lifetime).and_then(|span| now.checked_add(span).ok());
    for old in &mut before {
        old.expires = Some(old.expires.map_or(overlap, |expires| expires.min(overlap)));
    }
    let next = issued(whom, now, expires.or(same))?;
    write(dir, [&others[..], &before, std::slice::from_ref(&next.credential)].concat())?;
    Ok(Rotated { next, before })
}

/// A clock that runs ahead must not take away what is still good.
fn is_kept(old: &Credential, now: Timestamp) -> bool {
    now.checked_sub(EXPIRED_KEPT).is_ok_and(|before| !old.is_expired(before))
}

fn seconds(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Removes a credential from the file in `dir`. A running guard refuses it after its next reload.
pub fn revoke(dir: &Path, id: &str) -> Result<Credential, StoreError> {
    let _lock = lock(dir)?;
    let existing = Credentials::load(dir)?;
    let (revoked, kept): (Vec<_>, Vec<_>) =
        existing.list().into_iter().cloned().partition(|credential| credential.id.as_str() == id);
    let revoked = revoked.into_iter().next().ok_or_else(|| StoreError::UnknownId(id.to_owned()))?;
    write(dir, kept)?;
    Ok(revoked)
}

/// Keeps two commands from losing each other's change. Held until dropped.
fn lock(dir: &Path) -> Result<File, StoreError> {
    let path = dir.join(".credentials.lock");
    let locked =
        OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).and_then(
            |file| {
                file.lock()?;
                Ok(file)
            },
        );
    locked.map_err(|source| StoreError::Io { path, source })
}

/// Replaces the file in one step: a reader sees the old content or the new, also after a power cut.
fn write(dir: &Path, mut credentials: Vec<Credential>) -> Result<(), StoreError> {
    credentials.sort_by(|a, b| (&a.agent, &a.issued, &a.id).cmp(&(&b.agent, &b.issued, &b.id)));
    let text = yaml::write(&CredentialFile { credentials }).map_err(StoreError::Encode)?;
    let path = dir.join(CREDENTIALS_FILE);
    // What is written must be readable again before it replaces what is.
    Credentials::from_text(&path, &text)?;
    let replaced = || -> io::Result<()> {
        // Mode 0600 from its creation on.
        let mut file = tempfile::Builder::new().prefix(".credentials-").tempfile_in(dir)?;
        file.write_all(HEADING.as_bytes())?;
        file.write_all(text.as_bytes())?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        File::open(dir)?.sync_all()
    };
    replaced().map_err(|source| StoreError::Io { path: path.clone(), source })
}
