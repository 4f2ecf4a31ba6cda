//! The trail in the forms that others read: SIEMs, collectors, spreadsheets. Nothing here holds up a call: the trail is the queue.

mod calls;
mod cef;
mod csv;
mod cursor;
mod encode;
mod entry;
mod escape;
mod feed;
mod lag;
mod ocsf;
mod otlp;
mod syslog;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use cursor::{Cursor, CursorError};
pub use feed::FeedError;
pub use lag::Lag;
use lag::oldest;
pub use otlp::halved;
pub use syslog::frame;

use super::merkle::{Hash, Tree};
use super::note::VerifierKey;
use super::text;
use calls::Calls;
use encode::{Encoded, Encoder};
use entry::{Entry, Link};
use feed::Feed;

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

impl Format {
    /// What ends a line of it in a file.
    pub fn line_end(self) -> &'static str {
        if self == Self::Csv { "\r\n" } else { "\n" }
    }
}

/// Turns the records of a trail into lines of a format, in batches.
pub struct Export {
    feed: Feed,
    encoder: Encoder,
    /// Nothing was exported before.
    is_new: bool,
    /// What was exported.
    tree: Tree,
    prev: Hash,
    /// Read and signed, and not exported yet.
    waiting: VecDeque<(Link, String)>,
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
        let encoder = Encoder {
            format,
            in_syslog,
            authority: key.to_string(),
            host: origin.split('/').next().unwrap_or_default().to_owned(),
            origin,
            made,
            calls: Calls::from(dir, tree.size(), prev),
        };
        let feed = Feed::open(dir, key.clone(), tree.clone(), prev)?;
        Ok(Self { feed, encoder, is_new, tree, prev, waiting: VecDeque::new() })
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
        (self.encoder.format == Format::Csv && self.is_new).then(csv::header)
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
            match self.encoder.encode(&line)?.ok_or(FeedError::NoRecord { seq: link.seq })? {
                Encoded::Line(line) => lines.push(line),
                Encoded::Log(record) => logs.push(record),
            }
            self.tree.push(link.hash);
            self.prev = link.hash;
        }
        if !logs.is_empty() {
            lines.push(ascii(&otlp::request(&logs, &self.encoder.origin, &self.encoder.host)));
        }
        let Encoder { authority, format, made, .. } = &self.encoder;
        let cursor = Cursor::new(authority, *format, (&self.tree, self.prev), made.as_ref());
        Ok((!lines.is_empty()).then_some(Batch { lines, cursor }))
    }
}

/// One line of printable ASCII.
fn ascii(value: &Value) -> String {
    text::ascii(value).unwrap_or_default()
}

/// A peer or a destination of a call.
fn address(entry: &Entry<'_>, name: &str) -> Option<(IpAddr, u16)> {
    let address: SocketAddr = entry.of_call(name)?.as_str()?.parse().ok()?;
    Some((address.ip().to_canonical(), address.port()))
}
