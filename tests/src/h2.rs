//! HTTP/2 frame by frame, right or wrong as the test wants.

use std::io;
use std::thread;
use std::time::Duration;

use anyhow::{Context, bail};

use crate::https::{Https, Line, Request};

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PUSH_PROMISE: u8 = 5;
pub const PING: u8 = 6;
pub const GOAWAY: u8 = 7;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

/// Flags. `ACK` is that of SETTINGS and PING.
pub const ACK: u8 = 1;
pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;
pub const PADDED: u8 = 8;
pub const WITH_PRIORITY: u8 = 32;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;

/// How the other side took it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The connection is given up, with this error code.
    GoAway(u32),
    /// The stream is given up.
    Reset(u32),
    /// Without a word.
    Closed,
    /// A response's head.
    Answered(u16),
    /// Nothing is wrong with the connection: a PING was answered.
    Alive,
}

#[derive(Debug)]
pub struct Frame {
    pub kind: u8,
    pub flags: u8,
    pub stream: u32,
    pub payload: Vec<u8>,
}

/// One connection.
pub struct Frames {
    line: Line,
}

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("frames of tests are small").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header block of literals that enter no table.
pub fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

pub fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0][..], &string(name), &string(value)].concat()
}

fn string(text: &[u8]) -> Vec<u8> {
    [integer(text.len(), 7, 0), text.to_vec()].concat()
}

/// An HPACK integer behind the bits of `first`.
pub fn integer(value: usize, bits: u32, first: u8) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    let byte = |value: usize| u8::try_from(value).expect("below 256");
    if value < most {
        return vec![first | byte(value)];
    }
    let mut out = vec![first | byte(most)];
    let mut rest = value - most;
    while rest >= 128 {
        out.push(byte(rest % 128) | 128);
        rest /= 128;
    }
    out.push(byte(rest));
    out
}

/// The head of the request, with pseudo-headers as they should be.
pub fn head(request: &Request) -> Vec<(String, String)> {
    let pseudo = [
        (":method", request.method),
        (":scheme", "https"),
        (":path", &request.path),
        (":authority", "localhost"),
    ];
    let pseudo = pseudo.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let fields = request.headers.iter().filter(|(name, _)| name != "Host");
    pseudo.into_iter().chain(fields.map(|(name, value)| (name.to_lowercase(), value.clone()))).collect()
}

pub fn encode(head: &[(String, String)]) -> Vec<u8> {
    head.iter().flat_map(|(name, value)| literal(name.as_bytes(), value.as_bytes())).collect()
}

impl Frames {
    /// Says the first words, and nothing of the settings.
    pub fn open(https: &Https) -> anyhow::Result<Self> {
        let mut frames = Self::silent(https)?;
        frames.send(PREFACE)?;
        frames.send(&frame(SETTINGS, 0, 0, &[]))?;
        Ok(frames)
    }

    /// A connection on which nothing has been said.
    pub fn silent(https: &Https) -> anyhow::Result<Self> {
        Ok(Self { line: https.clone().speaking("h2").line()? })
    }

    /// Waits no longer than this for the other side.
    pub fn wait_at_most(&self, patience: Duration) -> io::Result<()> {
        self.line.wait_at_most(patience)
    }

    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.line.send(bytes)
    }

    /// The whole request on this stream.
    pub fn ask(&mut self, stream: u32, request: &Request) -> io::Result<()> {
        let block = encode(&head(request));
        self.send(&frame(HEADERS, END_HEADERS, stream, &block))?;
        self.send(&frame(DATA, END_STREAM, stream, &request.body))
    }

    pub fn read(&mut self) -> anyhow::Result<Frame> {
        let head = self.line.take(HEAD_BYTES)?;
        let (length, rest) = head.split_at(3);
        let [kind, flags, stream @ ..] = rest else { bail!("{head:?}") };
        let length = number(&[&[0], length].concat());
        let payload = self.line.take(usize::try_from(length)?)?;
        Ok(Frame { kind: *kind, flags: *flags, stream: number(stream) & 0x7fff_ffff, payload })
    }

    /// What comes of the stream, or of the connection. Sends a PING behind what was sent: when its answer comes and no
    /// word about the stream, nothing was wrong.
    pub fn end(&mut self, stream: u32) -> End {
        // The other side may have closed already.
        let _ = self.send(&frame(PING, 0, 0, b"how goes"));
        loop {
            let Ok(frame) = self.read() else { return End::Closed };
            let code = |at: usize| frame.payload.get(at..at + 4).map_or(0, number);
            match frame.kind {
                GOAWAY if code(4) != 0 => return End::GoAway(code(4)),
                RST_STREAM if frame.stream == stream => return End::Reset(code(0)),
                HEADERS if frame.stream == stream => return End::Answered(status(&frame.payload)),
                PING if frame.flags & ACK != 0 => return End::Alive,
                _ => {}
            }
        }
    }

    /// The same, but waits for it however long it takes.
    pub fn fate(&mut self, stream: u32) -> End {
        loop {
            match self.end(stream) {
                End::Alive => thread::sleep(Duration::from_millis(20)),
                end => return end,
            }
        }
    }

    /// The body of the stream's answer, as text.
    pub fn body(&mut self, stream: u32) -> anyhow::Result<String> {
        let mut body = Vec::new();
        loop {
            let frame = self.read().context("the answer's body")?;
            if frame.kind == DATA && frame.stream == stream {
                body.extend_from_slice(&frame.payload);
                if frame.flags & END_STREAM != 0 {
                    return Ok(String::from_utf8(body)?);
                }
            }
        }
    }
}

fn number(bytes: &[u8]) -> u32 {
    bytes.try_into().map_or(0, u32::from_be_bytes)
}

/// The status that a response's head begins with: one of the static table's, or 0 for another.
fn status(block: &[u8]) -> u16 {
    match block.first() {
        Some(0x88) => 200,
        Some(0x89) => 204,
        Some(0x8c) => 400,
        Some(0x8d) => 404,
        Some(0x8e) => 500,
        _ => 0,
    }
}
