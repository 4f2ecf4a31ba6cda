//! The pins of each server on disk: `tools/<server>.json` in `state_dir`, mode 0600, replaced in one step.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::pins::Pins;
use crate::config::read_bounded;
use crate::types::ServerName;

/// The directory, in `state_dir`.
pub const TOOLS_DIR: &str = "tools";
/// Version of the files.
const FORMAT: u32 = 1;
/// Bytes of a file beside its definitions: names, digests and findings of as many tools as may be kept.
const FRAME_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Serialize)]
struct Written<'a> {
    format: u32,
    server: &'a ServerName,
    pins: &'a Pins,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    format: u32,
    server: ServerName,
    pins: Pins,
}

/// Why the pins of a server are not known. Nothing of it may be called then, so no guard starts.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot read the pinned tools in {}: {error}; put a good copy back, or remove the file to trust what the server offers next",
    file.display()
)]
pub struct Unreadable {
    file: PathBuf,
    error: io::Error,
}

/// Those in `state_dir`; none if no list has come by yet. Definitions may have `bytes_max` together.
pub fn load(state_dir: &Path, server: &ServerName, bytes_max: usize) -> Result<Pins, Unreadable> {
    let file = file(state_dir, server);
    let wrong = |error: io::Error| Unreadable { file: file.clone(), error };
    // Escaped, a definition may be twice as long as it is.
    let bytes = match read_bounded(&file, FRAME_BYTES_MAX.saturating_add(bytes_max.saturating_mul(2))) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Pins::default()),
        bytes => bytes.map_err(wrong)?,
    };
    let read: Read = serde_json::from_slice(&bytes).map_err(|error| wrong(error.into()))?;
    if read.format != FORMAT || read.server != *server {
        return Err(wrong(io::Error::other("it is of another format, or of another server")));
    }
    Ok(read.pins)
}

/// Replaces the file. When this returns, it survives a power cut.
pub fn save(state_dir: &Path, server: &ServerName, pins: &Pins) -> io::Result<()> {
    let dir = state_dir.join(TOOLS_DIR);
    DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
    let mut next = tempfile::NamedTempFile::new_in(&dir)?;
    next.write_all(&serde_json::to_vec(&Written { format: FORMAT, server, pins })?)?;
    next.as_file().sync_all()?;
    next.persist(file(state_dir, server)).map_err(|error| error.error)?;
    fs::File::open(&dir)?.sync_all()
}

/// Names of servers have characters that file names cannot have.
fn file(state_dir: &Path, server: &ServerName) -> PathBuf {
    let mut name = String::new();
    for byte in server.as_str().bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => name.push(char::from(byte)),
            other => _ = write!(name, "%{other:02x}"),
        }
    }
    state_dir.join(TOOLS_DIR).join(name + ".json")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn pins_outlive_the_guard_and_a_bad_file_is_not_taken_for_none() {
        let dir = tempfile::tempdir().unwrap();
        let server = ServerName::parse("a/../b:1.x").unwrap();
        assert_eq!(load(dir.path(), &server, 1000).unwrap(), Pins::default());
        save(dir.path(), &server, &Pins::default()).unwrap();
        let file = dir.path().join("tools/a%2f%2e%2e%2fb%3a1%2ex.json");
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(load(dir.path(), &server, 1000).unwrap(), Pins::default());
        for bad in [
            "",
            "{",
            r#"{"format":2,"server":"a/../b:1.x","pins":{"tools":{}}}"#,
            r#"{"format":1,"server":"c","pins":{"tools":{}}}"#,
        ] {
            fs::write(&file, bad).unwrap();
            let words = load(dir.path(), &server, 1000).unwrap_err().to_string();
            assert!(words.contains("%3a1%2ex.json") && words.contains("remove the file"), "{words}");
        }
        assert_eq!(fs::read_dir(dir.path().join("tools")).unwrap().count(), 1, "nothing is left beside it");
    }
}
