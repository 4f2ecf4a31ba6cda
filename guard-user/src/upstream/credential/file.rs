//! A file with one secret: who may have it, what it is, and when it is another.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use zeroize::Zeroizing;

use crate::config::{Problem, who_else_may_write};
use crate::identity;

/// A secret with its line's end.
pub const CREDENTIAL_BYTES_MAX: usize = 8 * 1024;

/// What tells a file from another one, and from what it was before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    mode: u32,
    owner: (u32, u32),
    /// Seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    pub(super) fn at(path: &Path) -> Result<Self, Problem> {
        path.metadata().map(|metadata| Self::of(&metadata)).map_err(|error| unreadable(path, &error))
    }

    fn of(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            mode: metadata.mode(),
            owner: (metadata.uid(), metadata.gid()),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// When anything of it was changed last, its name among that.
    pub(super) fn changed(&self) -> SystemTime {
        let (seconds, nanoseconds) = self.changed;
        let since = u64::try_from(seconds).ok().zip(u32::try_from(nanoseconds).ok());
        since
            .and_then(|(seconds, nanoseconds)| {
                SystemTime::UNIX_EPOCH.checked_add(Duration::new(seconds, nanoseconds))
            })
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

/// The value of the header that shows what is in `path`, while that is `identity`. `None`: it is not any more.
pub(super) fn read(path: &Path, identity: &Identity, scheme: &str) -> Option<Result<HeaderValue, Problem>> {
    // To open a pipe must not wait for its other end.
    let flags = nix::fcntl::OFlag::O_NONBLOCK | nix::fcntl::OFlag::O_NOCTTY;
    let mut file = match OpenOptions::new().read(true).custom_flags(flags.bits()).open(path) {
        Ok(file) => file,
        Err(error) => return Some(Err(unreadable(path, &error))),
    };
    let is_same = |file: &File| file.metadata().is_ok_and(|metadata| Identity::of(&metadata) == *identity);
    let metadata = file.metadata().ok().filter(|metadata| Identity::of(metadata) == *identity)?;
    if let Err(problem) = check(path, &metadata) {
        return Some(Err(problem));
    }
    // Room for all of it at once: what grows leaves copies behind.
    let mut bytes = Zeroizing::new(vec![0; CREDENTIAL_BYTES_MAX + 1]);
    let mut filled = 0;
    loop {
        match file.read(bytes.get_mut(filled..).unwrap_or_default()) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Some(Err(unreadable(path, &error))),
        }
    }
    if !is_same(&file) {
        return None;
    }
    let text = bytes.get(..filled).unwrap_or_default();
    Some(value(text, scheme).map_err(|what| {
        Problem::of_file(path, what)
            .with_hint("write the secret alone, on one line, and nothing else into the file")
    }))
}

fn check(path: &Path, metadata: &Metadata) -> Result<(), Problem> {
    if !metadata.is_file() {
        return Err(Problem::of_file(path, "the credential is not a regular file"));
    }
    if metadata.size() > u64::try_from(CREDENTIAL_BYTES_MAX).unwrap_or(u64::MAX) {
        return Err(Problem::of_file(
            path,
            format!("the credential has more than {CREDENTIAL_BYTES_MAX} bytes"),
        ));
    }
    let exposed = exposed(metadata.mode(), (metadata.uid(), metadata.gid()), nix::unistd::geteuid().as_raw());
    exposed.map_or(Ok(()), |(what, mend)| {
        Err(Problem::of_file(path, format!("{what}, and so speak to the server in the guard's name"))
            .with_hint(format!("run `{mend} {}`", path.display())))
    })
}

/// Who else may have the secret, and the command that ends it. root's group is root: systemd leaves it the right to read.
fn exposed(mode: u32, (owner, group): (u32, u32), own: u32) -> Option<(String, &'static str)> {
    if let Some((who, mend)) = who_else_may_write(mode, owner, own) {
        return Some((format!("{who} may write this file"), mend));
    }
    let is_read = mode & 0o004 != 0 || (mode & 0o040 != 0 && group != 0);
    is_read.then(|| ("others than its owner may read this file".to_owned(), "chmod 600"))
}

/// What stands in the header.
fn value(text: &[u8], scheme: &str) -> Result<HeaderValue, String> {
    if text.len() > CREDENTIAL_BYTES_MAX {
        return Err(format!("the credential has more than {CREDENTIAL_BYTES_MAX} bytes"));
    }
    let line = text.strip_suffix(b"\n").unwrap_or(text);
    let secret = line.strip_suffix(b"\r").unwrap_or(line);
    if secret.is_empty() {
        return Err("the file holds no credential".into());
    }
    if secret.iter().any(|byte| !(b' '..=b'~').contains(byte)) {
        return Err("the credential has more than one line, or bytes that are no printable ASCII".into());
    }
    if secret.starts_with(b" ") || secret.ends_with(b" ") {
        return Err("the credential begins or ends with a space".into());
    }
    if identity::is_guards(secret) {
        return Err(
            "this is a secret of the guard's own, with which a server could speak as the agent".into()
        );
    }
    let mut whole = Zeroizing::new(Vec::with_capacity(scheme.len() + secret.len()));
    whole.extend_from_slice(scheme.as_bytes());
    whole.extend_from_slice(secret);
    // The bytes are wiped when the last request that holds them is gone.
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(whole))
        .map_err(|_invalid| "the credential cannot stand in a header".to_owned())?;
    value.set_sensitive(true);
    Ok(value)
}

