//! Numbers that tell by their form and check digits what they are. Each takes what a text goes on with, and gives the bytes of it
//! that are the number; none goes on in a longer one.

/// The most digits that are looked at.
const DIGITS_MAX: usize = 19;
/// Of these, groups between separators.
const GROUPS_MAX: usize = 8;

/// Digits in groups with one separator between them, from a text's beginning.
pub(super) struct Digits {
    values: [u8; DIGITS_MAX],
    /// After each group: how many digits there are, and bytes of the text.
    ends: [(usize, usize); GROUPS_MAX],
    groups: usize,
    /// The last group is cut off.
    is_longer: bool,
}

impl Digits {
    pub(super) fn of(text: &[u8]) -> Self {
        let mut all =
            Self { values: [0; DIGITS_MAX], ends: [(0, 0); GROUPS_MAX], groups: 0, is_longer: false };
        let (mut count, mut at) = (0, 0);
        loop {
            while let Some(digit) = text.get(at).filter(|byte| byte.is_ascii_digit()) {
                let Some(value) = all.values.get_mut(count) else {
                    all.is_longer = true;
                    return all;
                };
                *value = digit - b'0';
                count += 1;
                at += 1;
            }
            if let Some(end) = all.ends.get_mut(all.groups) {
                *end = (count, at);
                all.groups += 1;
            }
            let is_separated = matches!(text.get(at), Some(b' ' | b'-' | b'.'));
            if all.groups == GROUPS_MAX || !is_separated || !text.get(at + 1).is_some_and(u8::is_ascii_digit)
            {
                return all;
            }
            at += 1;
        }
    }

    /// So many digits, and the bytes that they take, for each end of a group; what follows is no letter.
    fn each(&self) -> impl DoubleEndedIterator<Item = (&[u8], usize)> {
        let ends = self.ends.get(..self.groups).unwrap_or_default().iter();
        ends.filter_map(|(count, bytes)| Some((self.values.get(..*count)?, *bytes)))
    }

    /// Whether each group up to this many digits has three or more: lists of small numbers have other sums by chance.
    fn is_grouped(&self, count: usize) -> bool {
        let ends = self.ends.get(..self.groups).unwrap_or_default();
        let ends: Vec<_> = ends.iter().map(|(end, _)| *end).take_while(|end| *end <= count).collect();
        ends.iter().zip(std::iter::once(&0).chain(&ends)).all(|(end, before)| end - before >= 3)
    }

    /// A payment card: 13 to 19 digits of a known issuer, with their check digit (ISO/IEC 7812).
    pub(super) fn card(&self) -> Option<usize> {
        let fits =
            |(digits, _): &(&[u8], usize)| is_issued(digits) && self.is_grouped(digits.len()) && luhn(digits);
        self.each().rev().find(fits).map(|(_, bytes)| bytes)
    }

    /// The bytes of exactly so many digits that end here.
    fn exactly(&self, count: usize) -> Option<(&[u8], usize)> {
        let mut each = self.each();
        each.find(|(digits, _)| digits.len() == count)
    }
}

/// Whether what stands after `bytes` of the text goes on in the number.
fn ends_at(text: &[u8], bytes: usize) -> bool {
    text.get(bytes).is_none_or(|byte| !byte.is_ascii_alphanumeric())
}

fn is_issued(digits: &[u8]) -> bool {
    let number =
        |count: usize| digits.iter().take(count).fold(0_u32, |sum, digit| sum * 10 + u32::from(*digit));
    let length = digits.len();
    match (number(1), number(2), number(4)) {
        (4, ..) => matches!(length, 13 | 16 | 18 | 19),
        (_, 51..=55, _) | (_, _, 2221..=2720) => length == 16,
        (_, 34 | 37, _) => length == 15,
        (_, 30 | 36 | 38 | 39, _) => (14..=19).contains(&length),
        (_, 35 | 50 | 56..=69 | 81, _) => (16..=19).contains(&length),
        _ => false,
    }
}

pub(super) fn luhn(digits: &[u8]) -> bool {
    let doubled = |digit: u8| if digit > 4 { digit * 2 - 9 } else { digit * 2 };
    let each = digits.iter().rev().enumerate();
    let sum: u32 =
        each.map(|(at, digit)| u32::from(if at % 2 == 1 { doubled(*digit) } else { *digit })).sum();
    sum.is_multiple_of(10)
}

