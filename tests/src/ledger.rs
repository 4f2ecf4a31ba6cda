//! Reads an audit directory for tests, with code of its own: one JSON object a line, in segments whose names sort.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use anyhow::Context;
use flate2::read::MultiGzDecoder;
use serde_json::Value;

/// The records of all segments, in order.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Ledger {
    pub records: Vec<Value>,
    /// The last line has no end: its guard was killed while it wrote.
    pub torn: bool,
}

/// The segments in `dir`, oldest first, packed or not; none if there is no such directory yet.
pub fn segments(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    };
    let mut files = entries.map(|entry| Ok(entry?.path())).collect::<io::Result<Vec<_>>>()?;
    let is_plain = |file: &Path| file.extension().is_some_and(|extension| extension == "jsonl");
    files.retain(|file| {
        is_plain(file) || (is_packed(file) && file.file_stem().is_some_and(|name| is_plain(Path::new(name))))
    });
    files.sort();
    // With both, the plain one counts, and stands in front.
    files.dedup_by(|packed, plain| packed.file_stem() == plain.file_name());
    Ok(files)
}

pub fn is_packed(file: &Path) -> bool {
    file.extension().is_some_and(|extension| extension == "gz")
}

/// What a segment says.
pub fn text(segment: &Path) -> io::Result<String> {
    let mut name = segment.to_owned();
    // Packed since it was listed?
    if !name.exists() && !is_packed(segment) {
        name.as_mut_os_string().push(".gz");
    }
    let (mut file, mut text) = (File::open(&name)?, String::new());
    if is_packed(&name) {
        MultiGzDecoder::new(file).read_to_string(&mut text)?;
    } else {
        file.read_to_string(&mut text)?;
    }
    Ok(text)
}

impl Ledger {
    pub fn read(dir: &Path) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        for segment in segments(dir)? {
            let text = text(&segment)?;
            for line in text.split_inclusive('\n') {
                ledger.torn = !line.ends_with('\n');
                if !ledger.torn {
                    let record = serde_json::from_str(line);
                    ledger.records.push(record.with_context(|| format!("{}: {line}", segment.display()))?);
                }
            }
        }
        Ok(ledger)
    }

    /// The records of one kind, such as `call` or `outcome`.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.records.iter().filter(move |record| record["kind"] == kind)
    }

    /// The call records with this decision (`allow`, `deny`, `hold`) about this tool.
    pub fn calls<'a>(&'a self, decision: &'a str, tool: &'a str) -> impl Iterator<Item = &'a Value> {
        self.of_kind("call").filter(move |record| {
            record["decision"] == decision
                && record["target"]["kind"] == "tool"
                && record["target"]["name"] == tool
        })
    }

    /// The closing record of a call.
    pub fn outcome_of(&self, call: &Value) -> Option<&Value> {
        self.of_kind("outcome").find(|record| record["id"] == call["id"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_read_in_order_and_a_torn_end_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Ledger::read(&dir.path().join("none")).unwrap(), Ledger::default());
        let call =
            r#"{"seq":1,"kind":"call","id":"aa","decision":"allow","target":{"kind":"tool","name":"x"}}"#;
        let outcome = r#"{"seq":2,"kind":"outcome","id":"aa","result":"ok"}"#;
        fs::write(dir.path().join("00000000000000000002.jsonl"), format!("{outcome}\n{{\"seq\":3")).unwrap();
        fs::write(dir.path().join("00000000000000000001.jsonl"), format!("{call}\n")).unwrap();
        fs::write(dir.path().join("key"), "not a segment").unwrap();

        let ledger = Ledger::read(dir.path()).unwrap();
        assert!(ledger.torn);
        assert_eq!(ledger.records.len(), 2);
        let found = ledger.calls("allow", "x").next().unwrap();
        assert_eq!(ledger.outcome_of(found).unwrap()["result"], "ok");
        assert_eq!(ledger.calls("deny", "x").count(), 0);
    }

    #[test]
    fn a_whole_line_that_is_no_json_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("1.jsonl"), "{\n").unwrap();
        assert!(Ledger::read(dir.path()).is_err());
    }
}
