//! Cuts a server-sent event stream into pieces without changing a byte of it.
//!
//! Every byte that goes in comes out in order, in some piece's `raw` or in [`Events::rest`]. A piece ends where a
//! client would act on it, so that nothing is held back longer than its own last byte.
//!
//! What clients cut in different places ends the stream: some take U+2028 and the like for the end of a line, some wait
//! after a lone CR, and some see a field where others see an unknown word with a byte order mark. A server could so
//! show a client a message that the guard never saw.

use bytes::{Bytes, BytesMut};

/// Why a stream cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamFault {
    #[error("an event is longer than limits.event_bytes_max")]
    TooLarge,
    #[error("its events are cut in a way that clients read differently")]
    Unclear,
}

/// An event with its empty line, or bytes between events: comments, empty lines.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Piece {
    /// As received.
    pub raw: Bytes,
    /// The `data` lines, joined by LF. Empty for comments and for priming events; clients get no message from those.
    pub data: Bytes,
    /// The last `id` field of this event; not remembered from earlier events.
    pub id: Option<Bytes>,
    /// The last `event` field. Clients take messages only without it, or with `message`.
    pub event: Option<Bytes>,
}

/// The reader of one stream.
#[derive(Debug)]
pub struct Events {
    /// Starts at a piece's first byte.
    buffer: BytesMut,
    /// Up to here `buffer` has been read; a line starts here or before.
    scanned: usize,
    line_start: usize,
    /// Lines of the piece under way.
    fields: Fields,
    bytes_max: usize,
}

#[derive(Debug, Default)]
struct Fields {
    has_any: bool,
    data: Vec<Span>,
    id: Option<Span>,
    event: Option<Span>,
}

#[derive(Debug, Clone, Copy)]
struct Span {
    start: usize,
    end: usize,
}

impl Events {
    /// `bytes_max` bounds one event, and with it what is held between calls.
    pub fn new(bytes_max: usize) -> Self {
        Self { buffer: BytesMut::new(), scanned: 0, line_start: 0, fields: Fields::default(), bytes_max }
    }

