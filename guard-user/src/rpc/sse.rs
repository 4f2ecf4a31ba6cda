//! Cuts a server-sent event stream into pieces without changing a byte of it.
//!
//! Every byte that goes in comes out in order, in some piece's `raw` or in [`Events::rest`]. A piece ends where a
//! client would act on it, so that nothing is held back longer than its own last byte.

use bytes::{Bytes, BytesMut};

/// An event is longer than the guard may hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the server sent an event of more than {bytes_max} bytes (limits.event_bytes_max)")]
pub struct EventTooLarge {
    pub bytes_max: usize,
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
    is_first_line: bool,
    /// The last line ended with CR, the last byte so far: an LF that follows belongs to it.
    after_cr: bool,
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
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            line_start: 0,
            fields: Fields::default(),
            is_first_line: true,
            after_cr: false,
            bytes_max,
        }
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
    pub fn next_piece(&mut self) -> Result<Option<Piece>, EventTooLarge> {
        if self.after_cr && self.scanned < self.buffer.len() {
            self.after_cr = false;
            if self.buffer.get(self.scanned) == Some(&b'\n') {
                if self.scanned == 0 {
                    return Ok(Some(self.cut(1)));
                }
                self.scanned += 1;
                self.line_start += 1;
            }
        }
        while let Some(end) = self.line_end() {
            let line = Span { start: self.line_start, end };
            let next = self.after_line_end(end);
            self.line_start = next;
            self.scanned = next;
            // The LF of a CR LF may still be on its way. The line has ended all the same, and nobody waits for it.
            self.after_cr = next == self.buffer.len() && self.buffer.last() == Some(&b'\r');
            if self.take_line(line) {
                return if next > self.bytes_max { Err(self.too_large()) } else { Ok(Some(self.cut(next))) };
            }
        }
        self.scanned = self.buffer.len();
        if self.buffer.len() > self.bytes_max { Err(self.too_large()) } else { Ok(None) }
    }

    /// What has come of an unfinished event. Clients drop it when the stream ends.
    pub fn rest(&self) -> &[u8] {
        &self.buffer
    }

    fn too_large(&self) -> EventTooLarge {
        EventTooLarge { bytes_max: self.bytes_max }
    }

    fn line_end(&self) -> Option<usize> {
        let fresh = self.buffer.get(self.scanned..)?;
        memchr::memchr2(b'\r', b'\n', fresh).map(|at| self.scanned + at)
    }

    fn after_line_end(&self, end: usize) -> usize {
        let is_crlf = self.buffer.get(end..).is_some_and(|rest| rest.starts_with(b"\r\n"));
        if is_crlf { end + 2 } else { end + 1 }
    }

    /// Notes what the line says; true if the piece ends with it.
    fn take_line(&mut self, mut line: Span) -> bool {
        if std::mem::take(&mut self.is_first_line) && self.buffer.starts_with(b"\xef\xbb\xbf") {
            line.start += 3;
        }
        let text = self.buffer.get(line.start..line.end).unwrap_or_default();
        let colon = memchr::memchr(b':', text).unwrap_or(text.len());
        let padding = usize::from(text.get(colon + 1) == Some(&b' '));
        let value = Span { start: (line.start + colon + 1 + padding).min(line.end), end: line.end };
        match text.get(..colon).unwrap_or_default() {
            b"" if text.is_empty() => return true,
            // A comment between events: keep-alives must not wait for an empty line.
            b"" if !self.fields.has_any => return true,
            b"" => return false,
            b"data" => self.fields.data.push(value),
            b"id" => self.fields.id = Some(value),
            b"event" => self.fields.event = Some(value),
            _ => {}
        }
        self.fields.has_any = true;
        false
    }

    /// Hands out the first `length` bytes as a piece.
    fn cut(&mut self, length: usize) -> Piece {
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
        Piece { data, id: fields.id.map(at), event: fields.event.map(at), raw }
    }
}

impl Piece {
    /// Whether clients take the data for a JSON-RPC message.
    pub fn is_message(&self) -> bool {
        !self.data.is_empty()
            && self.event.as_ref().is_none_or(|event| event.is_empty() || event == "message")
    }

    /// The same event with other data: all other lines stay as they are, in their place.
    pub fn with_data(&self, data: &[u8]) -> Bytes {
        let mut out = Vec::with_capacity(self.raw.len().saturating_add(16));
        let mut is_written = false;
        let mut rest: &[u8] = &self.raw;
        if let Some(after_mark) = rest.strip_prefix(b"\xef\xbb\xbf") {
            out.extend_from_slice(b"\xef\xbb\xbf");
            rest = after_mark;
        }
        while let Some(end) = memchr::memchr2(b'\r', b'\n', rest) {
            let ending = if rest.get(end..).is_some_and(|rest| rest.starts_with(b"\r\n")) { 2 } else { 1 };
            let (line, next) = rest.split_at_checked(end + ending).unwrap_or((rest, &[]));
            rest = next;
            let is_data = line
                .strip_prefix(b"data")
                .is_some_and(|rest| matches!(rest.first(), Some(b':' | b'\r' | b'\n')));
            if !is_data {
                out.extend_from_slice(line);
            } else if !std::mem::replace(&mut is_written, true) {
                for part in data.split(|byte| *byte == b'\n') {
                    out.extend_from_slice(b"data: ");
                    out.extend_from_slice(part);
                    out.extend_from_slice(line.get(end..).unwrap_or(b"\n"));
                }
            }
        }
        out.extend_from_slice(rest);
        out.into()
    }
}

#[cfg(test)]
mod tests;
