//! The only file that knows the YAML library: one strict dialect for every file that the guard reads.
//!
//! One document; no duplicate keys, anchors, aliases, merge keys or tags; only `true` and `false` are booleans.
//! What YAML readers disagree about is refused, so a file means to its author what it means to the guard.

use std::fmt;
use std::path::Path;

use serde::de::{DeserializeOwned, Deserializer, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_saphyr::budget::BudgetBreach;
use serde_saphyr::options::{DuplicateKeyPolicy, MergeKeyPolicy};
use serde_saphyr::{Error, Options, Spanned};

use super::problem::{Problem, suggest};

/// The largest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Nested mappings and lists.
const DEPTH_MAX: usize = 16;

/// A YAML value and where it stands.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// First line is 1.
    pub line: u64,
    /// First column is 1.
    pub column: u64,
    pub value: Value,
}

/// What a node holds. A plain scalar has the type that YAML 1.2 gives it; a quoted one is text.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Number(serde_json::Number),
    Text(String),
    List(Vec<Node>),
    /// In the order of the file; keys are unique.
    Map(Vec<(Node, Node)>),
}

impl Value {
    /// What it is, for a message.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "nothing",
            Self::Bool(_) => "a boolean",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a mapping",
        }
    }
}

/// Reads `text`, the content of `file`, with the place of every value.
pub fn nodes(file: &Path, text: &str) -> Result<Node, Problem> {
    read(file, text)
}

/// Reads `text`, the content of `file`, into a value of a type that refuses unknown fields.
pub fn read<T: DeserializeOwned>(file: &Path, text: &str) -> Result<T, Problem> {
    if text.len() > FILE_BYTES_MAX {
        let what = format!("the file has {} bytes, more than the {FILE_BYTES_MAX} that are read", text.len());
        return Err(Problem::of_file(file, what));
    }
    serde_saphyr::from_str_with_options(text, options()).map_err(|error| problem(file, &error))
}

/// Writes `value` in the same dialect.
pub fn write<T: Serialize>(value: &T) -> Result<String, String> {
    serde_saphyr::to_string(value).map_err(|error| error.to_string())
}

fn options() -> Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: DEPTH_MAX,
            max_documents: 1,
            max_anchors: 0,
            max_aliases: 0,
        },
        duplicate_keys: DuplicateKeyPolicy::Error,
        merge_keys: MergeKeyPolicy::Error,
        strict_booleans: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn problem(file: &Path, error: &Error) -> Problem {
    let error = error.without_snippet();
    let (what, hint) = match error {
        Error::SerdeUnknownField { field, expected, .. } => {
            (format!("unknown key {field:?}"), suggest(field, expected.iter().copied()))
        }
        // Near by its letters, and the opposite of what is meant.
        Error::SerdeUnknownVariant { variant, expected, .. }
            if variant.starts_with("HS") && expected.contains(&"ES256") =>
        {
            let what =
                format!("{variant:?} is symmetric and refused: whoever can check such a token can make one");
            (what, Some(format!("let the issuer sign with one of {}", expected.join(", "))))
        }
        Error::SerdeUnknownVariant { variant, expected, .. } => {
            (format!("{variant:?} is not one of the choices"), suggest(variant, expected.iter().copied()))
        }
        Error::SerdeMissingField { field, .. } => {
            (format!("the key {field:?} is missing"), Some(format!("add `{field}:`")))
        }
        Error::DuplicateMappingKey { key, .. } => (
            match key {
                Some(key) => format!("the key {key:?} stands here twice"),
                None => "a key stands here twice".to_owned(),
            },
            Some("keep one of the two".to_owned()),
        ),
        Error::MergeKeyNotAllowed { .. } => {
            ("merge keys (`<<`) are not read".to_owned(), Some("write the keys out".to_owned()))
        }
        Error::InvalidBooleanStrict { .. } => {
            ("this is not a boolean".to_owned(), Some("write true or false".to_owned()))
        }
        Error::MultipleDocuments { .. } => (
            "a second YAML document begins here".to_owned(),
            Some("one file holds one document: remove the `---`".to_owned()),
        ),
        Error::Budget { breach, .. } => match breach {
            BudgetBreach::Anchors { .. } | BudgetBreach::Aliases { .. } => {
                ("anchors and aliases are not read".to_owned(), Some("write the values out".to_owned()))
            }
            BudgetBreach::Documents { .. } => (
                "a second YAML document begins here".to_owned(),
                Some("one file holds one document: remove the `---`".to_owned()),
            ),
            BudgetBreach::Depth { .. } => (
                format!("values are nested more than {DEPTH_MAX} deep"),
                Some("nothing here needs that".to_owned()),
            ),
            other => (format!("the file is larger than is read: {other:?}"), None),
        },
        Error::Eof { .. } => ("the file is empty, or ends too early".to_owned(), None),
        Error::InvalidScalar { ty, .. } => (format!("this is not {}", kind(ty)), None),
        Error::SerdeInvalidType { unexpected, expected, .. } => {
            (format!("expected {expected}, found {unexpected}"), None)
        }
        Error::SerdeInvalidValue { unexpected, expected, .. } => {
            (format!("{unexpected} is not allowed here, expected {}", kind(expected)), None)
        }
        other => (plain(other), None),
    };
    let place = error.location().filter(|place| place.line() > 0);
    Problem {
        file: file.to_owned(),
        line: place.map(|place| place.line()),
        column: place.map(|place| place.column()),
        what,
        hint,
    }
}

