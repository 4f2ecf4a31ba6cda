//! What the strings and numbers of a JSON text hold: as they mean, however they are escaped.

use super::find::{DIGITS_MIN, NUMBERS, find, find_meant};
use super::found::{Found, Hits, Origins};
use super::meant::Meant;
use super::{Kind, Kinds, secret};

/// Members of a message that say what it is about, not what it says: the client's own id among them.
const FRAME: [&[u8]; 3] = [b"id", b"jsonrpc", b"method"];
/// Digits of the shortest number that is told without its writing.
const BARE_DIGITS_MIN: usize = 11;
const DIGIT: u8 = 1;
const QUOTE: u8 = 2;
const ESCAPE: u8 = 4;
const AT: u8 = 8;
/// The first byte of a space or hyphen beyond ASCII, or a tab.
const MARK: u8 = 16;
/// A number goes on.
const PART: u8 = 32;
static CLASS: [u8; 256] = classes();

/// What it is a part of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    String,
    /// The name of a member.
    Key,
    /// It is all of a number.
    Number,
}

/// Tells what a JSON text holds, in its order. The text must be JSON; of one that is none, anything may be told.
/// `is_message`: what frames a message of JSON-RPC is left alone.
pub fn look(text: &[u8], kinds: Kinds, is_message: bool) -> Found {
    let mut walk = Walk {
        text,
        kinds,
        found: Found::default(),
        hits: Hits::default(),
        has_secret: kinds.has(Kind::Secret) && secret::may_hold(text),
        meant: Meant::default(),
        depth: 0,
        skips: false,
        is_message,
    };
    walk.run();
    walk.found
}

struct Walk<'t> {
    text: &'t [u8],
    kinds: Kinds,
    found: Found,
    hits: Hits,
    /// Where it is written as it means.
    has_secret: bool,
    /// What a string with escapes means.
    meant: Meant,
    depth: usize,
    /// The next value is of the frame.
    skips: bool,
    is_message: bool,
}

