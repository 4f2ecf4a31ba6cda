//! The canonical form of a tool's definition, and its digest.
//!
//! Every member counts, also those that the guard does not know: what a model or a client may read of a tool is part of
//! it. The order of members and the white space between them do not count; the order within lists does. Numbers count by
//! their text, so `1` and `1.0` differ: parsers do not agree on what is the same number.

use std::borrow::Cow;
use std::fmt;

use aws_lc_rs::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::rpc::is_lookalike;

/// Deepest nesting of a definition.
const DEPTH_MAX: usize = 64;

/// Members that clients look for in a tool.
const KNOWN: [&str; 9] = [
    "_meta",
    "annotations",
    "description",
    "execution",
    "icons",
    "inputSchema",
    "name",
    "outputSchema",
    "title",
];

/// SHA-256 of a canonical form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// A tool as the server offers it, read to its last member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Canonical {
    pub name: String,
    pub digest: Digest,
    /// One line of JSON with its members in the order of their names.
    pub text: String,
}

/// Why nobody can say what a tool's definition is. Such a tool is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Unclear {
    #[error("a text in its definition is no Unicode, so parsers read it differently")]
    Text,
    #[error("its definition has a member that some parsers take for another one")]
    Lookalike,
    #[error("its definition has a member twice, and parsers differ on which one counts")]
    Member,
    #[error("its definition is longer than limits.tool_definition_bytes_max")]
    TooLong,
    #[error("its definition is nested too deeply")]
    TooDeep,
    #[error("the server lists it twice on one page, and clients differ on which one counts")]
    Twice,
}