/// `+49 (0) 30 1234-567`, from the first digit on: 8 to 15 digits (E.164).
pub(super) fn e164(text: &[u8]) -> Option<usize> {
    if text.first() == Some(&b'0') {
        return None;
    }
    phone(text, 8..=15)
}

/// Digits with up to two of ` ().-/` between them.
fn phone(text: &[u8], wanted: std::ops::RangeInclusive<usize>) -> Option<usize> {
    let (mut count, mut end, mut at, mut between) = (0, 0, 0, 0);
    // Where it may end if something else with digits follows.
    let mut first = None;
    while let Some(byte) = text.get(at) {
        match byte {
            b'0'..=b'9' => {
                count += 1;
                between = 0;
                end = at + 1;
            }
            b' ' | b'(' | b')' | b'.' | b'-' | b'/' if between < 3 => {
                if between == 0 && wanted.contains(&count) {
                    first = first.or(Some(end));
                }
                between += 1;
            }
            _ => break,
        }
        if count > *wanted.end() {
            return first;
        }
        at += 1;
    }
    (wanted.contains(&count) && ends_at(text, end)).then_some(end)
}

/// `0049 30 1234567`, `030-1234567` is too much like other numbers; `(555) 123-4567`, `555-123-4567`, `555.123.4567`.
pub(super) fn national_phone(text: &[u8], bracket: bool) -> Option<usize> {
    if let Some(rest) = text.strip_prefix(b"00")
        && !bracket
        && !rest.starts_with(b"0")
        && rest.iter().take(16).any(|byte| b" -/(".contains(byte))
    {
        return e164(rest).map(|bytes| bytes + 2);
    }
    let (area, rest) = text.split_at_checked(3)?;
    let rest = if bracket {
        let rest = rest.strip_prefix(b")")?;
        rest.strip_prefix(b" ").unwrap_or(rest)
    } else {
        let separator = rest.first().filter(|byte| b"-.".contains(byte))?;
        if rest.get(4) != Some(separator) {
            return None;
        }
        rest.get(1..)?
    };
    let (line, after) = rest.split_at_checked(8)?;
    let is_digits = |range: std::ops::Range<usize>| {
        line.get(range).is_some_and(|part| part.iter().all(u8::is_ascii_digit))
    };
    let fits = area.iter().all(u8::is_ascii_digit)
        && matches!(area.first(), Some(b'2'..=b'9'))
        && matches!(line.first(), Some(b'2'..=b'9'))
        && is_digits(0..3)
        && is_digits(4..8)
        && line.get(3).is_some_and(|byte| b"-. ".contains(byte))
        && !after.first().is_some_and(u8::is_ascii_alphanumeric);
    fits.then(|| text.len() - after.len())
}

/// The longest.
const IBAN_MAX: usize = 34;
/// Lengths by country, 0 where there is none.
static IBAN_LENGTHS: [u8; 26 * 26] = {
    let (mut table, mut at) = ([0; 26 * 26], 0);
    while at < IBANS.len() {
        let (country, length) = IBANS[at];
        table[country_index(*country)] = length;
        at += 1;
    }
    table
};

/// Of two letters; beyond the table for anything else.
const fn country_index([first, second]: [u8; 2]) -> usize {
    if !first.is_ascii_uppercase() || !second.is_ascii_uppercase() {
        return usize::MAX;
    }
    (first - b'A') as usize * 26 + (second - b'A') as usize
}

