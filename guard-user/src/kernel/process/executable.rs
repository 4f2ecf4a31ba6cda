//! The file that a process runs: its path, and its SHA-256.

use std::collections::HashMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;

use super::living::Living;
use crate::kernel::maps::lock;

/// Digests that are kept. When there are more, all are forgotten and made anew as they are asked for.
const DIGESTS_KEPT_MAX: usize = 1024;
/// A file that changed a moment ago may change again within the same tick of the file system's clock.
const SETTLED: Duration = Duration::from_secs(2);
const CHUNK_BYTES: usize = 128 * 1024;

/// SHA-256 of a file.
pub type FileDigest = [u8; 32];

/// What a process runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// As the kernel names it: the process's own view, with ` (deleted)` behind it if the file was replaced.
    pub path: String,
    /// The file at that path is this one for the guard too: not replaced, and not of a container's own file system.
    pub is_hosts: bool,
    pub(super) file: FileId,
}

/// Device and inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileId(u64, u64);

/// One content of one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Version {
    dev: u64,
    ino: u64,
    size: u64,
    /// Seconds and nanoseconds: each write and each change of the owner moves it.
    ctime: (i64, i64),
}

/// Why there is no digest.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    #[error("the process has ended or runs another file now")]
    Gone,
    #[error("the executable has {0} bytes; limits.executable_bytes_max is smaller")]
    TooLarge(u64),
    #[error("the executable changed while it was read")]
    Changed,
    #[error("the executable cannot be read: {0}")]
    Io(#[from] io::Error),
}

/// Digests of executables, each file read once.
#[derive(Debug)]
pub(super) struct Digests {
    bytes_max: u64,
    known: Mutex<HashMap<Version, FileDigest>>,
}

impl Executable {
    /// `None` for a kernel thread, and where the process has ended.
    pub(super) fn of(living: &Living) -> Option<Self> {
        let path = living.executable_path().ok()?;
        let file = FileId::of(&living.executable().ok()?.metadata().ok()?);
        let here = fs::metadata(&path).ok();
        Some(Self { is_hosts: here.is_some_and(|here| file == FileId::of(&here)), path, file })
    }
}

#[cfg(test)]
impl Executable {
    pub(crate) fn for_tests(path: &str, is_hosts: bool) -> Self {
        Self { path: path.to_owned(), is_hosts, file: FileId(0, 0) }
    }
}

impl FileId {
    fn of(meta: &Metadata) -> Self {
        Self(meta.dev(), meta.ino())
    }
}

impl Version {
    fn of(meta: &Metadata) -> Self {
        Self { dev: meta.dev(), ino: meta.ino(), size: meta.size(), ctime: (meta.ctime(), meta.ctime_nsec()) }
    }

    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        u64::try_from(self.ctime.0).is_ok_and(|changed| Duration::from_secs(changed) + SETTLED < now)
    }
}

impl Digests {
    pub(super) fn new(bytes_max: u64) -> Self {
        Self { bytes_max, known: Mutex::default() }
    }

    /// The digest of the file that `living` runs, if it still is `expected`. Reads up to `bytes_max`.
    pub(super) fn of(&self, living: &Living, expected: FileId) -> Result<FileDigest, DigestError> {
        let file = living.executable().map_err(|_ended| DigestError::Gone)?;
        if FileId::of(&file.metadata()?) != expected {
            return Err(DigestError::Gone);
        }
        self.of_file(&file, SystemTime::now())
    }

    fn of_file(&self, file: &File, now: SystemTime) -> Result<FileDigest, DigestError> {
        let version = Version::of(&file.metadata()?);
        if let Some(known) = lock(&self.known).get(&version) {
            return Ok(*known);
        }
        if version.size > self.bytes_max {
            return Err(DigestError::TooLarge(version.size));
        }
        let digest = read(file, version.size)?;
        if Version::of(&file.metadata()?) != version {
            return Err(DigestError::Changed);
        }
        if version.is_settled(now) {
            let mut known = lock(&self.known);
            if known.len() >= DIGESTS_KEPT_MAX {
                known.clear();
            }
            known.insert(version, digest);
        }
        Ok(digest)
    }
}

