//! A text as people mean it: JSON that stands in it as text is unescaped, and spaces are spaces.

use std::borrow::Cow;

use super::found::{Hit, Origins};

/// A text in which words and groups of digits are told apart by ASCII alone.
pub(super) struct Meaning<'t> {
    pub(super) text: Cow<'t, [u8]>,
    original: &'t [u8],
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

/// What may not stand for itself.
static MARKS: [bool; 256] = {
    let mut table = [false; 256];
    table[b'\\' as usize] = true;
    table[b'\t' as usize] = true;
    table[0xc2] = true;
    table[0xe2] = true;
    table
};

impl<'t> Meaning<'t> {
    pub(super) fn of(original: &'t [u8]) -> Self {
        let has_alike = || {
            let mut marks = memchr::memchr2_iter(0xc2, 0xe2, original);
            marks.any(|at| original.get(at..).is_some_and(|rest| alike(rest).is_some()))
        };
        let is_plain = memchr::memchr2(b'\\', b'\t', original).is_none() && !has_alike();
        if is_plain {
            return Self { text: Cow::Borrowed(original), original };
        }
        let mut meant = Vec::with_capacity(original.len());
        walk(original, |bytes, _at, _is_run| meant.extend_from_slice(bytes));
        Self { text: Cow::Owned(meant), original }
    }

    /// Puts the bytes of the original in the place of those that mean them.
    pub(super) fn put_back(&self, hits: &mut [Hit]) {
        if hits.is_empty() || matches!(self.text, Cow::Borrowed(_)) {
            return;
        }
        let mut origins = Origins::of(hits);
        walk(self.original, |bytes, at, is_run| origins.step(bytes.len(), at, is_run));
        origins.apply(self.original.len(), hits);
    }
}

/// What stands for a space or a hyphen at the beginning of `text`: its bytes, and what it stands for.
pub(super) fn alike(text: &[u8]) -> Option<(usize, u8)> {
    let found = ALIKE.iter().find(|(alike, _)| text.starts_with(alike));
    found.map(|(alike, plain)| (alike.len(), *plain))
}

/// Tells what `text` means, piece by piece: its bytes, where they stand, and whether each stands for itself.
fn walk(text: &[u8], mut tell: impl FnMut(&[u8], usize, bool)) {
    let (mut begun, mut at) = (0, 0);
    loop {
        let rest = text.get(at..).unwrap_or_default();
        let Some(next) = rest.iter().position(|byte| MARKS[usize::from(*byte)]) else { break };
        at += next;
        let rest = text.get(at..).unwrap_or_default();
        let mut utf8 = [0; 4];
        let (bytes, length): (&[u8], usize) = match rest.first() {
            Some(b'\\') => {
                let (character, length) = escape(rest);
                let bytes = character.encode_utf8(&mut utf8).as_bytes();
                let plain = ALIKE.iter().find(|(alike, _)| *alike == bytes).map(|(_, plain)| plain);
                (plain.map_or(bytes, std::slice::from_ref), length)
            }
            Some(b'\t') => (b" ", 1),
            _ => {
                let Some((alike, plain)) = ALIKE.iter().find(|(alike, _)| rest.starts_with(alike)) else {
                    at += 1;
                    continue;
                };
                (std::slice::from_ref(plain), alike.len())
            }
        };
        if begun < at {
            tell(text.get(begun..at).unwrap_or_default(), begun, true);
        }
        tell(bytes, at, false);
        at += length;
        begun = at;
    }
    if begun < text.len() {
        tell(text.get(begun..).unwrap_or_default(), begun, true);
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
        Some(b'u') => unicode(after, slashes).unwrap_or(('\\', slashes)),
        _ => ('\\', slashes),
    }
}

/// `u` after so many backslashes, and four digits; also two of them that are one character. With the bytes of all, backslashes included.
pub(super) fn unicode(after: &[u8], slashes: usize) -> Option<(char, usize)> {
    let high = unit(after)?;
    let low = after.get(5..).and_then(|next| {
        let (same, next) = next.split_at_checked(slashes)?;
        let is_pair = (0xd800..0xdc00).contains(&high) && same.iter().all(|byte| *byte == b'\\');
        unit(next).filter(|low| is_pair && (0xdc00..0xe000).contains(low))
    });
    let (code, length) = match low {
        Some(low) => (0x1_0000 + ((high - 0xd800) << 10) + (low - 0xdc00), 2 * (slashes + 5)),
        None => (high, slashes + 5),
    };
    Some((char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length))
}

/// Of `u` and four hex digits.
fn unit(text: &[u8]) -> Option<u32> {
    let hex = text.strip_prefix(b"u")?.get(..4).filter(|hex| hex.iter().all(u8::is_ascii_hexdigit))?;
    u32::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()
}