/// Lengths by country, as the registry has them.
const IBANS: &[(&[u8; 2], u8)] = &[
    (b"AD", 24),
    (b"AE", 23),
    (b"AL", 28),
    (b"AT", 20),
    (b"AZ", 28),
    (b"BA", 20),
    (b"BE", 16),
    (b"BG", 22),
    (b"BH", 22),
    (b"BR", 29),
    (b"BY", 28),
    (b"CH", 21),
    (b"CR", 22),
    (b"CY", 28),
    (b"CZ", 24),
    (b"DE", 22),
    (b"DK", 18),
    (b"DO", 28),
    (b"EE", 20),
    (b"EG", 29),
    (b"ES", 24),
    (b"FI", 18),
    (b"FO", 18),
    (b"FR", 27),
    (b"GB", 22),
    (b"GE", 22),
    (b"GI", 23),
    (b"GL", 18),
    (b"GR", 27),
    (b"GT", 28),
    (b"HR", 21),
    (b"HU", 28),
    (b"IE", 22),
    (b"IL", 23),
    (b"IQ", 23),
    (b"IS", 26),
    (b"IT", 27),
    (b"JO", 30),
    (b"KW", 30),
    (b"KZ", 20),
    (b"LB", 28),
    (b"LC", 32),
    (b"LI", 21),
    (b"LT", 20),
    (b"LU", 20),
    (b"LV", 21),
    (b"LY", 25),
    (b"MC", 27),
    (b"MD", 24),
    (b"ME", 22),
    (b"MK", 19),
    (b"MR", 27),
    (b"MT", 31),
    (b"MU", 30),
    (b"NL", 18),
    (b"NO", 15),
    (b"PK", 24),
    (b"PL", 28),
    (b"PS", 29),
    (b"PT", 25),
    (b"QA", 29),
    (b"RO", 24),
    (b"RS", 22),
    (b"SA", 24),
    (b"SC", 31),
    (b"SD", 18),
    (b"SE", 24),
    (b"SI", 19),
    (b"SK", 24),
    (b"SM", 27),
    (b"ST", 25),
    (b"SV", 28),
    (b"TL", 23),
    (b"TN", 24),
    (b"TR", 26),
    (b"UA", 29),
    (b"VA", 22),
    (b"VG", 24),
    (b"XK", 20),
];

/// An account number with its check digits (ISO 13616), also in groups.
pub(super) fn iban(text: &[u8]) -> Option<usize> {
    let country = [text.first()?.to_ascii_uppercase(), text.get(1)?.to_ascii_uppercase()];
    let length = usize::from(*IBAN_LENGTHS.get(country_index(country))?);
    let mut letters = [0; IBAN_MAX];
    let letters = letters.get_mut(..length).filter(|letters| !letters.is_empty())?;
    let (mut count, mut at) = (0, 0);
    while let Some(letter) = letters.get_mut(count) {
        match text.get(at)? {
            byte if byte.is_ascii_alphanumeric() => {
                *letter = byte.to_ascii_uppercase();
                count += 1;
            }
            b' ' | b'-' if text.get(at + 1).is_some_and(u8::is_ascii_alphanumeric) => {}
            _ => return None,
        }
        at += 1;
    }
    let (head, body) = letters.split_at_checked(4)?;
    let remainder = body.iter().chain(head).fold(0_u32, |sum, byte| match byte {
        b'0'..=b'9' => (sum * 10 + u32::from(byte - b'0')) % 97,
        byte => (sum * 100 + u32::from(byte - b'A') + 10) % 97,
    });
    (remainder == 1 && ends_at(text, at)).then_some(at)
}

/// National ids that begin with a digit; `digits` are there if they are eleven or more.
pub(super) fn national(text: &[u8], digits: Option<&Digits>) -> Option<usize> {
    let ended = |found: Option<usize>| found.filter(|bytes| ends_at(text, *bytes));
    ended(ssn(text)).or_else(|| ended(dni(text))).or_else(|| ended(nir(text))).or_else(|| {
        let (eleven, bytes) = digits?.exactly(11)?;
        let is_contiguous = bytes == 11;
        ended((is_steuer_id(eleven) || (is_contiguous && is_pesel(eleven))).then_some(bytes))
    })
}

/// `078-05-1120` (US social security number): it has no check digit, so its hyphens tell it.
fn ssn(text: &[u8]) -> Option<usize> {
    let form = text.get(..11)?;
    let (area, rest) = form.split_at_checked(3)?;
    let (group, serial) = (rest.get(1..3)?, rest.get(4..8)?);
    let is_form = [area, group, serial].into_iter().flatten().all(u8::is_ascii_digit)
        && rest.first() == Some(&b'-')
        && rest.get(3) == Some(&b'-');
    let is_given =
        area != b"000" && area != b"666" && !area.starts_with(b"9") && group != b"00" && serial != b"0000";
    (is_form && is_given).then_some(11)
}

/// Spain: eight digits and the letter that they make.
fn dni(text: &[u8]) -> Option<usize> {
    let digits = text.get(..8).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let hyphen = usize::from(text.get(8) == Some(&b'-'));
    let letter = text.get(8 + hyphen)?;
    (spanish(digits.iter().map(|byte| byte - b'0'))? == letter.to_ascii_uppercase()).then_some(9 + hyphen)
}

