//! What the strings and numbers of a JSON text hold: as they mean, however they are escaped.

use super::find::{DIGITS_MIN, NUMBERS, find};
use super::found::{Found, Hits, Origins};
use super::{Kind, Kinds, secret};

/// Members of a message that say what it is about, not what it says: the client's own id among them.
const FRAME: [&[u8]; 3] = [b"id", b"jsonrpc", b"method"];
/// Digits of the shortest number that is told without its writing.
const BARE_DIGITS_MIN: usize = 11;
const QUOTE: u8 = 1;
const ESCAPE: u8 = 2;
const AT: u8 = 4;
/// What ends a run of digits with separators.
static CLASS: [u8; 256] = classes();
static KEEPS: [u8; 256] = keeps();
static IS_DIGIT: [u8; 256] = digits();

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
    /// In a string without escapes.
    has_secret: bool,
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
        let (mut at, mut seen, mut run, mut most) = (start, 0_u8, 0_u8, 0_u8);
        let rest = self.text.get(start..).unwrap_or_default();
        for byte in rest {
            let index = usize::from(*byte);
            let class = CLASS[index];
            if class & (QUOTE | ESCAPE) != 0 {
                seen |= class;
                break;
            }
            seen |= class;
            run = (run & KEEPS[index]).saturating_add(IS_DIGIT[index]);
            most = most.max(run);
            at += 1;
        }
        if seen & ESCAPE != 0 {
            return self.escaped(start, at);
        }
        let content = self.text.get(start..at).unwrap_or_default();
        let within = self.within(at + 1);
        if self.is_frame(content, within) {
            return at + 1;
        }
        let mut wanted = Kinds::default();
        for kind in self.kinds.each() {
            let may_be = match kind {
                Kind::Email => seen & AT != 0,
                Kind::Secret => self.has_secret,
                Kind::Phone | Kind::Card | Kind::Iban | Kind::NationalId => most >= DIGITS_MIN,
            };
            if may_be {
                wanted = wanted.with(kind);
            }
        }
        if !wanted.is_empty() {
            find(content, wanted, &mut self.hits);
            self.found.take(&mut self.hits, (start, within));
        }
        at + 1
    }

    /// The same of one with escapes, the first of them at `escape`.
    fn escaped(&mut self, start: usize, escape: usize) -> usize {
        let mut decoded = self.text.get(start..escape).unwrap_or_default().to_vec();
        let end = self.decode(escape, |bytes, _at, _is_run| decoded.extend_from_slice(bytes));
        let within = self.within(end + 1);
        if self.is_frame(&decoded, within) {
            return end + 1;
        }
        find(&decoded, self.kinds, &mut self.hits);
        if !self.hits.kept.is_empty() {
            let mut origins = Origins::of(&self.hits.kept);
            origins.step(escape - start, start, true);
            self.decode(escape, |bytes, at, is_run| origins.step(bytes.len(), at, is_run));
            origins.apply(end, &mut self.hits.kept);
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

    /// Whether a string is of the frame, or is the name of what is.
    fn is_frame(&mut self, content: &[u8], within: Within) -> bool {
        let skips = std::mem::take(&mut self.skips);
        if within == Within::Key {
            self.skips = self.is_message && self.depth == 1 && FRAME.contains(&content);
            return self.skips;
        }
        skips
    }

    fn number(&mut self, start: usize) -> usize {
        let rest = self.text.get(start..).unwrap_or_default();
        let is_part = |byte: &u8| byte.is_ascii_digit() || b".eE+-".contains(byte);
        let length = rest.iter().take_while(|byte| is_part(byte)).count();
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
    table[b'"' as usize] = QUOTE;
    table[b'\\' as usize] = ESCAPE;
    table[b'@' as usize] = AT;
    table
}

const fn keeps() -> [u8; 256] {
    // The last are of other spaces and hyphens.
    let kept = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ -.()/+\t\xc2\xa0\xe2\x80\x87\x89\x90\x91\xaf";
    let mut table = [0; 256];
    let mut at = 0;
    while at < kept.len() {
        table[kept[at] as usize] = u8::MAX;
        at += 1;
    }
    table
}

const fn digits() -> [u8; 256] {
    let mut table = [0; 256];
    let mut at = b'0' as usize;
    while at <= b'9' as usize {
        table[at] = 1;
        at += 1;
    }
    table
}
