//! The one way in which a line is spelled, which is that of [`text::encode`](super::text::encode). JSON leaves much to who writes it, and readers
//! take that for different things: a member that is there twice, half a character, a number that is too long.

/// Objects and lists within each other, the line's own counted.
const DEPTH_MAX: usize = 32;
/// Members of an object that need no sorting.
const MEMBERS_FEW: usize = 64;

/// An error unless `line`, which is an object in JSON and printable ASCII, is spelled as the guard spells it.
pub(super) fn is_own(line: &[u8]) -> Result<(), &'static str> {
    let mut names: Vec<&[u8]> = Vec::new();
    // What is open: whether it is an object, and how many names were before it.
    let mut open: Vec<(bool, usize)> = Vec::new();
    let mut is_name = false;
    let mut rest = line;
    while let Some((first, mut behind)) = rest.split_first() {
        match first {
            b'{' | b'[' => {
                if open.len() == DEPTH_MAX {
                    return Err("it has more than 32 objects and lists within each other");
                }
                is_name = *first == b'{';
                open.push((is_name, names.len()));
            }
            b'}' | b']' => {
                let (_, before) = open.pop().ok_or("it ends more than it begins")?;
                if !are_all_different(names.get_mut(before..).unwrap_or_default()) {
                    return Err("a member is there twice");
                }
                names.truncate(before);
            }
            b',' => is_name = open.last().is_some_and(|(is_object, _)| *is_object),
            b':' => is_name = false,
            b'"' => {
                let text;
                (text, behind) = text_of(behind)?;
                if is_name {
                    names.push(text);
                }
            }
            b'-' | b'0'..=b'9' => {
                let is_of_it = |byte: &u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
                let length = rest.iter().position(|byte| !is_of_it(byte)).unwrap_or(rest.len());
                let number;
                (number, behind) = rest.split_at(length);
                if !is_whole(number) {
                    return Err("a number is not a whole one of 64 bits, or is spelled in another way");
                }
            }
            // Of `true`, `false` and `null`.
            b'a'..=b'z' => {}
            _ => return Err("it has a blank between its parts"),
        }
        rest = behind;
    }
    Ok(())
}

/// Of `names`, whose order may change.
fn are_all_different(names: &mut [&[u8]]) -> bool {
    if names.len() > MEMBERS_FEW {
        names.sort_unstable();
        return names.windows(2).all(|pair| pair.first() != pair.last());
    }
    // A bit for the length and the ends of each; only where one is set already, names are compared.
    let mut bits = 0_u128;
    for (at, name) in names.iter().enumerate() {
        let [.., last] = name else { continue };
        let mixed =
            name.iter().take(2).fold(usize::from(*last), |mixed, byte| mixed * 7 + usize::from(*byte));
        let bit = 1 << ((mixed + name.len()) % 128);
        if bits & bit != 0 && names.iter().take(at).any(|before| before == name) {
            return false;
        }
        bits |= bit;
    }
    names.iter().filter(|name| name.is_empty()).count() < 2
}

/// A text up to its closing quote, and what is behind that.
fn text_of(bytes: &[u8]) -> Result<(&[u8], &[u8]), &'static str> {
    let mut at = 0;
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let found = memchr::memchr2(b'"', b'\\', rest).ok_or("a text has no end")?;
        at += found;
        match rest.get(found..).unwrap_or_default() {
            [b'\\', escape @ ..] => at += 1 + escape_length(escape)?,
            _ => return Ok((bytes.get(..at).unwrap_or_default(), bytes.get(at + 1..).unwrap_or_default())),
        }
    }
}

/// Bytes of an escape behind its backslash; of two, where it takes two to make a character.
fn escape_length(escape: &[u8]) -> Result<usize, &'static str> {
    match (escape, unit(escape)) {
        ([b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't', ..], _) => Ok(1),
        (_, Some(0x08..=0x0a | 0x0c | 0x0d | 0x20..=0x7e)) => {
            Err("a character is escaped that the guard writes in another way")
        }
        (_, Some(0xd800..=0xdbff)) => {
            let low = escape.get(5..).and_then(|next| unit(next.strip_prefix(b"\\")?));
            if matches!(low, Some(0xdc00..=0xdfff)) { Ok(11) } else { Err("a text has half a character") }
        }
        (_, Some(0xdc00..=0xdfff)) => Err("a text has half a character"),
        (_, Some(_)) => Ok(5),
        (_, None) => Err("an escape is spelled otherwise than the guard does"),
    }
}

