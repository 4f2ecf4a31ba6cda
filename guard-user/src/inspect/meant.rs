//! What a string with escapes means, in one way through it: enough to tell that it holds nothing. Where what it holds stands is
//! asked of `json` and `meaning`, which take longer.

use super::meaning::{alike, unicode};
use super::starts::{BLOCK, block, mask};

static ESCAPED: [u8; 256] = escaped();

/// Bytes of a meaning that are looked at at once: so many stay in the processor's cache.
const PART: usize = 1 << 15;
/// A part ends so many bytes behind a break, since what begins before that may look ahead.
const AHEAD: usize = 64;

/// Tells what the string means that begins at a place in a text, and in turn what the JSON means that may stand in it as text: part by
/// part.
#[derive(Debug, Default)]
pub(super) struct Meant {
    /// Grows as needed, and keeps what it had beyond.
    out: Vec<u8>,
    length: usize,
    /// How far the string was read; at its end the place of its quote, or the end of the text.
    pub(super) at: usize,
    is_over: bool,
    /// Parts so far.
    parts: usize,
    /// Some of it was written as something else than one finds by its bytes.
    pub(super) is_new: bool,
    /// It is written in a way that is not read here.
    pub(super) is_unclear: bool,
}

impl Meant {
    /// Goes to a string.
    pub(super) fn begin(&mut self, start: usize) {
        let out = std::mem::take(&mut self.out);
        *self = Self { out, at: start, ..Self::default() };
    }

    /// Reads the next part, if there is one. It begins with the end of the last one, from a line's end or a quote on: no number and no
    /// address goes over these.
    pub(super) fn next(&mut self, text: &[u8]) -> bool {
        if self.is_over {
            return false;
        }
        self.parts += 1;
        let ended = self.out.get(..self.length.saturating_sub(AHEAD)).unwrap_or_default();
        let kept = memchr::memrchr2(b'\n', b'"', ended).unwrap_or_default();
        self.out.copy_within(kept..self.length, 0);
        self.length -= kept;
        // What is looked at again doubles each time.
        let enough = if kept == 0 { PART.max(2 * self.length) } else { self.length + PART };
        while self.length < enough && !self.is_over {
            self.read(text);
        }
        true
    }

    pub(super) fn part(&self) -> &[u8] {
        self.out.get(..self.length).unwrap_or_default()
    }

    /// Whether the part is all of the string.
    pub(super) fn is_whole(&self) -> bool {
        self.parts == 1 && self.is_over
    }

    /// Reads a block of the text, and an escape that goes over its end.
    fn read(&mut self, text: &[u8]) {
        let rest = text.get(self.at..).unwrap_or_default();
        self.make_room();
        let length = rest.len().min(BLOCK);
        let mut specials = specials(&block(rest));
        // Read so far.
        let mut done = 0;
        while specials != 0 {
            let next = usize::try_from(specials.trailing_zeros()).unwrap_or_default();
            specials &= specials - 1;
            if next < done {
                continue;
            }
            self.copy(rest, done, next);
            let special = rest.get(next..).unwrap_or_default();
            let escape = match special {
                [b'"', ..] => {
                    self.at += next;
                    self.is_over = true;
                    return;
                }
                [b'\\', byte, ..] => ESCAPED[usize::from(*byte)],
                _ => 0,
            };
            done = next
                + match special {
                    _ if escape != 0 => {
                        self.put(&[escape]);
                        2
                    }
                    [b'\\', ..] => self.escape(special),
                    _ => self.mark(special),
                };
        }
        self.copy(rest, done, length);
        self.at += done.max(length);
        self.is_over = self.at >= text.len();
    }

    /// For what a block means, and some more.
    fn make_room(&mut self) {
        if self.out.len() < self.length + 3 * BLOCK {
            self.out.resize(2 * self.length + 8 * BLOCK, 0);
        }
    }