/// A number's type in an operator's words.
fn kind(name: &str) -> &str {
    match name {
        "u16" | "a nonzero u16" => "a whole number from 1 to 65535",
        "u32" | "u64" | "usize" => "a whole number from 1 on",
        other => other,
    }
}

/// The library's text without its own " at line L, column C".
fn plain(error: &Error) -> String {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    let line = line.split(" at line ").next().unwrap_or(line);
    let line = line.trim_start_matches("error: ");
    // "line 3 column 5: what" comes first in some of its texts.
    match line.strip_prefix("line ").and_then(|rest| rest.split_once(": ")) {
        Some((_, what)) => what.to_owned(),
        None => line.to_owned(),
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let spanned = Spanned::<Value>::deserialize(deserializer)?;
        let place = spanned.referenced;
        Ok(Self { line: place.line(), column: place.column(), value: spanned.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl<'de> Visitor<'de> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a YAML value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        let number = serde_json::Number::from_f64(value);
        number.map(Value::Number).ok_or_else(|| E::custom("a number must be finite"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            items.push(item);
        }
        Ok(Value::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(Value::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Node, String> {
        nodes(Path::new("f.yaml"), text).map_err(|problem| problem.to_string())
    }

    fn refused(text: &str) -> String {
        parsed(text).expect_err("must be refused")
    }

    #[test]
    fn every_value_knows_its_place() {
        let node = parsed("a: 1\nb:\n  - x\n  - c: 60s\n").unwrap();
        let Value::Map(entries) = &node.value else { panic!("{node:?}") };
        assert_eq!((entries[1].0.line, entries[1].0.column), (2, 1));
        assert_eq!(entries[0].1.value, Value::Number(1.into()));
        let Value::List(items) = &entries[1].1.value else { panic!("{node:?}") };
        assert_eq!((items[0].line, items[0].column), (3, 5));
        let Value::Map(inner) = &items[1].value else { panic!("{node:?}") };
        assert_eq!((inner[0].1.line, inner[0].1.column), (4, 8));
        assert_eq!(inner[0].1.value, Value::Text("60s".into()));
    }

    #[test]
    fn only_true_and_false_are_booleans() {
        for (text, value) in [
            ("true", Value::Bool(true)),
            ("yes", Value::Text("yes".into())),
            ("NO", Value::Text("NO".into())),
            ("on", Value::Text("on".into())),
            ("\"true\"", Value::Text("true".into())),
        ] {
            assert_eq!(parsed(text).unwrap().value, value, "{text}");
        }
    }

    #[test]
    fn what_yaml_readers_disagree_about_is_refused_with_its_line() {
        for (text, line) in [
            ("a: 1\na: 2\n", 2),
            ("a: &x 1\nb: 2\n", 1),
            ("a: &x 1\nb: *x\n", 1),
            ("a: {b: 1}\nc:\n  <<: {d: 1}\n", 3),
            ("a: 1\n---\nb: 2\n", 2),
            ("a: !!python/object x\n", 1),
            ("a: [1, 2\nb: 3\n", 2),
            ("a:\n\t- b\n", 2),
        ] {
            let said = refused(text);
            assert!(said.starts_with(&format!("f.yaml:{line}:")), "{text:?} → {said}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let deep = format!("{}{}", "[".repeat(40), "]".repeat(40));
        assert!(refused(&deep).contains("more than 16 deep"));
    }
}
