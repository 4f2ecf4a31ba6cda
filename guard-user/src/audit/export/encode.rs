//! Turns one record after the other into a format.

use serde_json::{Map, Value};

use super::calls::Calls;
use super::entry::Entry;
use super::feed::FeedError;
use super::ocsf::Made;
use super::{Format, ascii, cef, csv, ocsf, otlp, syslog};

/// Of one trail and for one format.
pub(super) struct Encoder {
    pub(super) format: Format,
    /// In the envelope of RFC 5424.
    pub(super) in_syslog: bool,
    pub(super) origin: String,
    pub(super) authority: String,
    pub(super) host: String,
    /// The last OCSF event, which the next one names.
    pub(super) made: Option<Made>,
    pub(super) calls: Calls,
}

/// What a record became.
pub(super) enum Encoded {
    Line(String),
    /// One of those that go into one OTLP request.
    Log(Value),
}

impl Encoder {
    /// `None`: the line is no record.
    pub(super) fn encode(&mut self, line: &str) -> Result<Option<Encoded>, FeedError> {
        let Ok(fields) = serde_json::from_str::<Map<String, Value>>(line) else { return Ok(None) };
        // A record as it is says nothing of others, and what is damaged behind it is none of its business.
        let is_bare = self.format == Format::Json && !self.in_syslog;
        let call = if is_bare { None } else { self.calls.of(&fields)? };
        let Some(entry) = Entry::new(line, &fields, call.as_ref()) else { return Ok(None) };
        let encoded = match self.format {
            Format::Json => Encoded::Line(line.to_owned()),
            Format::Ocsf => {
                let (event, made) = ocsf::event(&entry, &self.origin, &self.authority, self.made.as_ref());
                self.made = Some(made);
                Encoded::Line(ascii(&event))
            }
            Format::Cef => Encoded::Line(cef::line(&entry, &self.origin)),
            Format::Csv => Encoded::Line(csv::line(&entry)),
            Format::Otlp => Encoded::Log(otlp::record(&entry)),
        };
        let encoded = match encoded {
            Encoded::Line(text) if self.in_syslog => Encoded::Line(self.in_envelope(&entry, &text)),
            encoded => encoded,
        };
        if !is_bare {
            self.calls.remember(fields);
        }
        Ok(Some(encoded))
    }

    /// In a syslog message, where no text has a `<`.
    fn in_envelope(&self, entry: &Entry<'_>, text: &str) -> String {
        let escape = if self.format == Format::Cef { r"\\u003c" } else { r"\u003c" };
        syslog::line(entry, &self.host, &text.replace('<', escape))
    }
}
