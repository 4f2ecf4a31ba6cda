//! Text on its way into a record: bounded in bytes, and on the line only printable ASCII.
//!
//! A tool name, a session id or an error message may come from an attacker. As JSON strings they cannot end the
//! line or the field; as `\u` escapes they cannot move the cursor or reorder what an operator reads. All that is
//! not printable ASCII is escaped, not only today's list of harmful characters: there is no table to keep up
//! with Unicode, and a reader may take each byte of the trail for what it looks like.

use std::{fmt, io};

use serde::{Serialize, Serializer};

/// Longest name (server, tool, client, session, ...) in a record; what is longer is cut and says so.
pub const NAME_BYTES_MAX: usize = 256;
/// Longest sentence (a rule's reason, an error's cause) in a record.
pub const TEXT_BYTES_MAX: usize = 1024;

/// `value` as one line of JSON in printable ASCII.
pub(super) fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, serde_json::Error> {
    let mut line = Vec::with_capacity(768);
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut line, Ascii))?;
    Ok(line)
}

/// The same for programs that are no part of the trail, to print.
pub fn ascii<T: Serialize>(value: &T) -> Result<String, serde_json::Error> {
    encode(value).and_then(|line| String::from_utf8(line).map_err(serde::ser::Error::custom))
}

pub(super) fn name<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Bounded { text, bytes_max: NAME_BYTES_MAX })
}

#[expect(clippy::ref_option_ref, reason = "serde passes the field by reference")]
pub(super) fn name_opt<S: Serializer>(text: &Option<&str>, to: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => name(text, to),
        None => to.serialize_none(),
    }
}

pub(super) fn sentence<S: Serializer>(text: &str, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&Bounded { text, bytes_max: TEXT_BYTES_MAX })
}

#[expect(clippy::ref_option_ref, reason = "serde passes the field by reference")]
pub(super) fn sentence_opt<S: Serializer>(text: &Option<&str>, to: S) -> Result<S::Ok, S::Error> {
    match text {
        Some(text) => sentence(text, to),
        None => to.serialize_none(),
    }
}

/// At most `bytes_max` bytes of `text`, cut between characters, then `…` and how long it was.
struct Bounded<'a> {
    text: &'a str,
    bytes_max: usize,
}

impl fmt::Display for Bounded<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.len() <= self.bytes_max {
            return f.write_str(self.text);
        }
        let end = (0..=self.bytes_max).rev().find(|&at| self.text.is_char_boundary(at)).unwrap_or(0);
        write!(f, "{}… ({} bytes)", self.text.get(..end).unwrap_or_default(), self.text.len())
    }
}

struct Ascii;

impl serde_json::ser::Formatter for Ascii {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, to: &mut W, fragment: &str) -> io::Result<()> {
        if fragment.bytes().all(is_plain) {
            return to.write_all(fragment.as_bytes());
        }
        let mut units = [0; 2];
        for character in fragment.chars() {
            match u8::try_from(character) {
                Ok(byte) if is_plain(byte) => to.write_all(&[byte])?,
                _ => {
                    for unit in character.encode_utf16(&mut units) {
                        write!(to, "\\u{unit:04x}")?;
                    }
                }
            }
        }
        Ok(())
    }
}

fn is_plain(byte: u8) -> bool {
    (0x20..0x7f).contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Serialize)]
    struct Line<'a> {
        #[serde(serialize_with = "name")]
        name: &'a str,
    }

    fn encoded(text: &str) -> String {
        String::from_utf8(encode(&Line { name: text }).unwrap()).unwrap()
    }

    #[test]
    fn what_could_move_a_cursor_is_escaped() {
        assert_eq!(
            encoded("a\u{202e}\u{1b}[2J\u{7f}\u{9b}\n"),
            r#"{"name":"a\u202e\u001b[2J\u007f\u009b\n"}"#
        );
        assert_eq!(encoded("é😀\"\\"), r#"{"name":"\u00e9\ud83d\ude00\"\\"}"#);
    }

    #[test]
    fn a_long_name_is_cut_between_characters_and_says_how_long_it_was() {
        let long = format!("{}é", "a".repeat(NAME_BYTES_MAX - 1));
        let line: serde_json::Value = serde_json::from_str(&encoded(&long)).unwrap();
        assert_eq!(line["name"], format!("{}… (257 bytes)", "a".repeat(NAME_BYTES_MAX - 1)));
        let exact = "a".repeat(NAME_BYTES_MAX);
        assert_eq!(encoded(&exact), format!("{{\"name\":\"{exact}\"}}"));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]
        #[test]
        fn no_text_breaks_a_line_and_every_text_reads_back(text in "\\PC{0,20}|[\\x00-\\u{10ffff}]{0,60}") {
            let line = encoded(&text);
            prop_assert!(line.bytes().all(is_plain), "{line:?}");
            let back: serde_json::Value = serde_json::from_str(&line).unwrap();
            prop_assert_eq!(back.as_object().unwrap().len(), 1);
            if text.len() <= NAME_BYTES_MAX {
                prop_assert_eq!(back["name"].as_str().unwrap(), text);
            }
        }
    }
}