    /// Writes the bytes from `from` to before `to`, as they are: mostly few, so a fixed number is copied where it can be.
    fn copy(&mut self, text: &[u8], from: usize, to: usize) {
        let Some(length) = to.checked_sub(from).filter(|length| *length > 0) else { return };
        let source = text.get(from..).unwrap_or_default();
        let room = self.out.get_mut(self.length..).unwrap_or_default();
        match (source.first_chunk::<16>(), room.first_chunk_mut::<16>()) {
            (Some(source), Some(room)) if length <= 16 => *room = *source,
            _ => room.iter_mut().zip(source).take(length).for_each(|(to, from)| *to = *from),
        }
        self.length += length;
    }

    fn put(&mut self, bytes: &[u8]) {
        let room = self.out.get_mut(self.length..).unwrap_or_default();
        room.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
        self.length += bytes.len();
    }

    /// Backslashes and what they escape. Gives its bytes.
    #[cold]
    fn escape(&mut self, rest: &[u8]) -> usize {
        let slashes = rest.iter().take_while(|byte| **byte == b'\\').count();
        let after = rest.get(slashes..).unwrap_or_default();
        let is_even = slashes.is_multiple_of(2);
        let next = after.first().copied().unwrap_or_default();
        let meant = ESCAPED[usize::from(next)];
        match next {
            // The string's end.
            b'"' if is_even => self.put(b"\\"),
            b'u' => return self.unicode(after, slashes),
            b'"' | b'/' => {
                self.put(&[next]);
                return slashes + 1;
            }
            _ if meant == 0 => {
                // It is no JSON.
                self.is_unclear |= !is_even;
                self.put(b"\\");
            }
            _ => {
                if !is_even && slashes > 1 {
                    self.put(b"\\");
                }
                self.put(&[meant]);
                return slashes + 1;
            }
        }
        slashes
    }

    /// What begins like another space or hyphen. Gives its bytes.
    #[cold]
    fn mark(&mut self, rest: &[u8]) -> usize {
        match (alike(rest), rest) {
            (Some((length, plain)), _) => {
                self.is_new = true;
                self.put(&[plain]);
                length
            }
            (None, [b'\t', ..]) => {
                self.put(b" ");
                1
            }
            (None, _) => {
                self.put(rest.get(..1).unwrap_or_default());
                1
            }
        }
    }

    /// `u` after so many backslashes, and four digits; also two of them that are one character. Gives the bytes of all.
    fn unicode(&mut self, rest: &[u8], slashes: usize) -> usize {
        self.is_new = true;
        let is_even = slashes.is_multiple_of(2);
        let Some((character, length)) = unicode(rest, slashes).filter(|_| is_even || slashes == 1) else {
            // A digit may be escaped itself.
            self.is_unclear |= !is_even || rest.iter().take(5).any(|byte| *byte == b'\\');
            self.put(b"\\");
            return slashes;
        };
        // It may escape what follows.
        self.is_unclear |= character == '\\' && slashes == 1;
        let mut utf8 = [0; 4];
        let bytes = character.encode_utf8(&mut utf8).as_bytes();
        match (alike(bytes), character) {
            (Some((_, plain)), _) => self.put(&[plain]),
            (None, '\t') if slashes == 1 => self.put(b" "),
            (None, _) => self.put(bytes),
        }
        length
    }
}

/// The bytes that may not stand for themselves: one bit each, the first the lowest.
#[expect(clippy::needless_bitwise_bool, reason = "the compiler makes wide instructions of it")]
fn specials(block: &[u8; BLOCK]) -> u64 {
    mask(block, |byte| (byte == b'"') | (byte == b'\\') | (byte == b'\t') | (byte | 0x20 == 0xe2))
}

/// What a byte means after a backslash; 0 if it is not as simple as that.
const fn escaped() -> [u8; 256] {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 8;
    table[b'f' as usize] = 12;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b' ';
    table
}
