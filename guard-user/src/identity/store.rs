//! `credentials.yaml` on disk: read at start and reload, rewritten whole by `mcp-guard tokens`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::credentials::{Credential, CredentialFile, CredentialId, Credentials};
use super::secret::{Secret, SecretError};
use crate::config::yaml::{self, FILE_BYTES_MAX};
use crate::config::{Problem, Problems, read_bounded};
use crate::types::{AgentName, ClientId, ProfileName};

/// The file in the policy directory that `mcp-guard tokens` owns.
pub const CREDENTIALS_FILE: &str = "credentials.yaml";

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
        let own = nix::unistd::geteuid().as_raw();
        if let Some((what, mend)) = who_else_may_write(metadata.mode(), metadata.uid(), own) {
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

/// Who beside root and the user `own` may write a file of this mode and owner, and the command that ends it.
pub(super) fn who_else_may_write(mode: u32, owner: u32, own: u32) -> Option<(String, &'static str)> {
    if owner != 0 && owner != own {
        return Some((format!("its owner, uid {owner},"), "chown root"));
    }
    (mode & 0o022 != 0).then(|| ("others than its owner".to_owned(), "chmod 600"))
}

/// Makes a credential and adds it to the file in `dir`. A running guard knows it after its next reload.
pub fn issue(
    dir: &Path,
    agent: AgentName,
    client: ClientId,
    profile: ProfileName,
    issued: String,
) -> Result<Issued, StoreError> {
    let _lock = lock(dir)?;
    let existing = Credentials::load(dir)?;
    let secret = Secret::random()?;
    let mut id = [0; 6];
    aws_lc_rs::rand::fill(&mut id).map_err(|_unspecified| SecretError::NoRandomness)?;
    let sha256 = secret.digest();
    let credential = Credential { id: CredentialId::new(id), agent, client, profile, sha256, issued };
    let mut credentials: Vec<_> = existing.list().into_iter().cloned().collect();
    credentials.push(credential.clone());
    write(dir, credentials)?;
    Ok(Issued { credential, secret })
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
