//! The trail's private key, and the public half of its first one, made at its first start.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use super::error::OpenError;
use super::keys::Keys;
use super::note::{SigningKey, VerifierKey};
use super::{KEY_FILE, KEYS_FILE, NEXT_KEY_FILE, VERIFIER_KEY_FILE, disk};

/// The first key of the trail in `dir`; `None` if there is none yet.
pub(super) fn root(dir: &Path) -> Result<Option<VerifierKey>, OpenError> {
    let path = dir.join(VERIFIER_KEY_FILE);
    // Written last: without it, the first start did not get as far as a first record.
    if !path.try_exists().map_err(OpenError::io(&path))? {
        return Ok(None);
    }
    let text = fs::read_to_string(&path).map_err(OpenError::io(&path))?;
    VerifierKey::parse(&text).map(Some).map_err(|source| OpenError::Key { path, source })
}

/// The private half of the trail's current key. What was left of a hand-over is done.
pub(super) fn current(dir: &Path, keys: &Keys) -> Result<SigningKey, OpenError> {
    let wanted = keys.current();
    let next = dir.join(NEXT_KEY_FILE);
    let has_next = next.try_exists().map_err(OpenError::io(&next))?;
    let key = if let Ok(key) = read(&next, wanted) {
        key
    } else {
        let key = read(&dir.join(KEY_FILE), wanted)?;
        if has_next {
            // No record hands over to it.
            destroy(&next).map_err(OpenError::io(&next))?;
        }
        key
    };
    settle(dir, keys).map_err(OpenError::io(dir))?;
    Ok(key)
}

fn read(path: &Path, wanted: &VerifierKey) -> Result<SigningKey, OpenError> {
    let mode = fs::metadata(path).map_err(OpenError::io(path))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(OpenError::KeyMode(path.to_owned()));
    }
    let der = fs::read(path).map_err(OpenError::io(path))?;
    let wrong = |source| OpenError::Key { path: path.to_owned(), source };
    let key = SigningKey::from_pkcs8(&der, wanted.name()).map_err(wrong)?;
    if key.verifier() == wanted { Ok(key) } else { Err(wrong(super::NoteError::KeyId)) }
}

/// Makes the first key of the trail `origin`.
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

/// Makes the one that comes after `current`, and puts it beside that, on disk.
pub(super) fn make_next(dir: &Path, current: &VerifierKey) -> io::Result<SigningKey> {
    let key = SigningKey::generate(current.name()).map_err(io::Error::other)?;
    let der = key.to_pkcs8().map_err(io::Error::other)?;
    disk::replace(dir, NEXT_KEY_FILE, der.as_ref())?;
    disk::sync_dir(dir)?;
    Ok(key)
}

/// What follows once the record that hands over to the last of `keys` is on disk: the file of all keys, and the end of the one before. Can be done again
/// after an error, and does nothing where it was done.
pub(super) fn settle(dir: &Path, keys: &Keys) -> io::Result<()> {
    let text = keys.text();
    if fs::read(dir.join(KEYS_FILE)).ok().as_deref() != Some(text.as_bytes()) {
        disk::replace(dir, KEYS_FILE, text.as_bytes())?;
        disk::sync_dir(dir)?;
    }
    let next = dir.join(NEXT_KEY_FILE);
    if next.try_exists()? {
        overwrite(&dir.join(KEY_FILE))?;
        fs::rename(&next, dir.join(KEY_FILE))?;
        disk::sync_dir(dir)?;
    }
    Ok(())
}

fn destroy(path: &Path) -> io::Result<()> {
    overwrite(path)?;
    fs::remove_file(path)
}

/// Puts zeros over what the file holds. A disk or file system that writes elsewhere keeps the old bytes until it needs their place.
fn overwrite(path: &Path) -> io::Result<()> {
    let mut file = match OpenOptions::new().write(true).custom_flags(nix::libc::O_NOFOLLOW).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let length = usize::try_from(file.metadata()?.len()).unwrap_or(0).min(KEY_BYTES_MAX);
    file.write_all(&vec![0; length])?;
    file.sync_data()
}

/// An Ed25519 key in PKCS#8 has less than a hundred.
const KEY_BYTES_MAX: usize = 4096;
