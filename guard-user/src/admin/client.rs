//! The command line's side of the operator's API.

use std::io::{self, BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;

use super::Ask;

/// A `prove` runs connections through the kernel; everything else answers at once.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why the guard gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    // The cause is printed after these words, with the chain of sources.
    #[error("no guard is running here (nothing answers on {})", path.display())]
    NotRunning { path: PathBuf, source: io::Error },
    #[error("not allowed to ask the guard on {}; run this as root", path.display())]
    NotAllowed { path: PathBuf },
    #[error("the guard broke off its answer: {0}")]
    Broken(#[from] io::Error),
    #[error("the guard's answer is not JSON: {0}")]
    Garbled(#[from] serde_json::Error),
    #[error("{0}")]
    Refused(String),
}

/// Asks the guard that listens on `socket`.
pub fn ask(socket: &Path, ask: &Ask) -> Result<Value, Error> {
    ask_within(socket, ask, PATIENCE)
}

/// The same for who cannot wait so long.
pub fn ask_within(socket: &Path, ask: &Ask, patience: Duration) -> Result<Value, Error> {
    let mut stream = UnixStream::connect(socket).map_err(|source| {
        let path = socket.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied => Error::NotAllowed { path },
            _ => Error::NotRunning { path, source },
        }
    })?;
    stream.set_read_timeout(Some(patience))?;
    stream.write_all(format!("{}\n", serde_json::to_string(ask)?).as_bytes())?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    let answer: Value = serde_json::from_str(&line)?;
    match answer.get("error").and_then(Value::as_str) {
        Some(error) => Err(Error::Refused(error.to_owned())),
        None => Ok(answer),
    }
}
