//! Unpacks the members of a gzip file one after the other. Each must be as long as it says: whoever looks for a record finds its way by
//! that, without unpacking.

use std::io::{self, BufRead, ErrorKind, Read};

use flate2::bufread::GzDecoder;

/// What a member begins with (RFC 1952, section 2.3.1).
const FIRST_BYTE: u8 = 0x1f;

/// What the members hold.
pub(super) struct Members<R>(State<R>);

enum State<R> {
    Between(Counted<R>),
    Within {
        member: Box<GzDecoder<Counted<R>>>,
        /// Bytes of the file before it.
        start: u64,
        /// Bytes that came out of it.
        plain: u64,
    },
    /// At the end, or behind what is no member.
    Over,
}

impl<R: BufRead> Members<R> {
    pub(super) fn new(file: R) -> Self {
        Self(State::Between(Counted { file, bytes: 0 }))
    }
}

impl<R: BufRead> Read for Members<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        if to.is_empty() {
            return Ok(0);
        }
        loop {
            match &mut self.0 {
                State::Between(file) => match file.fill_buf()?.first() {
                    None => self.0 = State::Over,
                    Some(&FIRST_BYTE) => {
                        let State::Between(file) = std::mem::replace(&mut self.0, State::Over) else {
                            continue;
                        };
                        let (start, member) = (file.bytes, Box::new(GzDecoder::new(file)));
                        self.0 = State::Within { member, start, plain: 0 };
                    }
                    Some(_) => return Err(wrong("what stands here is no gzip member")),
                },
                State::Within { member, plain, .. } => {
                    let read = member.read(to)?;
                    if read > 0 {
                        *plain = plain.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
                        return Ok(read);
                    }
                    let State::Within { member, start, plain } = std::mem::replace(&mut self.0, State::Over)
                    else {
                        continue;
                    };
                    let said = member.header().and_then(|header| super::lengths(header.extra()?));
                    let file = member.into_inner();
                    if said.is_some_and(|said| said != (file.bytes - start, plain)) {
                        return Err(wrong("a member is not as long as it says"));
                    }
                    self.0 = State::Between(file);
                }
                State::Over => return Ok(0),
            }
        }
    }
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what)
}

/// How much was taken of it.
struct Counted<R> {
    file: R,
    bytes: u64,
}

impl<R: BufRead> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(to)?;
        self.bytes = self.bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Counted<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.file.fill_buf()
    }

    fn consume(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_add(u64::try_from(bytes).unwrap_or(u64::MAX));
        self.file.consume(bytes);
    }
}