impl Walk<'_> {
    fn run(&mut self) {
        let mut at = 0;
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'"' => at = self.string(at + 1),
                b'0'..=b'9' => at = self.number(at),
                b'{' | b'[' => {
                    self.depth += 1;
                    self.skips = false;
                    at += 1;
                }
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    at += 1;
                }
                _ => at += 1,
            }
        }
    }

    /// From behind its quote to behind the next one.
    fn string(&mut self, start: usize) -> usize {
        let (mut at, mut seen, mut digits) = (start, 0_u8, 0_usize);
        let rest = self.text.get(start..).unwrap_or_default();
        for byte in rest {
            let class = CLASS[usize::from(*byte)];
            if class & (QUOTE | ESCAPE) != 0 {
                seen |= class & ESCAPE;
                break;
            }
            seen |= class;
            digits += usize::from(class & DIGIT);
            at += 1;
        }
        if seen & ESCAPE != 0 {
            return self.escaped(start, at);
        }
        let content = self.text.get(start..at).unwrap_or_default();
        if self.is_frame(content, at + 1) {
            return at + 1;
        }
        let mut wanted = Kinds::default();
        if digits >= usize::from(DIGITS_MIN) {
            wanted = wanted.and(NUMBERS);
        }
        if seen & AT != 0 {
            wanted = wanted.with(Kind::Email);
        }
        if self.has_secret || seen & MARK != 0 {
            wanted = wanted.with(Kind::Secret);
        }
        let wanted = wanted.of_both(self.kinds);
        if !wanted.is_empty() {
            find(content, wanted, &mut self.hits);
            if !self.hits.kept.is_empty() {
                let within = self.within(at + 1);
                self.found.take(&mut self.hits, (start, within));
            }
        }
        at + 1
    }

    /// The same of one with escapes, the first of them at `escape`. Where it stands is looked for only if there is something.
    fn escaped(&mut self, start: usize, escape: usize) -> usize {
        self.meant.begin(start);
        if self.may_mean() {
            return self.decoded(start, escape);
        }
        // With an escape in it, it is not of the frame by itself.
        self.skips = false;
        self.meant.at + 1
    }

    /// Whether the string may hold something that was begun.
    fn may_mean(&mut self) -> bool {
        while self.meant.next(self.text) {
            let part = self.meant.part();
            let is_secret_near = self.kinds.has(Kind::Secret) && (self.has_secret || self.meant.is_new);
            let finds_secret = is_secret_near && self.meant.is_whole();
            let wanted = if finds_secret { self.kinds } else { self.kinds.without(Kind::Secret) };
            find_meant(part, wanted, &mut self.hits);
            let is_empty = self.hits.kept.is_empty();
            self.hits.clear();
            if !is_empty
                || self.meant.is_unclear
                || (is_secret_near && !finds_secret && secret::may_hold(part))
            {
                return true;
            }
        }
        false
    }

    /// The same, told with its places.
    fn decoded(&mut self, start: usize, escape: usize) -> usize {
        let mut decoded = self.text.get(start..escape).unwrap_or_default().to_vec();
        let end = self.decode(escape, |bytes, _at, _is_run| decoded.extend_from_slice(bytes));
        if self.is_frame(&decoded, end + 1) {
            return end + 1;
        }
        find(&decoded, self.kinds, &mut self.hits);
        if !self.hits.kept.is_empty() {
            let mut origins = Origins::of(&self.hits.kept);
            origins.step(escape - start, start, true);
            self.decode(escape, |bytes, at, is_run| origins.step(bytes.len(), at, is_run));
            origins.apply(end, &mut self.hits.kept);
            let within = self.within(end + 1);
            self.found.take(&mut self.hits, (0, within));
        }
        end + 1
    }

    /// Tells what a string means from `at` on, piece by piece: its bytes, where they stand, and whether each stands for itself. Gives
    /// the place of its quote.
    fn decode(&self, mut at: usize, mut tell: impl FnMut(&[u8], usize, bool)) -> usize {
        while let Some(rest) = self.text.get(at..).filter(|rest| !rest.is_empty()) {
            let run = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
            if run > 0 {
                tell(rest.get(..run).unwrap_or_default(), at, true);
                at += run;
                continue;
            }
            if rest.first() == Some(&b'"') {
                break;
            }
            let mut utf8 = [0; 4];
            let (character, length) = unescape(rest.get(1..).unwrap_or_default());
            tell(character.encode_utf8(&mut utf8).as_bytes(), at, false);
            at += 1 + length;
        }
        at
    }

    /// What the string is that ends before `after`.
    fn within(&self, after: usize) -> Within {
        let rest = self.text.get(after..).unwrap_or_default();
        let next = rest.iter().find(|byte| !byte.is_ascii_whitespace());
        if next == Some(&b':') { Within::Key } else { Within::String }
    }

    /// Whether a string is of the frame, or is the name of what is; `after` its end.
    fn is_frame(&mut self, content: &[u8], after: usize) -> bool {
        if !self.is_message || self.depth != 1 {
            return false;
        }
        let skips = std::mem::take(&mut self.skips);
        if self.within(after) == Within::Key {
            self.skips = FRAME.contains(&content);
            return self.skips;
        }
        skips
    }

    fn number(&mut self, start: usize) -> usize {
        let rest = self.text.get(start..).unwrap_or_default();
        let length = rest.iter().take_while(|byte| CLASS[usize::from(**byte)] & (DIGIT | PART) != 0).count();
        let number = rest.get(..length).unwrap_or_default();
        let is_negative = start.checked_sub(1).and_then(|at| self.text.get(at)) == Some(&b'-');
        let is_of_frame = std::mem::take(&mut self.skips);
        let is_bare = length >= BARE_DIGITS_MIN && number.iter().all(u8::is_ascii_digit);
        if is_bare && !is_of_frame && !is_negative && self.kinds.has_any(NUMBERS) {
            // Written as a number, only a check digit tells what it is.
            let told = [Kind::Card, Kind::NationalId].into_iter().filter(|kind| self.kinds.has(*kind));
            find(number, told.collect(), &mut self.hits);
            self.hits.retain(|hit| hit.range == (0..length));
            self.found.take(&mut self.hits, (start, Within::Number));
        }
        start + length.max(1)
    }
}

/// The character that an escape stands for, and the escape's bytes after its backslash.
fn unescape(text: &[u8]) -> (char, usize) {
    match text.first() {
        Some(b'b') => ('\u{8}', 1),
        Some(b'f') => ('\u{c}', 1),
        Some(b'n') => ('\n', 1),
        Some(b'r') => ('\r', 1),
        Some(b't') => ('\t', 1),
        Some(b'u') => {
            let unit = |from: usize| {
                let hex = std::str::from_utf8(text.get(from..from + 4)?).ok()?;
                u32::from_str_radix(hex, 16).ok()
            };
            let Some(high) = unit(1) else { return (char::REPLACEMENT_CHARACTER, 1) };
            if (0xd800..0xdc00).contains(&high)
                && text.get(5..7) == Some(b"\\u")
                && let Some(low) = unit(7).filter(|low| (0xdc00..0xe000).contains(low))
            {
                let code = 0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00);
                return (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), 11);
            }
            (char::from_u32(high).unwrap_or(char::REPLACEMENT_CHARACTER), 5)
        }
        Some(byte) => (char::from(*byte), 1),
        None => (char::REPLACEMENT_CHARACTER, 0),
    }
}

const fn classes() -> [u8; 256] {
    let mut table = [0; 256];
    let mut digit = b'0';
    while digit <= b'9' {
        table[digit as usize] = DIGIT;
        digit += 1;
    }
    let (mut at, parts) = (0, b".eE+-");
    while at < parts.len() {
        table[parts[at] as usize] = PART;
        at += 1;
    }
    table[b'"' as usize] = QUOTE;
    table[b'\\' as usize] = ESCAPE;
    table[b'@' as usize] = AT;
    table[b'\t' as usize] = MARK;
    table[0xc2] = MARK;
    table[0xe2] = MARK;
    table
}
