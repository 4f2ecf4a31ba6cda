//! The same, looked for the slow way: every string as JSON's reader gives it, every group of digits as a beginning.

use std::ops::Range;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::find::emails;
use super::meaning::Meaning;
use super::number::{self, Digits};
use super::{Kind, Kinds, look, secret};

type Tried<'d> = &'d dyn Fn(&[u8]) -> Option<usize>;

/// What the strings and names of a value hold: kinds and texts as they mean, string by string.
fn told(value: &Value, out: &mut Vec<(Kind, Vec<u8>)>) {
    match value {
        Value::String(text) => out.extend(find(text)),
        Value::Array(values) => values.iter().for_each(|value| told(value, out)),
        Value::Object(members) => {
            for (name, value) in members {
                out.extend(find(name));
                told(value, out);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn find(text: &str) -> Vec<(Kind, Vec<u8>)> {
    let meaning = Meaning::of(text.as_bytes());
    let mut hits: Vec<(Range<usize>, Kind)> = Vec::new();
    emails(&meaning.text, &mut |kind, range| hits.push((range, kind)));
    numbers(&meaning.text, &mut |kind, range| hits.push((range, kind)));
    secret::find(&meaning.text, |range| hits.push((range, Kind::Secret)));
    hits.sort_by_key(|(range, kind)| (range.start, *kind));
    hits.into_iter().map(|(range, kind)| (kind, last_digits(&meaning.text[range]))).collect()
}

fn last_digits(text: &[u8]) -> Vec<u8> {
    let digits: Vec<u8> = text.iter().filter(|byte| byte.is_ascii_digit()).copied().collect();
    let missing = 4_usize.saturating_sub(digits.len());
    [&vec![b'*'; missing], &digits[digits.len().saturating_sub(4)..]].concat()
}

fn numbers(text: &[u8], tell: &mut impl FnMut(Kind, Range<usize>)) {
    let (mut at, mut free) = (0, [0; Kind::ALL.len()]);
    while let Some(next) = text[at..].iter().position(u8::is_ascii_digit) {
        let start = at + next;
        at = start + text[start..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let iban = numbers_at(text, start, &mut |kind, back, length| {
            let from = start - back;
            if free[kind.index()] <= from
                && let Some(length) = length(&text[from..])
            {
                free[kind.index()] = from + length;
                tell(kind, from..from + length);
            }
        });
        at = at.max(iban.unwrap_or_default());
    }
}

fn numbers_at(text: &[u8], start: usize, try_one: &mut impl FnMut(Kind, usize, Tried<'_>)) -> Option<usize> {
    let byte = |back: usize| start.checked_sub(back).map(|at| text[at]);
    let is_free = |back: usize| byte(back).is_none_or(|byte| !byte.is_ascii_alphanumeric());
    let is_letter = |back: usize| byte(back).is_some_and(|byte| byte.is_ascii_alphabetic());
    if is_letter(1) && is_letter(2) && is_free(3) {
        try_one(Kind::Iban, 2, &number::iban);
        try_one(Kind::NationalId, 2, &number::nino);
        return number::iban(&text[start - 2..]).map(|length| start - 2 + length);
    }
    if byte(1) == Some(b' ') && is_letter(2) && is_letter(3) && is_free(4) {
        try_one(Kind::NationalId, 3, &number::nino);
    }
    if is_letter(1) && is_free(2) {
        try_one(Kind::NationalId, 1, &number::nie);
        return None;
    }
    let bracket = byte(1) == Some(b'(');
    if byte(1) == Some(b'+') || (bracket && byte(2) == Some(b'+')) {
        let back = if bracket { 2 } else { 1 };
        try_one(Kind::Phone, back, &|text| number::e164(&text[back..]).map(|length| length + back));
        let is_more = |text: &[u8], card: usize| number::e164(text).is_none_or(|phone| phone < card);
        try_one(Kind::Card, 0, &|text| Digits::of(text).card().filter(|card| is_more(text, *card)));
    } else if is_free(1) {
        try_one(Kind::Card, 0, &|text| Digits::of(text).card());
        try_one(Kind::NationalId, 0, &|text| number::national(text, Some(&Digits::of(text))));
        let back = usize::from(bracket);
        let phone = |text: &[u8]| number::national_phone(&text[back..], bracket).map(|length| length + back);
        try_one(Kind::Phone, back, &phone);
    }
    None
}

fn agree(text: &str) -> Result<(), TestCaseError> {
    let mut wanted = Vec::new();
    told(&serde_json::from_str(text).expect("JSON"), &mut wanted);
    let found = look(text.as_bytes(), Kinds::ALL, false);
    let found: Vec<_> = found.places.iter().map(|place| (place.kind, place.last.to_vec())).collect();
    prop_assert_eq!(found, wanted, "{}", text.get(..500).unwrap_or(text));
    Ok(())
}

/// Things that are found, pieces of such, and what may stand between them.
const PIECES: [&str; 60] = [
    "a@b.example",
    "4111 1111 1111 1111",
    "4111-1111-1111-1111",
    "DE89370400440532013000",
    "GB29 NWBK 6016 1331 9268 19",
    "bh67bmag00001299123456",
    "078-05-1120",
    "+49 30 1234567",
    "+49 (0)30 1234-567",
    "0049 30 1234567",
    "00493012345678",
    "(555) 234-5678",
    "555.234.5678",
    "AKIAIOSFODNN7EXAMPLE",
    "2 55 08 14 168 025 38",
    "1 85 01 2A 168 025 38",
    "86095742719",
    "86 095 742 719",
    "AB 12 34 56 C",
    "AB123456C",
    "12345678Z",
    "X1234567L",
    "44051401359",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "-----BEGIN PRIVATE KEY-----\nab\n-----END PRIVATE KEY-----",
    "-----BEGIN\tPRIVATE KEY-----",
    "sk\u{2010}ant-aaaaaaaaaaaaaaaaaaaaaaaa",
    "\u{a0}",
    "\u{2007}",
    "\u{2011}",
    "«",
    "“x”",
    "é",
    "\n",
    "\t",
    "\"",
    "\\",
    "/",
    "\\n",
    "\\t",
    "\\u0031",
    "\\u00a0",
    "\\ud83d\\ude00",
    "😀",
    "\u{8}",
    " ",
    "-",
    ".",
    "1",
    "12",
    "123",
    "00",
    "+",
    "(",
    "@",
    ",",
    "AB",
    "C:\\users\\new",
    "2026-01-02T10:11:12",
    "10.20.30.40",
];

/// What a server may write of these, in JSON in JSON, some characters as escapes.
fn written(pieces: &[&str], depth: u8, escapes: u8) -> String {
    let value =
        (0..depth).fold(json!({ "a": pieces.concat() }), |value, _| json!({ "b": [value.to_string()] }));
    let text = value.to_string();
    match escapes {
        0 => text.replace('@', "\\u0040"),
        1 => text.replace('1', "\\u0031"),
        2 => text.replace('/', "\\/"),
        3 => text.replace('-', "\\u002d").replace('\u{a0}', "\\u00a0"),
        _ => text,
    }
}

fn pieces(most: usize) -> impl Strategy<Value = Vec<&'static str>> {
    proptest::collection::vec(proptest::sample::select(PIECES.to_vec()), 0..most)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn all_is_found_that_the_slow_way_finds(pieces in pieces(12), depth in 0..3_u8, escapes in 0..6_u8) {
        agree(&written(&pieces, depth, escapes))?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Long ones are read part by part.
    #[test]
    fn all_is_found_in_long_strings(
        before in pieces(6), after in pieces(6), fill in proptest::sample::select(vec!["x,", "line\n", "\"q\" ", "12 34 \n", "\t1"]),
        length in 32_000..34_000_usize, escapes in 0..6_u8
    ) {
        let fill = fill.repeat(length / fill.len());
        let pieces: Vec<&str> = before.into_iter().chain([&*fill]).chain(after).chain([&*fill, "\n"]).collect();
        agree(&written(&pieces, 0, escapes))?;
    }
}
