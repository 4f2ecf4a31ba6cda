//! The key that witnesses know the trail by. It is made when the first one is asked, and stays.

use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use super::super::super::disk;
use super::super::super::error::OpenError;
use super::super::super::note::SigningKey;
use super::super::super::{WITNESS_KEY_FILE, WITNESS_VERIFIER_KEY_FILE};

/// The one in `dir`; `None` if there is none yet.
pub(super) fn open(dir: &Path, origin: &str) -> Result<Option<SigningKey>, OpenError> {
    let path = dir.join(WITNESS_KEY_FILE);
    let mode = match fs::metadata(&path) {
        Ok(metadata) => metadata.permissions().mode(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(OpenError::io(&path)(error)),
    };
    if mode & 0o077 != 0 {
        return Err(OpenError::KeyMode(path));
    }
    let der = fs::read(&path).map_err(OpenError::io(&path))?;
    SigningKey::from_pkcs8(&der, origin).map(Some).map_err(|source| OpenError::Key { path, source })
}

/// The same, made if need be. Its public half stands beside it, for the operators of witnesses.
pub(super) fn open_or_make(dir: &Path, origin: &str) -> Result<SigningKey, OpenError> {
    /// Each witness is asked by a thread of its own, and there is one key.
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _one_at_a_time = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    let wrong = |source| OpenError::Key { path: dir.join(WITNESS_KEY_FILE), source };
    let found = open(dir, origin)?;
    let is_new = found.is_none();
    let key = found.map_or_else(|| SigningKey::generate(origin), Ok).map_err(wrong)?;
    let public = format!("{}\n", key.verifier());
    // Written first: a key whose public half nobody has is of no use to anybody.
    if fs::read(dir.join(WITNESS_VERIFIER_KEY_FILE)).ok().as_deref() != Some(public.as_bytes()) {
        let path = dir.join(WITNESS_VERIFIER_KEY_FILE);
        disk::replace(dir, WITNESS_VERIFIER_KEY_FILE, public.as_bytes()).map_err(OpenError::io(&path))?;
    }
    if is_new {
        let path = dir.join(WITNESS_KEY_FILE);
        let der = key.to_pkcs8().map_err(wrong)?;
        disk::replace(dir, WITNESS_KEY_FILE, der.as_ref()).map_err(OpenError::io(&path))?;
        disk::sync_dir(dir).map_err(OpenError::io(dir))?;
        tracing::info!(file = WITNESS_VERIFIER_KEY_FILE, "made the key that witnesses know this trail by");
    }
    Ok(key)
}