/// Nothing was read yet: somebody is writing the file.
pub(super) fn changing(path: &Path) -> Problem {
    Problem::of_file(path, "the credential is still being written")
        .with_hint("write a new file beside it and rename it over this one")
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    Problem::of_file(path, format!("the credential cannot be read: {error}"))
        .with_hint("paths count from the directory of guard.yaml; calls go on as soon as the file is there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_one_line_of_printable_ascii() {
        for (text, expected) in [
            (&b"abc"[..], Some("Bearer abc")),
            (b"abc\n", Some("Bearer abc")),
            (b"abc\r\n", Some("Bearer abc")),
            (b"a b", Some("Bearer a b")),
            (b"", None),
            (b"\n", None),
            (b"abc\n\n", None),
            (b"abc\ndef\n", None),
            (b"abc\rdef", None),
            (b"abc\0", None),
            (b"abc\tdef", None),
            (b" abc", None),
            (b"abc ", None),
            ("abc\u{e4}".as_bytes(), None),
            (b"mcpg_abc", None),
            (b"x MCPG_abc", None),
        ] {
            let found = value(text, "Bearer ").ok();
            assert_eq!(found.as_ref().map(HeaderValue::as_bytes), expected.map(str::as_bytes), "{text:?}");
        }
        assert!(value(&[b'x'; CREDENTIAL_BYTES_MAX], "").is_ok());
        assert!(value(&[b'x'; CREDENTIAL_BYTES_MAX + 1], "").is_err());
        assert_eq!(format!("{:?}", value(b"abc", "").unwrap()), "Sensitive");
    }

    #[test]
    fn a_file_that_others_can_read_or_write_holds_no_secret() {
        for (mode, owner, open) in [
            (0o600, (0, 0), false),
            (0o400, (1000, 1000), false),
            (0o440, (0, 0), false),
            (0o640, (0, 0), false),
            (0o640, (0, 50), true),
            (0o604, (0, 0), true),
            (0o644, (0, 0), true),
            (0o620, (0, 0), true),
            (0o602, (0, 0), true),
            (0o600, (33, 33), true),
        ] {
            assert_eq!(exposed(mode, owner, 1000).is_some(), open, "{mode:o} {owner:?}");
        }
    }
}
