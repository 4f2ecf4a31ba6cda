//! Watches the bytes of an HTTP/1.1 connection, ahead of the HTTP library, and refuses framing that two servers
//! could read differently (request smuggling).
//!
//! It knows only where heads, bodies and chunks end; it changes and keeps nothing. Stricter than RFC 9112 where
//! real servers disagree: no bare LF, no folded lines, no chunk extensions, no trailers, origin-form targets only.

mod error;

pub use error::FramingError;

/// Longest chunk-size line: eight hex digits, CR, LF. Four GiB is beyond any body limit.
const CHUNK_LINE_BYTES_MAX: usize = 10;

/// Of the space for partial lines, what an idle connection keeps.
const PARTIAL_BYTES_KEPT: usize = 512;

/// One connection's state. Feed it every byte, in order and in pieces of any size.
#[derive(Debug)]
pub struct Inspector {
    state: State,
    head: Head,
    /// The start of a line whose end has not come yet.
    partial: Vec<u8>,
    /// Of the head under way, without `partial`.
    head_bytes: usize,
    head_bytes_max: usize,
    fault: Option<FramingError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before a request. One empty line may stand here, as some clients send one after a body.
    Start {
        after_empty_line: bool,
    },
    Header,
    Body {
        left: u64,
    },
    ChunkSize,
    Chunk {
        left: u64,
    },
    ChunkEnd,
    LastChunkEnd,
}

/// What the head under way has said about its body.
#[derive(Debug, Default)]
struct Head {
    has_host: bool,
    content_length: Option<u64>,
    is_chunked: bool,
}

impl Inspector {
    /// `head_bytes_max` bounds a request's line and headers, and so what is held here.
    pub fn new(head_bytes_max: usize) -> Self {
        Self {
            state: State::Start { after_empty_line: false },
            head: Head::default(),
            partial: Vec::new(),
            head_bytes: 0,
            head_bytes_max,
            fault: None,
        }
    }

    /// Takes the next bytes. After an error none of them may be used, and each later call gives the same error.
    ///
    /// Bytes of an unfinished line are let through, but never the end of a line that breaks a rule: so the HTTP
    /// library cannot see the end of a head, or of a chunked body, that was refused here.
    pub fn inspect(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        self.walk(bytes).inspect_err(|fault| self.fault = Some(*fault))
    }

    /// The rule that was broken, if any.
    pub fn fault(&self) -> Option<FramingError> {
        self.fault
    }

    /// Whether the last head was complete and its body is not: a request's service is at work on it.
    pub fn is_in_body(&self) -> bool {
        !matches!(self.state, State::Start { .. } | State::Header)
    }

    /// Whether a head has begun and not ended.
    pub fn is_in_head(&self) -> bool {
        match self.state {
            State::Start { .. } => !self.partial.is_empty(),
            State::Header => true,
            _ => false,
        }
    }

    /// Gives the connection up for a fault that is not in its bytes.
    pub fn fail(&mut self, fault: FramingError) {
        self.fault.get_or_insert(fault);
    }

    fn walk(&mut self, mut bytes: &[u8]) -> Result<(), FramingError> {
        while !bytes.is_empty() {
            bytes = match self.state {
                State::Body { left } => {
                    let (left, rest) = skip(left, bytes);
                    self.state = if left == 0 { State::START } else { State::Body { left } };
                    rest
                }
                State::Chunk { left } => {
                    let (left, rest) = skip(left, bytes);
                    self.state = if left == 0 { State::ChunkEnd } else { State::Chunk { left } };
                    rest
                }
                _ => match memchr::memchr(b'\n', bytes).and_then(|end| bytes.split_at_checked(end)) {
                    Some((line, rest)) => {
                        self.end_of_line(line)?;
                        rest.get(1..).unwrap_or_default()
                    }
                    None => return self.keep(bytes),
                },
            };
        }
        Ok(())
    }

    /// Keeps the start of a line, within the bounds of its kind.
    fn keep(&mut self, bytes: &[u8]) -> Result<(), FramingError> {
        self.check_extension(bytes)?;
        self.check_length(bytes.len())?;
        self.partial.extend_from_slice(bytes);
        Ok(())
    }

    /// Within the bounds of a line only, so that the fault does not depend on the pieces in which the line comes.
    fn check_extension(&self, more: &[u8]) -> Result<(), FramingError> {
        let mut line = self.partial.iter().chain(more).take(CHUNK_LINE_BYTES_MAX);
        if self.state == State::ChunkSize && line.any(|byte| *byte == b';') {
            return Err(FramingError::ChunkExtension);
        }
        Ok(())
    }

    fn check_length(&self, more: usize) -> Result<(), FramingError> {
        let length = self.partial.len().saturating_add(more);
        match self.state {
            State::Start { .. } | State::Header
                if self.head_bytes.saturating_add(length) > self.head_bytes_max =>
            {
                Err(FramingError::HeadTooLarge)
            }
            State::ChunkSize if length > CHUNK_LINE_BYTES_MAX => Err(FramingError::ChunkSize),
            State::ChunkEnd if length > 2 => Err(FramingError::ChunkEnd),
            State::LastChunkEnd if length > 2 => Err(FramingError::Trailer),
            _ => Ok(()),
        }
    }

    /// `end` is what stands before the LF; the line's start may have come earlier.
    fn end_of_line(&mut self, end: &[u8]) -> Result<(), FramingError> {
        self.check_extension(end)?;
        self.check_length(end.len().saturating_add(1))?;
        if self.partial.is_empty() {
            return self.line(end);
        }
        let mut whole = std::mem::take(&mut self.partial);
        whole.extend_from_slice(end);
        let verdict = self.line(&whole);
        whole.clear();
        whole.shrink_to(PARTIAL_BYTES_KEPT);
        self.partial = whole;
        verdict
    }