/// Of `u` and four hex digits in lower case.
fn unit(escape: &[u8]) -> Option<u16> {
    let (digits, _) = escape.strip_prefix(b"u")?.split_first_chunk::<4>()?;
    let is_own = digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u16::from_str_radix(std::str::from_utf8(digits).ok().filter(|_| is_own)?, 16).ok()
}

fn is_whole(number: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(number) else { return false };
    text.parse::<u64>().is_ok_and(|_| text == "0" || !text.starts_with('0'))
        || text.parse::<i64>().is_ok_and(|number| number < 0 && !text.starts_with("-0"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::audit::text;

    #[test]
    fn other_spellings_are_refused() {
        // Of an even count, the second half is the first once more.
        let twice = |count: u32| {
            let half = if count.is_multiple_of(2) { count / 2 } else { count };
            let members: Vec<_> = (0..count).map(|at| format!(r#""m{}":0"#, at % half)).collect();
            format!("{{{}}}", members.join(","))
        };
        let deep = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        for (wrong, right) in [
            (r#"{"a":1,"a":1}"#.to_owned(), r#"{"a":1,"b":{"a":1}}"#.to_owned()),
            (r#"{"":1,"":2}"#.into(), r#"{"":1,"a":{"":2}}"#.into()),
            (twice(64), twice(63)),
            (twice(66), twice(65)),
            (twice(1000), twice(999)),
            (r#"[{"a":1,"b":2,"a":3}]"#.into(), r#"[{"a":1},{"a":1}]"#.into()),
            (r#"{"a": 1}"#.into(), r#"{"a":": 1"}"#.into()),
            (r#"{"a":1} "#.into(), r#"{"a":1}"#.into()),
            (r#"{"c\u0061ll":1}"#.into(), r#"{"call":1}"#.into()),
            (r#"["\/"]"#.into(), r#"["/"]"#.into()),
            (r#"["\u000a"]"#.into(), r#"["\n\u000b"]"#.into()),
            (r#"["\u00E9"]"#.into(), r#"["\u00e9"]"#.into()),
            (r#"["\ud83d"]"#.into(), r#"["\ud83d\ude00"]"#.into()),
            (r#"["\ude00\ud83d"]"#.into(), r#"["\u0000\u007f"]"#.into()),
            ("[1.0]".into(), "[1]".into()),
            ("[1e3]".into(), "[1000]".into()),
            ("[-0]".into(), "[0,-10]".into()),
            ("[18446744073709551616]".into(), "[18446744073709551615]".into()),
            ("[-9223372036854775809]".into(), "[-9223372036854775808]".into()),
            (deep(33), deep(32)),
        ] {
            assert!(is_own(wrong.as_bytes()).is_err(), "{wrong}");
            assert_eq!(is_own(right.as_bytes()), Ok(()), "{right}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let text = "[ -~]{0,8}|\\PC{0,4}|[\\x00-\\u{10ffff}]{0,4}";
        let leaf = prop_oneof![
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<bool>().prop_map(Value::from),
            Just(Value::Null),
            text.prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::btree_map(text, inner, 0..6).prop_map(|members| json!(members)),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_the_guard_writes_is_its_own(value in value()) {
            let line = text::encode(&value).unwrap();
            prop_assert_eq!(is_own(&line), Ok(()), "{}", String::from_utf8_lossy(&line));
        }

        /// Whatever is JSON, and its own, is what the guard would have written.
        #[test]
        fn what_is_its_own_has_no_other_spelling(value in value(), at: prop::sample::Index, byte in b' '..=b'~', insert: bool) {
            let mut line = text::encode(&value).unwrap();
            let at = at.index(line.len());
            line.splice(at..at + usize::from(!insert), [byte]);
            if let Ok(value) = serde_json::from_slice::<Value>(&line)
                && is_own(&line).is_ok()
            {
                prop_assert_eq!(text::encode(&value).unwrap(), line);
            }
        }
    }
}
