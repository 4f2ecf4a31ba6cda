//! The trail's key pair, made at its first start.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::error::OpenError;
use super::note::{SigningKey, VerifierKey};
use super::{KEY_FILE, VERIFIER_KEY_FILE, disk};

/// The key that stands in `dir`; `None` if there is none yet.
pub(super) fn load(dir: &Path) -> Result<Option<SigningKey>, OpenError> {
    let (path, public_path) = (dir.join(KEY_FILE), dir.join(VERIFIER_KEY_FILE));
    // Written last: without it, the first start did not get as far as a first record.
    if !public_path.try_exists().map_err(OpenError::io(&public_path))? {
        return Ok(None);
    }
    let text = fs::read_to_string(&public_path).map_err(OpenError::io(&public_path))?;
    let public =
        VerifierKey::parse(&text).map_err(|source| OpenError::Key { path: public_path.clone(), source })?;

    let mode = fs::metadata(&path).map_err(OpenError::io(&path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(OpenError::KeyMode(path));
    }
    let der = fs::read(&path).map_err(OpenError::io(&path))?;
    let key = SigningKey::from_pkcs8(&der, public.name())
        .map_err(|source| OpenError::Key { path: path.clone(), source })?;
    if *key.verifier() == public {
        Ok(Some(key))
    } else {
        Err(OpenError::Key { path: public_path, source: super::NoteError::KeyId })
    }
}

/// Makes the key of the trail `origin`.
pub(super) fn make(dir: &Path, origin: &str) -> Result<SigningKey, OpenError> {
    let path = dir.join(KEY_FILE);
    let wrong = |source| OpenError::Key { path: path.clone(), source };
    let key = SigningKey::generate(origin).map_err(wrong)?;
    let der = key.to_pkcs8().map_err(wrong)?;
    disk::replace(dir, KEY_FILE, der.as_ref()).map_err(OpenError::io(&path))?;
    let public = dir.join(VERIFIER_KEY_FILE);
    disk::replace(dir, VERIFIER_KEY_FILE, format!("{}\n", key.verifier()).as_bytes())
        .map_err(OpenError::io(&public))?;
    disk::sync_dir(dir).map_err(OpenError::io(dir))?;
    Ok(key)
}
