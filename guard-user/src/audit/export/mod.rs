//! The trail in the forms that others read: SIEMs, collectors, spreadsheets. Nothing here holds up a call: the trail is the queue.

mod cef;
mod csv;
mod cursor;
mod entry;
mod escape;
mod feed;
mod lag;
mod ocsf;
mod otlp;
mod syslog;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub use cursor::{Cursor, CursorError};
pub use feed::FeedError;
pub use lag::Lag;
use lag::oldest;
pub use otlp::halved;
pub use syslog::frame;

use super::merkle::{Hash, Tree};
use super::note::VerifierKey;
use super::text;
use entry::{Entry, Link};
use feed::Feed;
use ocsf::Made;

/// Calls under way that are remembered for the outcome; of others it is exported without what the call's record says.
const CALLS_REMEMBERED_MAX: usize = 65_536;
/// Records in one batch, and bytes of their lines, about.
const BATCH_RECORDS_MAX: usize = 1_000;
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// What the records become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// The records as they are, one a line
    Json,
    /// OCSF 1.9 events: API Activity with `ai_agent` and `record_integrity`, one a line
    Ocsf,
    /// Common Event Format
    Cef,
    /// Comma-separated values with a header line
    Csv,
    /// OpenTelemetry logs: OTLP requests in JSON, one a line
    Otlp,
}

/// Turns the records of a trail into lines of a format, in batches.
pub struct Export {
    feed: Feed,
    format: Format,
    /// In the envelope of RFC 5424.
    in_syslog: bool,
    /// Nothing was exported before.
    is_new: bool,
    origin: String,
    authority: String,
    host: String,
    /// What was exported.
    tree: Tree,
    prev: Hash,
    made: Option<Made>,
    /// Read and signed, and not exported yet.
    waiting: VecDeque<(Link, String)>,
    /// By their decision's id.
    calls: HashMap<String, Map<String, Value>>,
}

/// What a record became.
enum Encoded {
    Line(String),
    /// One of those that go into one OTLP request.
    Log(Value),
}

/// Some lines, and where to go on when they have arrived.
#[derive(Debug)]
pub struct Batch {
    pub lines: Vec<String>,
    pub cursor: Cursor,
}

impl Export {
    /// Of the trail in `dir` with this key, behind `cursor`.
    pub fn open(
        dir: &Path,
        key: &VerifierKey,
        cursor: Option<Cursor>,
        (format, in_syslog): (Format, bool),
    ) -> Result<Self, FeedError> {
        let is_new = cursor.is_none();
        let (tree, prev, made) = if let Some(at) = cursor {
            (at.tree, at.prev, at.made)
        } else {
            let (tree, prev) = Feed::beginning(dir, key)?;
            (tree, prev, None)
        };
        let origin = key.name().to_owned();
        Ok(Self {
            feed: Feed::open(dir, key.clone(), tree.clone(), prev)?,
            format,
            in_syslog,
            is_new,
            authority: key.to_string(),
            host: origin.split('/').next().unwrap_or_default().to_owned(),
            origin,
            tree,
            prev,
            made,
            waiting: VecDeque::new(),
            calls: HashMap::new(),
        })
    }

    /// Records that are signed and not exported yet.
    pub fn lag(&mut self) -> Result<u64, FeedError> {
        Ok(self.feed.signed()?.size.saturating_sub(self.tree.size()))
    }

    /// When the first of them was written.
    pub fn oldest(&self, dir: &Path) -> std::io::Result<Option<jiff::Timestamp>> {
        oldest(dir, self.tree.size())
    }

    /// What comes before all lines.
    pub fn header(&self) -> Option<String> {
        (self.format == Format::Csv && self.is_new).then(csv::header)
    }

    /// The next records, as far as they are signed; `None`: there are none yet.
    pub fn batch(&mut self) -> Result<Option<Batch>, FeedError> {
        self.batch_of(BATCH_RECORDS_MAX)
    }

    pub(super) fn batch_of(&mut self, most: usize) -> Result<Option<Batch>, FeedError> {
        if self.waiting.is_empty() {
            self.waiting = self.feed.read()?.into();
        }
        let (mut lines, mut logs, mut bytes) = (Vec::new(), Vec::new(), 0);
        while lines.len() + logs.len() < most
            && bytes < BATCH_BYTES_MAX
            && let Some((link, line)) = self.waiting.pop_front()
        {
            bytes += line.len();
            match self.encode(&line).ok_or(FeedError::NoRecord { seq: link.seq })? {
                Encoded::Line(line) => lines.push(line),
                Encoded::Log(record) => logs.push(record),
            }
            self.tree.push(link.hash);
            self.prev = link.hash;
        }
        if !logs.is_empty() {
            lines.push(ascii(&otlp::request(&logs, &self.origin, &self.host)));
        }
        let cursor = Cursor::new(&self.authority, self.format, (&self.tree, self.prev), self.made.as_ref());
        Ok((!lines.is_empty()).then_some(Batch { lines, cursor }))
    }

    /// `None`: the line is no record.
    fn encode(&mut self, line: &str) -> Option<Encoded> {
        let fields: Map<String, Value> = serde_json::from_str(line).ok()?;
        let call = self.call_of(&fields);
        let entry = Entry::new(line, &fields, call.as_ref())?;
        let encoded = match self.format {
            Format::Json => line.to_owned(),
            Format::Ocsf => {
                let (event, made) = ocsf::event(&entry, &self.origin, &self.authority, self.made.as_ref());
                self.made = Some(made);
                ascii(&event)
            }
            Format::Cef => cef::line(&entry, &self.origin),
            Format::Csv => csv::line(&entry),
            Format::Otlp => {
                let record = otlp::record(&entry);
                self.remember(fields);
                return Some(Encoded::Log(record));
            }
        };
        let encoded = match (self.in_syslog, self.format) {
            (false, _) => encoded,
            (true, Format::Cef) => syslog::line(&entry, &self.host, &encoded.replace('<', r"\\u003c")),
            (true, _) => syslog::line(&entry, &self.host, &encoded.replace('<', r"\u003c")),
        };
        self.remember(fields);
        Some(Encoded::Line(encoded))
    }

    /// The call that an outcome is about, if it was checked with what is exported now.
    fn call_of(&mut self, fields: &Map<String, Value>) -> Option<Map<String, Value>> {
        match fields.get("kind")?.as_str()? {
            "outcome" => self.calls.remove(fields.get("id")?.as_str()?),
            _ => None,
        }
    }

    fn remember(&mut self, fields: Map<String, Value>) {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        match (text("kind"), text("decision"), text("id")) {
            (Some("call"), Some("allow"), Some(id)) if self.calls.len() < CALLS_REMEMBERED_MAX => {
                self.calls.insert(id.to_owned(), fields);
            }
            // Nothing ends these calls any more.
            (Some("gap"), ..) if text("reason") == Some("restart") => self.calls.clear(),
            _ => {}
        }
    }
}

/// One line of printable ASCII.
fn ascii(value: &Value) -> String {
    text::encode(value).ok().and_then(|line| String::from_utf8(line).ok()).unwrap_or_default()
}

/// A peer or a destination of a call.
fn address(entry: &Entry<'_>, name: &str) -> Option<(IpAddr, u16)> {
    let address: SocketAddr = entry.of_call(name)?.as_str()?.parse().ok()?;
    Some((address.ip().to_canonical(), address.port()))
}