/// Spain, of foreigners: `X1234567L`.
pub(super) fn nie(text: &[u8]) -> Option<usize> {
    let first = match text.first()?.to_ascii_uppercase() {
        b'X' => 0,
        b'Y' => 1,
        b'Z' => 2,
        _ => return None,
    };
    let digits = text.get(1..8).filter(|digits| digits.iter().all(u8::is_ascii_digit))?;
    let letter = spanish(std::iter::once(first).chain(digits.iter().map(|byte| byte - b'0')))?;
    (text.get(8)?.to_ascii_uppercase() == letter && ends_at(text, 9)).then_some(9)
}

fn spanish(digits: impl Iterator<Item = u8>) -> Option<u8> {
    let number = digits.fold(0_usize, |sum, digit| sum * 10 + usize::from(digit));
    b"TRWAGMYFPDXBNJZSQVHLCKE".get(number % 23).copied()
}

/// France (NIR): sex, year, month, place and order, and a key of two digits.
fn nir(text: &[u8]) -> Option<usize> {
    if !matches!(text.first(), Some(b'1' | b'2')) {
        return None;
    }
    let (mut form, mut at) = ([0_u8; 15], 0);
    for place in &mut form {
        if text.get(at) == Some(&b' ') {
            at += 1;
        }
        *place = text.get(at)?.to_ascii_uppercase();
        at += 1;
    }
    let value = |range: std::ops::Range<usize>| -> Option<u64> {
        form.get(range)?.iter().try_fold(0, |sum: u64, byte| match byte {
            b'0'..=b'9' => Some(sum * 10 + u64::from(byte - b'0')),
            _ => None,
        })
    };
    // Corsica.
    let (place, less) = match form.get(5..7)? {
        b"2A" => (19, 0),
        b"2B" => (18, 0),
        _ => (value(5..7)?, 0),
    };
    let number = (value(0..5)? * 100 + place - less) * 1_000_000 + value(7..13)?;
    let month = value(3..5)?;
    let is_month = matches!(month, 1..=12 | 20 | 30..=42 | 50..=99);
    (is_month && 97 - number % 97 == value(13..15)?).then_some(at)
}

/// Germany: eleven digits, one of which stands twice or three times among the first ten (ISO 7064 mod 11, 10).
fn is_steuer_id(digits: &[u8]) -> bool {
    let Some((check, first)) = digits.split_last() else { return false };
    let mut counts = [0_u8; 10];
    for digit in first {
        if let Some(count) = counts.get_mut(usize::from(*digit)) {
            *count += 1;
        }
    }
    let repeated = counts.iter().filter(|count| **count > 1).count();
    let most = counts.iter().max().copied().unwrap_or_default();
    let product = first.iter().fold(10_u32, |product, digit| {
        let sum = (u32::from(*digit) + product) % 10;
        (if sum == 0 { 10 } else { sum }) * 2 % 11
    });
    let wanted = match 11 - product {
        10 => 0,
        wanted => wanted,
    };
    first.first() != Some(&0) && repeated == 1 && most <= 3 && wanted == u32::from(*check)
}

/// Poland: a date of birth with its century, and a check digit.
fn is_pesel(digits: &[u8]) -> bool {
    let [_, _, m1, m2, d1, d2, .., check] = digits else { return false };
    let (month, day) = (m1 % 2 * 10 + m2, d1 * 10 + d2);
    let weights = [1_u32, 3, 7, 9, 1, 3, 7, 9, 1, 3];
    let sum: u32 = digits.iter().zip(weights).map(|(digit, weight)| u32::from(*digit) * weight).sum();
    (1..=12).contains(&month) && (1..=31).contains(&day) && (10 - sum % 10) % 10 == u32::from(*check)
}

/// United Kingdom: two letters, six digits, a letter; also in pairs.
pub(super) fn nino(text: &[u8]) -> Option<usize> {
    let (mut form, mut at) = ([0_u8; 9], 0);
    for place in &mut form {
        if at > 0 && text.get(at) == Some(&b' ') {
            at += 1;
        }
        *place = text.get(at)?.to_ascii_uppercase();
        at += 1;
    }
    let [one, two, digits @ .., last] = form;
    let is_prefix = one.is_ascii_uppercase()
        && two.is_ascii_uppercase()
        && !b"DFIQUV".contains(&one)
        && !b"DFIOQUV".contains(&two)
        && ![b"BG", b"GB", b"NK", b"KN", b"TN", b"NT", b"ZZ"].contains(&&[one, two]);
    let fits = is_prefix && digits.iter().all(u8::is_ascii_digit) && (b'A'..=b'D').contains(&last);
    (fits && ends_at(text, at)).then_some(at)
}
