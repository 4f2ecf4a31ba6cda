//! What is found in one text, whatever surrounds it. Linear: each attempt looks a bounded number of bytes ahead.

use std::ops::Range;

use super::found::{Hit, Hits};
use super::meaning::Meaning;
use super::number::{self, Digits};
use super::starts::{Start, Starts};
use super::{Kind, Kinds, secret};

/// Longest part of an address before and after its `@`, in bytes (RFC 5321).
const LOCAL_BYTES_MAX: usize = 64;
const DOMAIN_BYTES_MAX: usize = 253;
/// So many digits, separators between them, are the least that any number has.
pub(super) const DIGITS_MIN: u8 = 6;

/// Adds what `text` holds, in its order. Each kind is found as if it alone were looked for, so hits of two kinds may overlap: a rule
/// that looks for one hides nothing from a rule that looks for another.
pub(super) fn find(text: &[u8], kinds: Kinds, hits: &mut Hits) {
    let meaning = Meaning::of(text);
    find_meant(&meaning.text, kinds, hits);
    meaning.put_back(&mut hits.kept);
    hits.kept.sort_by_key(|hit| (hit.range.start, hit.kind));
}

/// The same of a text that stands for itself; not in its order.
pub(super) fn find_meant(text: &[u8], kinds: Kinds, hits: &mut Hits) {
    let mut tell = |kind: Kind, range: Range<usize>| {
        let last = last_digits(text.get(range.clone()).unwrap_or_default());
        hits.tell(Hit { kind, range, last });
    };
    if kinds.has(Kind::Email) {
        emails(text, &mut tell);
    }
    if kinds.has_any(NUMBERS) {
        numbers(text, kinds, &mut tell);
    }
    if kinds.has(Kind::Secret) {
        secret::find(text, |range| tell(Kind::Secret, range));
    }
}

/// Kinds that are found by their digits.
pub(super) const NUMBERS: Kinds = Kinds::of(&[Kind::Phone, Kind::Card, Kind::Iban, Kind::NationalId]);

pub(super) fn emails(text: &[u8], tell: &mut impl FnMut(Kind, Range<usize>)) {
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
            let rest = text.get(end..).unwrap_or_default();
            free = end + rest.iter().take_while(|byte| (0x80..0xc0).contains(*byte)).count();
            tell(Kind::Email, boundary(text, start)..free);
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
fn numbers(text: &[u8], kinds: Kinds, tell: &mut impl FnMut(Kind, Range<usize>)) {
    // Behind the last account number: its groups are nothing by themselves, whether it is looked for or not.
    let mut at = 0;
    let mut numbers = Numbers { text, kinds, free: [0; Kind::ALL.len()], tell };
    for start in Starts::of(text) {
        if start.at >= at {
            at = numbers.at(start).unwrap_or(at);
        }
    }
}

struct Numbers<'t, T> {
    text: &'t [u8],
    kinds: Kinds,
    /// Behind the last one of each kind.
    free: [usize; Kind::ALL.len()],
    tell: T,
}

impl<T: FnMut(Kind, Range<usize>)> Numbers<'_, T> {
    /// Tries what may begin with this group of digits, or a few bytes before it. Tells where an account number ends.
    fn at(&mut self, group: Start) -> Option<usize> {
        let (text, start) = (self.text, group.at);
        let byte = |back: usize| start.checked_sub(back).and_then(|at| text.get(at)).copied();
        let is_free = |back: usize| byte(back).is_none_or(|byte| !byte.is_ascii_alphanumeric());
        let is_letter = |back: usize| byte(back).is_some_and(|byte| byte.is_ascii_alphabetic());
        if is_letter(1) {
            if !is_letter(2) {
                self.look_for(Kind::NationalId, start.checked_sub(1)?, number::nie);
                return None;
            }
            let from = start.checked_sub(2)?;
            let iban = number::iban(text.get(from..)?);
            self.look_for(Kind::Iban, from, |_| iban);
            self.look_for(Kind::NationalId, from, number::nino);
            return iban.map(|length| from + length);
        }
        let rest = text.get(start..)?;
        // `AB 12 34 56 C`
        if group.count >= 6 && byte(1) == Some(b' ') && is_letter(2) && is_letter(3) && is_free(4) {
            self.look_for(Kind::NationalId, start.checked_sub(3)?, number::nino);
        }
        let bracket = byte(1) == Some(b'(');
        if byte(1) == Some(b'+') || (bracket && byte(2) == Some(b'+')) {
            if group.count >= 8 {
                self.signed(start, if bracket { 2 } else { 1 });
            }
            return None;
        }
        if group.may_be_free(rest) {
            let digits = group.is_long().then(|| Digits::of(rest));
            self.look_for(Kind::Card, start, |_| digits.as_ref()?.card());
            self.look_for(Kind::NationalId, start, |text| number::national(text, digits.as_ref()));
            let back = usize::from(bracket);
            let phone =
                |text: &[u8]| number::national_phone(text.get(back..)?, bracket).map(|length| length + back);
            self.look_for(Kind::Phone, start - back, phone);
        }
        None
    }

    /// What has a plus so many bytes before its first digit.
    fn signed(&mut self, start: usize, back: usize) {
        let phone = |text: &[u8]| number::e164(text.get(back..)?).map(|length| length + back);
        self.look_for(Kind::Phone, start.saturating_sub(back), phone);
        // A sign before a card makes no phone number of it.
        let is_more = |text: &[u8], card: usize| number::e164(text).is_none_or(|phone| phone < card);
        self.look_for(Kind::Card, start, |text| Digits::of(text).card().filter(|card| is_more(text, *card)));
    }

    fn look_for(&mut self, kind: Kind, from: usize, length: impl Fn(&[u8]) -> Option<usize>) {
        let Some(free) = self.free.get_mut(kind.index()).filter(|free| **free <= from) else { return };
        if self.kinds.has(kind)
            && let Some(length) = length(self.text.get(from..).unwrap_or_default())
        {
            *free = from + length;
            (self.tell)(kind, from..*free);
        }
    }
}

fn last_digits(text: &[u8]) -> [u8; 4] {
    let mut last = [b'*'; 4];
    let digits = text.iter().rev().filter(|byte| byte.is_ascii_digit());
    last.iter_mut().rev().zip(digits).for_each(|(place, digit)| *place = *digit);
    last
}