    /// Adds received bytes; then call [`Self::next_piece`] until it gives nothing.
    pub fn push(&mut self, chunk: Bytes) {
        if self.buffer.is_empty() {
            self.buffer = chunk.try_into_mut().unwrap_or_else(|chunk| BytesMut::from(&*chunk));
        } else {
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// The next whole piece, if its end has come.
    pub fn next_piece(&mut self) -> Result<Option<Piece>, StreamFault> {
        while let Some(end) = self.line_end() {
            let line = Span { start: self.line_start, end };
            self.line_start = end + 1;
            self.scanned = end + 1;
            if self.take_line(line)? {
                let length = self.line_start;
                return if length > self.bytes_max {
                    Err(StreamFault::TooLarge)
                } else {
                    self.cut(length).map(Some)
                };
            }
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() > self.bytes_max { Err(StreamFault::TooLarge) } else { Ok(None) }
    }

    /// What has come of an unfinished event. Clients drop it when the stream ends.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    fn line_end(&self) -> Option<usize> {
        let fresh = self.buffer.get(self.scanned..)?;
        memchr::memchr(b'\n', fresh).map(|at| self.scanned + at)
    }

    /// Notes what the line says; true if the piece ends with it.
    fn take_line(&mut self, line: Span) -> Result<bool, StreamFault> {
        let text = self.buffer.get(line.start..line.end).unwrap_or_default();
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        if memchr::memchr(b'\r', text).is_some() {
            return Err(StreamFault::Unclear);
        }
        let end = line.start + text.len();
        let colon = memchr::memchr(b':', text).unwrap_or(text.len());
        let padding = usize::from(text.get(colon + 1) == Some(&b' '));
        let value = Span { start: (line.start + colon + 1 + padding).min(end), end };
        let name = text.get(..colon).unwrap_or_default();
        let fields = &mut self.fields;
        if is_disguised(name, &FIELDS) {
            return Err(StreamFault::Unclear);
        }
        if name == b"data" {
            fields.data.push(value);
        } else if ends_a_line_for_some(text) || !name.iter().all(|byte| matches!(byte, b' '..=b'~')) {
            return Err(StreamFault::Unclear);
        } else {
            match name {
                b"" if text.is_empty() => return Ok(true),
                // A comment between events: keep-alives must not wait for an empty line.
                b"" => return Ok(!fields.has_any),
                b"id" => fields.id = Some(value),
                b"event" => fields.event = Some(value),
                _ => {}
            }
        }
        fields.has_any = true;
        Ok(false)
    }

    /// Hands out the first `length` bytes as a piece.
    fn cut(&mut self, length: usize) -> Result<Piece, StreamFault> {
        let raw = self.buffer.split_to(length.min(self.buffer.len())).freeze();
        let fields = std::mem::take(&mut self.fields);
        self.scanned = 0;
        self.line_start = 0;
        let at = |span: Span| raw.slice(span.start.min(raw.len())..span.end.min(raw.len()));
        let data = match fields.data.as_slice() {
            [] => Bytes::new(),
            [one] => at(*one),
            many => many.iter().map(|span| at(*span)).collect::<Vec<_>>().join(&b'\n').into(),
        };
        let piece = Piece { data, id: fields.id.map(at), event: fields.event.map(at), raw };
        let is_unclear = piece.event.as_deref().is_some_and(|event| is_disguised(event, &EVENTS));
        if is_unclear || (!piece.is_message() && ends_a_line_for_some(&piece.data)) {
            Err(StreamFault::Unclear)
        } else {
            Ok(piece)
        }
    }
}

/// Fields and events that clients act on.
const FIELDS: [&str; 4] = ["data", "event", "id", "retry"];
const EVENTS: [&str; 2] = ["endpoint", "message"];

/// Whether the text is none of `known`, but a client that trims it or does not look at case takes it for one: the Java SDK
/// trims.
fn is_disguised(text: &[u8], known: &[&str]) -> bool {
    let bare = text.trim_ascii();
    let bare = bare.strip_prefix(b"\0").unwrap_or(bare);
    let bare = bare.strip_suffix(b"\0").unwrap_or(bare).trim_ascii();
    known.iter().any(|known| bare.eq_ignore_ascii_case(known.as_bytes()) && text != known.as_bytes())
}

/// An event with this JSON text as its data.
pub fn event(message: &[u8]) -> Bytes {
    let mut event = b"event: message\n".to_vec();
    for line in without_separators(message).split(|byte| matches!(byte, b'\r' | b'\n')) {
        event.extend_from_slice(b"data: ");
        event.extend_from_slice(line);
        event.push(b'\n');
    }
    event.push(b'\n');
    event.into()
}

/// Whether the text has what Python's `splitlines` takes for the end of a line, beside CR and LF.
fn ends_a_line_for_some(text: &[u8]) -> bool {
    text.iter().enumerate().any(|(at, byte)| match byte {
        0x0b | 0x0c | 0x1c..=0x1e => true,
        0xc2 | 0xe2 => separator(text.get(at..).unwrap_or_default()).is_some(),
        _ => false,
    })
}

/// How a JSON string spells the character that `text` begins with, if some take it for the end of a line.
fn separator(text: &[u8]) -> Option<(&'static [u8], usize)> {
    match text {
        [0xc2, 0x85, ..] => Some((b"\\u0085", 2)),
        [0xe2, 0x80, 0xa8, ..] => Some((b"\\u2028", 3)),
        [0xe2, 0x80, 0xa9, ..] => Some((b"\\u2029", 3)),
        _ => None,
    }
}

/// JSON text without characters that some take for the end of a line. They can stand in its strings only, where the
/// escape means the same.
fn without_separators(json: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(json.len().saturating_add(64));
    let mut rest = json;
    while let Some(first) = rest.first() {
        let (written, length) = separator(rest).unwrap_or((std::slice::from_ref(first), 1));
        out.extend_from_slice(written);
        rest = rest.get(length..).unwrap_or_default();
    }
    out
}

impl Piece {
    /// Whether clients take the data for a JSON-RPC message.
    pub fn is_message(&self) -> bool {
        !self.data.is_empty()
            && self.event.as_ref().is_none_or(|event| event.is_empty() || event == "message")
    }

    /// What goes to the client when `data`, a JSON text, goes in place of this event's own.
    pub fn passing(&self, data: &Bytes) -> Bytes {
        if ends_a_line_for_some(data) {
            self.with_data(&without_separators(data))
        } else if *data == self.data {
            self.raw.clone()
        } else {
            self.with_data(data)
        }
    }

    /// What goes to the client where an answer is looked into: `data` and what a client needs to come back. Comments, and fields that
    /// no client knows, would be a way around.
    pub fn bare(&self, data: &[u8]) -> Bytes {
        let escaped = ends_a_line_for_some(data).then(|| without_separators(data));
        self.written(escaped.as_deref().unwrap_or(data), |line| {
            let pause = || line.strip_prefix(b"retry:").map(<[u8]>::trim_ascii);
            // Longer numbers are no pause.
            let is_pause = |digits: &[u8]| digits.len() < 9 && digits.iter().all(u8::is_ascii_digit);
            line.starts_with(b"id:") || line.trim_ascii().is_empty() || pause().is_some_and(is_pause)
        })
    }

    /// The same event with other data: all other lines stay as they are, in their place.
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        self.written(data, |_line| true)
    }

    fn written(&self, data: &[u8], stays: impl Fn(&[u8]) -> bool) -> Bytes {
        let mut out = Vec::with_capacity(self.raw.len().saturating_add(16));
        let mut is_written = false;
        let mut rest: &[u8] = &self.raw;
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (line, next) = rest.split_at_checked(end + 1).unwrap_or((rest, &[]));
            rest = next;
            let is_data = line
                .strip_prefix(b"data")
                .is_some_and(|rest| matches!(rest.first(), Some(b':' | b'\r' | b'\n')));
            if !is_data {
                out.extend_from_slice(if stays(line) { line } else { &[] });
            } else if !std::mem::replace(&mut is_written, true) {
                let ending: &[u8] = if line.ends_with(b"\r\n") { b"\r\n" } else { b"\n" };
                for part in data.split(|byte| *byte == b'\n') {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(part);
                    out.extend_from_slice(ending);
                }
            }
        }
        out.extend_from_slice(if stays(rest) { rest } else { &[] });
        out.into()
    }
}

#[cfg(test)]
mod tests;
