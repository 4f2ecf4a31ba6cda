//! A text as people mean it: JSON that stands in it as text is unescaped, and spaces are spaces.

use std::borrow::Cow;
use std::ops::Range;

/// A text in which words and groups of digits are told apart by ASCII alone.
pub(super) struct Meaning<'t> {
    pub(super) text: Cow<'t, [u8]>,
    /// Where each byte of it begins in the original, and where that ends. Empty: it is the original.
    from: Vec<usize>,
}

/// Spaces that stand within numbers (no-break, figure, thin, narrow no-break) and hyphens, in UTF-8.
const ALIKE: [(&[u8], u8); 6] = [
    ("\u{a0}".as_bytes(), b' '),
    ("\u{2007}".as_bytes(), b' '),
    ("\u{2009}".as_bytes(), b' '),
    ("\u{202f}".as_bytes(), b' '),
    ("\u{2010}".as_bytes(), b'-'),
    ("\u{2011}".as_bytes(), b'-'),
];

impl<'t> Meaning<'t> {
    pub(super) fn of(text: &'t [u8]) -> Self {
        let is_plain =
            memchr::memchr2(b'\\', b'\t', text).is_none() && memchr::memchr2(0xc2, 0xe2, text).is_none();
        if is_plain {
            return Self { text: Cow::Borrowed(text), from: Vec::new() };
        }
        let (mut meant, mut from) = (Vec::with_capacity(text.len()), Vec::with_capacity(text.len() + 1));
        let mut at = 0;
        while let Some(byte) = text.get(at) {
            let before = at;
            let rest = text.get(at..).unwrap_or_default();
            match byte {
                b'\\' => {
                    let mut utf8 = [0; 4];
                    let (character, length) = escape(rest);
                    meant.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
                    at += length;
                }
                b'\t' => {
                    meant.push(b' ');
                    at += 1;
                }
                _ => {
                    meant.push(*byte);
                    at += 1;
                }
            }
            from.resize(meant.len(), before);
            let is_wide = meant.last().is_some_and(|byte| *byte >= 0x80);
            for (alike, plain) in ALIKE.into_iter().filter(|_| is_wide) {
                if meant.ends_with(alike) {
                    meant.truncate(meant.len() - alike.len());
                    meant.push(plain);
                    from.truncate(meant.len());
                }
            }
        }
        from.push(text.len());
        Self { text: Cow::Owned(meant), from }
    }

    /// The bytes of the original that mean these.
    pub(super) fn original(&self, range: &Range<usize>) -> Range<usize> {
        let at = |at: usize| self.from.get(at).copied().unwrap_or(at);
        at(range.start)..at(range.end)
    }
}

/// What an escape means, and its bytes. JSON within JSON within JSON doubles the backslashes each time, so they are taken together.
/// What is no escape is a backslash.
fn escape(text: &[u8]) -> (char, usize) {
    let slashes = text.iter().take_while(|byte| **byte == b'\\').count();
    let after = text.get(slashes..).unwrap_or_default();
    let one = |character: char| (character, slashes + 1);
    match after.first() {
        Some(b'b') => one('\u{8}'),
        Some(b'f') => one('\u{c}'),
        Some(b'n') => one('\n'),
        Some(b'r') => one('\r'),
        Some(b't') => one(' '),
        Some(b'"') => one('"'),
        Some(b'/') => one('/'),
        Some(b'u') => {
            let Some(high) = unit(after) else { return ('\\', slashes) };
            let low = after.get(5..).and_then(|next| {
                let (same, next) = next.split_at_checked(slashes)?;
                let is_pair = (0xd800..0xdc00).contains(&high) && same.iter().all(|byte| *byte == b'\\');
                unit(next).filter(|low| is_pair && (0xdc00..0xe000).contains(low))
            });
            let (code, length) = match low {
                Some(low) => (0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00), 2 * (slashes + 5)),
                None => (high, slashes + 5),
            };
            (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length)
        }
        _ => ('\\', slashes),
    }
}

/// Of `u` and four hex digits.
fn unit(text: &[u8]) -> Option<u32> {
    let hex = text.strip_prefix(b"u")?.get(..4).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}