    fn line(&mut self, line: &[u8]) -> Result<(), FramingError> {
        let line = line.strip_suffix(b"\r").ok_or(FramingError::BareLineFeed)?;
        self.state = match self.state {
            State::Start { after_empty_line } if line.is_empty() => {
                if after_empty_line {
                    return Err(FramingError::EmptyLines);
                }
                State::Start { after_empty_line: true }
            }
            State::Start { .. } => {
                check_request_line(line)?;
                self.head_bytes = line.len().saturating_add(2);
                self.head = Head::default();
                State::Header
            }
            State::Header if line.is_empty() => self.head.end()?,
            State::Header => {
                self.head_bytes = self.head_bytes.saturating_add(line.len().saturating_add(2));
                self.head.add(line)?;
                State::Header
            }
            State::ChunkSize => match chunk_size(line)? {
                0 => State::LastChunkEnd,
                left => State::Chunk { left },
            },
            State::ChunkEnd if line.is_empty() => State::ChunkSize,
            State::ChunkEnd => return Err(FramingError::ChunkEnd),
            State::LastChunkEnd if line.is_empty() => State::START,
            State::LastChunkEnd => return Err(FramingError::Trailer),
            // Not read line by line.
            State::Body { .. } | State::Chunk { .. } => self.state,
        };
        if self.state == State::START {
            self.head_bytes = 0;
        }
        Ok(())
    }
}

impl State {
    const START: Self = Self::Start { after_empty_line: false };
}

impl Head {
    fn add(&mut self, line: &[u8]) -> Result<(), FramingError> {
        if line.starts_with(b" ") || line.starts_with(b"\t") {
            return Err(FramingError::FoldedLine);
        }
        let colon = memchr::memchr(b':', line).ok_or(FramingError::HeaderName)?;
        let (name, value) = line.split_at_checked(colon).ok_or(FramingError::HeaderName)?;
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(FramingError::HeaderName);
        }
        let value = value.get(1..).unwrap_or_default();
        check_no_control(value)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                if self.has_host {
                    return Err(FramingError::Host);
                }
                self.has_host = true;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                if self.content_length.is_some() {
                    return Err(FramingError::ContentLengthRepeated);
                }
                self.content_length = Some(decimal(trim(value)).ok_or(FramingError::ContentLength)?);
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                if self.is_chunked || trim(value) != b"chunked" {
                    return Err(FramingError::TransferEncoding);
                }
                self.is_chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn end(&self) -> Result<State, FramingError> {
        if !self.has_host {
            return Err(FramingError::Host);
        }
        match (self.is_chunked, self.content_length) {
            (true, Some(_)) => Err(FramingError::TwoLengths),
            (true, None) => Ok(State::ChunkSize),
            (false, None | Some(0)) => Ok(State::START),
            (false, Some(left)) => Ok(State::Body { left }),
        }
    }
}

/// How much is left after these bytes, and the bytes that belong to what follows.
fn skip(left: u64, bytes: &[u8]) -> (u64, &[u8]) {
    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
    (left.saturating_sub(u64::try_from(here).unwrap_or(left)), bytes.get(here..).unwrap_or_default())
}

/// `METHOD SP /path SP HTTP/1.1`, with single spaces.
fn check_request_line(line: &[u8]) -> Result<(), FramingError> {
    check_no_control(line)?;
    let mut parts = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(FramingError::RequestLine);
    };
    if method.is_empty() || !method.iter().copied().all(is_token) {
        return Err(FramingError::RequestLine);
    }
    if version != b"HTTP/1.1" {
        return Err(FramingError::Version);
    }
    let is_plain = target.iter().all(|byte| matches!(byte, b'!'..=b'~') && *byte != b'#');
    if target.starts_with(b"/") && is_plain { Ok(()) } else { Err(FramingError::Target) }
}

/// HTAB is the one control character that may stand in a line.
fn check_no_control(text: &[u8]) -> Result<(), FramingError> {
    match text.iter().find(|byte| byte.is_ascii_control() && **byte != b'\t') {
        None => Ok(()),
        Some(b'\r') => Err(FramingError::BareCarriageReturn),
        Some(_) => Err(FramingError::ControlCharacter),
    }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn trim(value: &[u8]) -> &[u8] {
    let is_padding = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = value.iter().position(|byte| !is_padding(byte)).unwrap_or(value.len());
    let end = value.iter().rposition(|byte| !is_padding(byte)).map_or(start, |last| last + 1);
    value.get(start..end).unwrap_or_default()
}

/// Digits only, no leading zero.
fn decimal(text: &[u8]) -> Option<u64> {
    let is_plain = text.iter().all(u8::is_ascii_digit) && (text.len() == 1 || !text.starts_with(b"0"));
    if is_plain { std::str::from_utf8(text).ok()?.parse().ok() } else { None }
}

/// Hex digits only, no leading zero.
fn chunk_size(text: &[u8]) -> Result<u64, FramingError> {
    let is_plain = text.iter().all(u8::is_ascii_hexdigit) && (text.len() == 1 || !text.starts_with(b"0"));
    let digits = std::str::from_utf8(text).ok().filter(|_| is_plain);
    digits.and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or(FramingError::ChunkSize)
}

#[cfg(test)]
mod tests;