/// The digest of a file of exactly this size.
fn read(mut file: &File, size: u64) -> Result<FileDigest, DigestError> {
    let mut hash = digest::Context::new(&digest::SHA256);
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut total = 0_u64;
    loop {
        let read = file.read(&mut chunk)?;
        if read == 0 {
            break;
        }
        total = total.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        if total > size {
            return Err(DigestError::Changed);
        }
        hash.update(chunk.get(..read).unwrap_or_default());
    }
    if total != size {
        return Err(DigestError::Changed);
    }
    hash.finish().as_ref().try_into().map_err(|_length| DigestError::Changed)
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command};

    use sha2::{Digest as _, Sha256};

    use super::*;

    /// A process that runs a copy of `sleep`, with the copy's path.
    fn sleeper(dir: &tempfile::TempDir) -> (Child, String) {
        let path = dir.path().join("sleeper");
        let status = Command::new("cp").arg("/bin/sleep").arg(&path).status().unwrap();
        assert!(status.success());
        let child = Command::new(&path).arg("600").spawn().unwrap();
        (child, path.to_str().unwrap().to_owned())
    }

    #[test]
    fn a_replaced_executable_is_still_the_file_that_runs() {
        let dir = tempfile::tempdir().unwrap();
        let (mut child, path) = sleeper(&dir);
        let living = Living::open(child.id()).unwrap();
        let before = Executable::of(&living).unwrap();
        assert_eq!((before.path.as_str(), before.is_hosts), (path.as_str(), true));
        let digests = Digests::new(u64::MAX);
        let expected: FileDigest = Sha256::digest(fs::read("/bin/sleep").unwrap()).into();
        assert_eq!(digests.of(&living, before.file).unwrap(), expected);

        fs::write(dir.path().join("next"), "something else").unwrap();
        fs::rename(dir.path().join("next"), &path).unwrap();
        let after = Executable::of(&living).unwrap();
        assert_eq!((after.path, after.is_hosts), (format!("{path} (deleted)"), false));
        assert_eq!(digests.of(&living, after.file).unwrap(), expected);
        let other = FileId::of(&fs::metadata(&path).unwrap());
        assert!(matches!(digests.of(&living, other), Err(DigestError::Gone)));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(digests.of(&living, after.file), Err(DigestError::Gone)));
    }

    #[test]
    fn a_file_is_read_once_and_again_when_it_changed_or_has_changed_just_now() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "one").unwrap();
        let digests = Digests::new(100);
        let later = SystemTime::now() + 2 * SETTLED;
        let one = digests.of_file(&File::open(&path).unwrap(), SystemTime::now()).unwrap();
        assert!(lock(&digests.known).is_empty(), "it may change again within the same tick");
        assert_eq!(digests.of_file(&File::open(&path).unwrap(), later).unwrap(), one);
        assert_eq!(lock(&digests.known).len(), 1);
        let version = Version::of(&fs::metadata(&path).unwrap());
        lock(&digests.known).insert(version, [7; 32]);
        assert_eq!(digests.of_file(&File::open(&path).unwrap(), later).unwrap(), [7; 32], "not read again");
        fs::write(&path, "two").unwrap();
        let two = digests.of_file(&File::open(&path).unwrap(), later).unwrap();
        assert!(two != one && two != [7; 32]);
    }

    #[test]
    fn an_executable_above_the_limit_is_not_read() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(11).unwrap();
        let digests = Digests::new(10);
        assert!(matches!(digests.of_file(&file, SystemTime::now()), Err(DigestError::TooLarge(11))));
        file.set_len(10).unwrap();
        assert!(digests.of_file(&file, SystemTime::now()).is_ok());
    }
}