/// A value of a definition. Texts are decoded; all other scalars keep their bytes.
#[derive(Debug)]
pub(super) enum Node<'a> {
    Bare(&'a str),
    Text(Cow<'a, str>),
    List(Vec<Node<'a>>),
    /// Sorted by name, none twice.
    Map(Vec<(Cow<'a, str>, Node<'a>)>),
}

/// Reads one entry of a `tools` list, which is valid JSON already.
pub(super) fn canonical(name: &str, entry: &str, bytes_max: usize) -> Result<Canonical, Unclear> {
    if entry.len() > bytes_max {
        return Err(Unclear::TooLong);
    }
    let node = read(entry)?;
    if let Node::Map(members) = &node
        && members.iter().any(|(key, _)| is_lookalike(key, &KNOWN))
    {
        return Err(Unclear::Lookalike);
    }
    let mut text = String::with_capacity(entry.len());
    node.write(&mut text);
    // Escapes may be longer here than where they came from.
    if text.len() > bytes_max {
        return Err(Unclear::TooLong);
    }
    Ok(Canonical { name: name.to_owned(), digest: Digest::of(text.as_bytes()), text })
}

/// Reads valid JSON.
pub(super) fn read(text: &str) -> Result<Node<'_>, Unclear> {
    Cursor { text, at: 0 }.value(DEPTH_MAX)
}

impl Digest {
    pub fn of(bytes: &[u8]) -> Self {
        let mut all = [0; 32];
        for (to, from) in all.iter_mut().zip(digest(&SHA256, bytes).as_ref()) {
            *to = *from;
        }
        Self(all)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = hex::FromHexError;

    fn try_from(text: String) -> Result<Self, hex::FromHexError> {
        let mut all = [0; 32];
        hex::decode_to_slice(text, &mut all)?;
        Ok(Self(all))
    }
}

impl Node<'_> {
    /// The canonical form of this value alone.
    pub(super) fn canonical(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    fn write(&self, out: &mut String) {
        match self {
            Self::Bare(text) => out.push_str(text),
            Self::Text(text) => out.push_str(&quoted(text)),
            Self::List(items) => {
                out.push('[');
                for (index, item) in items.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    item.write(out);
                }
                out.push(']');
            }
            Self::Map(members) => {
                out.push('{');
                for (index, (key, value)) in members.iter().enumerate() {
                    out.push_str(if index == 0 { "" } else { "," });
                    out.push_str(&quoted(key));
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

/// A JSON string; a string always can be one.
pub(super) fn quoted(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    /// Whether `byte` came next; then it is passed.
    fn takes(&mut self, byte: u8) -> bool {
        self.space();
        let is = self.peek() == Some(byte);
        self.at += usize::from(is);
        is
    }

    fn value(&mut self, depth_left: usize) -> Result<Node<'a>, Unclear> {
        self.space();
        let inside = || depth_left.checked_sub(1).ok_or(Unclear::TooDeep);
        match self.peek() {
            Some(b'"') => self.string().map(Node::Text),
            Some(b'[') => {
                let inside = inside()?;
                self.at += 1;
                let mut items = Vec::new();
                while !self.takes(b']') {
                    items.push(self.value(inside)?);
                    self.takes(b',');
                }
                Ok(Node::List(items))
            }
            Some(b'{') => {
                let inside = inside()?;
                self.at += 1;
                let mut members = Vec::new();
                while !self.takes(b'}') {
                    let key = self.string()?;
                    self.takes(b':');
                    members.push((key, self.value(inside)?));
                    self.takes(b',');
                }
                members.sort_by(|(a, _), (b, _)| a.cmp(b));
                let is_twice = members.windows(2).any(|two| matches!(two, [(a, _), (b, _)] if a == b));
                if is_twice { Err(Unclear::Member) } else { Ok(Node::Map(members)) }
            }
            Some(_) => Ok(Node::Bare(self.bare())),
            None => Err(Unclear::Text),
        }
    }

    /// A number, `true`, `false` or `null`. At least one byte, so that no text keeps the reader at one place.
    fn bare(&mut self) -> &'a str {
        let start = self.at;
        let rest = self.text.as_bytes().get(start..).unwrap_or_default();
        let length =
            rest.iter().position(|byte| matches!(byte, b',' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r'));
        self.at += length.unwrap_or(rest.len()).max(1);
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn string(&mut self) -> Result<Cow<'a, str>, Unclear> {
        self.space();
        let start = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(_) => self.at += 1,
                None => return Err(Unclear::Text),
            }
        }
        self.at += 1;
        let token = self.text.get(start..self.at).ok_or(Unclear::Text)?;
        // Lone surrogates end here.
        serde_json::from_str::<Borrowed<'a>>(token)
            .map(|Borrowed(text)| text)
            .map_err(|_no_unicode| Unclear::Text)
    }
}

#[derive(Deserialize)]
struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn digest_of(entry: &str) -> Result<Digest, Unclear> {
        canonical("t", entry, 10_000).map(|canonical| canonical.digest)
    }

    #[test]
    fn order_and_white_space_do_not_count_and_everything_else_does() {
        let one = r#"{"name":"t","description":"d","inputSchema":{"type":"object","required":["a","b"],"minimum":1}}"#;
        let same = r#" { "inputSchema" : {"minimum":1, "type":"object",
            "required":["a", "b"]}, "d\u0065scription":"\u0064", "name":"t" }"#;
        assert_eq!(digest_of(one), digest_of(same));
        for other in [
            one.replace(r#""d""#, r#""D""#),
            one.replace(r#""d""#, r#""d ""#),
            one.replace(r#"["a","b"]"#, r#"["b","a"]"#),
            one.replace(":1}", ":1.0}"),
            one.replace(":1}", ":2}"),
            one.replace(":1}", r#":"1"}"#),
            one.replace(r#","inputSchema""#, r#","unknown":null,"inputSchema""#),
            one.replace(r#","inputSchema""#, r#","_meta":{},"inputSchema""#),
        ] {
            assert_ne!(digest_of(one), digest_of(&other), "{other}");
        }
    }

    #[test]
    fn the_form_is_one_line_of_sorted_json() {
        let canonical =
            canonical("t", "{\"name\": \"t\", \"b\": [1.50, {}, []], \"a\": {\"\u{e9}\": \"\\n\"}}", 99);
        assert_eq!(canonical.unwrap().text, "{\"a\":{\"\u{e9}\":\"\\n\"},\"b\":[1.50,{},[]],\"name\":\"t\"}");
    }

    #[test]
    fn what_parsers_read_differently_is_unclear() {
        let deep = format!(r#"{{"name":"t","x":{}1{}}}"#, "[".repeat(70), "]".repeat(70));
        for (entry, why) in [
            (r#"{"name":"t","description":"a","description":"b"}"#, Unclear::Member),
            (r#"{"name":"t","x":{"a":1,"\u0061":2}}"#, Unclear::Member),
            (r#"{"name":"t","Description":"b"}"#, Unclear::Lookalike),
            (r#"{"name":"t","description":"\ud800"}"#, Unclear::Text),
            (&deep, Unclear::TooDeep),
            (&format!(r#"{{"name":"t","description":"{}"}}"#, "x".repeat(10_000)), Unclear::TooLong),
        ] {
            assert_eq!(digest_of(entry), Err(why), "{entry}");
        }
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            "\\PC{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::btree_map("\\PC{0,4}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_canonical_form_says_the_same_and_is_its_own_form(value in value()) {
            let value = json!({"name": "t", "x": value});
            let one = canonical("t", &value.to_string(), 100_000).unwrap();
            prop_assert_eq!(serde_json::from_str::<Value>(&one.text).unwrap(), value.clone());
            let pretty = serde_json::to_string_pretty(&value).unwrap();
            prop_assert_eq!(canonical("t", &pretty, 100_000).unwrap(), one.clone());
            prop_assert_eq!(canonical("t", &one.text, 100_000).unwrap(), one);
        }

        #[test]
        fn no_text_makes_it_panic_or_hang(text in "[\\[\\]{}\",:\\\\a1 é]{0,40}") {
            _ = canonical("t", &text, 1000);
        }
    }
}
