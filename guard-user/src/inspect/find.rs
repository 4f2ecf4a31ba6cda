//! What is found in one text, whatever surrounds it. Linear: each attempt looks a bounded number of bytes ahead.

use std::ops::Range;

use super::number::{self, Digits};
use super::{Kind, Kinds, secret};

/// Longest part of an address before and after its `@`, in bytes (RFC 5321).
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 253;
/// So many digits, separators between them, are the least that any number has.
pub(super) const DIGITS_MIN: u8 = 6;

/// A thing in a text, by its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) kind: Kind,
    pub(super) range: Range<usize>,
}

/// Adds what `text` holds, in its order and without overlaps: what says more about a place wins.
pub(super) fn find(text: &[u8], kinds: Kinds, hits: &mut Vec<Hit>) {
    let mut found = Vec::new();
    if kinds.has(Kind::Email) {
        emails(text, &mut found);
    }
    if kinds.has_any(NUMBERS) {
        numbers(text, kinds, &mut found);
    }
    if kinds.has(Kind::Secret) {
        secret::find(text, |range| found.push(Hit { kind: Kind::Secret, range }));
    }
    if found.len() > 1 {
        found.sort_by_key(|hit| (hit.range.start, rank(hit.kind), std::cmp::Reverse(hit.range.end)));
    }
    for hit in found {
        match hits.last_mut().filter(|last| last.range.end > hit.range.start) {
            None => hits.push(hit),
            // Nothing of either may stay.
            Some(last) => {
                let end = last.range.end.max(hit.range.end);
                if rank(hit.kind) < rank(last.kind) {
                    last.kind = hit.kind;
                }
                last.range.end = end;
            }
        }
    }
}

/// Kinds that are found by their digits.
pub(super) const NUMBERS: Kinds = Kinds::of(&[Kind::Phone, Kind::Card, Kind::Iban, Kind::NationalId]);

fn rank(kind: Kind) -> u8 {
    match kind {
        Kind::Secret => 0,
        Kind::Email => 1,
        Kind::Iban => 2,
        Kind::Card => 3,
        Kind::NationalId => 4,
        Kind::Phone => 5,
    }
}

fn emails(text: &[u8], found: &mut Vec<Hit>) {
    let mut free = 0;
    for at in memchr::memchr_iter(b'@', text) {
        let is_local = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || b"._%+-'".contains(&byte);
        let is_domain = |byte: u8| byte.is_ascii_alphanumeric() || byte >= 0x80 || b".-".contains(&byte);
        let before = text.get(free.max(at.saturating_sub(LOCAL_BYTES_MAX))..at).unwrap_or_default();
        let local = before.iter().rev().take_while(|byte| is_local(**byte)).count();
        let start = at - local;
        let leading = text.get(start..at).unwrap_or_default();
        let start = start + leading.iter().take_while(|byte| b".'".contains(byte)).count();
        let after = text.get(at + 1..).unwrap_or_default();
        let domain = after.iter().take(DOMAIN_BYTES_MAX).take_while(|byte| is_domain(**byte)).count();
        let domain = after.get(..domain).unwrap_or_default();
        let length = domain.len() - domain.iter().rev().take_while(|byte| b".-".contains(byte)).count();
        let domain = domain.get(..length).unwrap_or_default();
        let top = domain.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
        let is_name = top.len() >= 2 && top.len() < domain.len() && !top.iter().any(u8::is_ascii_digit)
            || top.starts_with(b"xn--") && top.len() < domain.len();
        if start < at && is_name && !domain.starts_with(b".") {
            let end = at + 1 + length;
            found.push(Hit { kind: Kind::Email, range: boundary(text, start)..end });
            free = end;
        }
    }
}

/// Where the character begins that has this byte.
fn boundary(text: &[u8], mut at: usize) -> usize {
    while at > 0 && text.get(at).is_some_and(|byte| (0x80..0xc0).contains(byte)) {
        at -= 1;
    }
    at
}

/// Everything that has digits. Each group of digits is looked at once as a beginning.
fn numbers(text: &[u8], kinds: Kinds, found: &mut Vec<Hit>) {
    let mut at = 0;
    while let Some(next) = text.get(at..).and_then(|rest| rest.iter().position(u8::is_ascii_digit)) {
        let start = at + next;
        let digits = text.get(start..).unwrap_or_default();
        let group = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
        at = start + group;
        let hit = number_at(text, start, kinds);
        if let Some(hit) = hit {
            at = at.max(hit.range.end);
            found.push(hit);
        }
    }
}

/// What begins with the group of digits at `start`, or with what stands right before it.
fn number_at(text: &[u8], start: usize, kinds: Kinds) -> Option<Hit> {
    let byte = |back: usize| start.checked_sub(back).and_then(|at| text.get(at)).copied();
    let is_free = |back: usize| byte(back).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let is_letter = |back: usize| byte(back).is_some_and(|byte| byte.is_ascii_alphabetic());
    let hit = |kind: Kind, from: usize, length: Option<usize>| {
        let length = length.filter(|_| kinds.has(kind))?;
        Some(Hit { kind, range: from..from + length })
    };
    let rest = |back: usize| text.get(start - back.min(start)..).unwrap_or_default();
    if is_letter(1) && is_letter(2) && is_free(3) {
        return hit(Kind::Iban, start - 2, number::iban(rest(2)))
            .or_else(|| hit(Kind::NationalId, start - 2, number::nino(rest(2))));
    }
    // `AB 12 34 56 C`
    if byte(1) == Some(b' ') && is_letter(2) && is_letter(3) && is_free(4) {
        let nino = hit(Kind::NationalId, start.saturating_sub(3), number::nino(rest(3)));
        if nino.is_some() {
            return nino;
        }
    }
    if is_letter(1) && is_free(2) {
        return hit(Kind::NationalId, start - 1, number::nie(rest(1)));
    }
    let digits = Digits::of(rest(0));
    if byte(1) == Some(b'+') || (byte(1) == Some(b'(') && byte(2) == Some(b'+')) {
        let back = if byte(1) == Some(b'+') { 1 } else { 2 };
        return hit(Kind::Phone, start - back, number::e164(rest(0)).map(|length| length + back));
    }
    if !is_free(1) {
        return None;
    }
    hit(Kind::Card, start, digits.card())
        .or_else(|| hit(Kind::NationalId, start, number::national(rest(0), &digits)))
        .or_else(|| {
            let bracket = byte(1) == Some(b'(');
            let length = number::national_phone(rest(0), bracket);
            hit(Kind::Phone, start - usize::from(bracket), length.map(|n| n + usize::from(bracket)))
        })
}
