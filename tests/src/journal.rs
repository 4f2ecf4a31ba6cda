//! What really reached a fixture server: one JSON line per executed tool call.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde::{Deserialize, Serialize};

/// One executed call, as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    pub tool: String,
    pub arguments: serde_json::Value,
}

/// Where executed calls are written. Clones share the file.
#[derive(Clone)]
pub struct Journal(Arc<Mutex<Box<dyn Write + Send>>>);

impl Journal {
    /// Appends to `file`, or writes to stderr without one.
    pub fn open(file: Option<&Path>) -> io::Result<Self> {
        let sink: Box<dyn Write + Send> = match file {
            Some(file) => Box::new(OpenOptions::new().create(true).append(true).open(file)?),
            None => Box::new(io::stderr()),
        };
        Ok(Self(Arc::new(Mutex::new(sink))))
    }

    /// Writes one line, in one `write`, before the tool answers: a counted call is in the file when its reply is out.
    pub fn record(&self, tool: &str, arguments: impl Serialize) {
        let arguments = serde_json::to_value(arguments).expect("arguments are JSON");
        let entry = Entry { tool: tool.to_owned(), arguments };
        let mut line = serde_json::to_vec(&entry).expect("an entry is JSON");
        line.push(b'\n');
        self.0.lock().expect("no writer panics").write_all(&line).expect("the journal can be written");
    }
}

/// The calls in a journal file; none if the file is not there yet.
pub fn read(file: &Path) -> io::Result<Vec<Entry>> {
    let text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    text.lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_recorded_is_read_back_in_order() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("calls");
        assert_eq!(read(&file).unwrap(), []);
        let journal = Journal::open(Some(&file)).unwrap();
        journal.record("a", json!({"n": 1}));
        journal.clone().record("b", json!({}));
        let tools: Vec<_> = read(&file).unwrap().into_iter().map(|entry| entry.tool).collect();
        assert_eq!(tools, ["a", "b"]);
    }
}
