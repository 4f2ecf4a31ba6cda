//! JSON that every parser reads alike: no duplicate keys, bounded depth, no BOM, one value.
//!
//! The grammar work is `serde_json`'s; the visitor here adds what that library leaves open. Integers beyond
//! ±(2^53−1) are taken, since tools may want them, but they may have lost digits: above `u64` they are read as
//! a float, as JavaScript would. Where such a number decides anything (ids), [`super::Id`] refuses it.

use std::cell::Cell;
use std::fmt;

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Number;

use super::fold::is_lookalike;

/// Deepest nesting that [`parse`] can be asked for; `serde_json` itself stops two levels later.
pub const DEPTH_MAX: usize = 126;

/// Most values (of any kind) in one text. A value costs up to 32 bytes here but may cost 2 bytes on the wire, so the
/// limit on a body's bytes alone would let a peer make us hold 16 times as much.
pub const VALUES_MAX: usize = 250_000;

/// Objects up to this size are searched for a duplicate at each key; larger ones once, sorted, at their end.
const LINEAR_SEARCH_MAX: usize = 16;

/// A JSON value. Objects keep their order and have no key twice.
#[derive(Debug, Clone, PartialEq)]
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Array(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// The value of `key`, if this is an object that has it.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Self::Object(members) => members.iter().find(|(name, _)| name == key).map(|(_, value)| value),
            _ => None,
        }
    }

    /// Whether this object has a key that a careless server takes for `key` (other case, a hidden character). A rule
    /// that depends on `key` has then not seen what the server may see.
    pub fn has_lookalike(&self, key: &str) -> bool {
        self.as_object().is_some_and(|members| members.iter().any(|(name, _)| is_lookalike(name, &[key])))
    }

    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    pub fn as_object(&self) -> Option<&[(String, Json)]> {
        match self {
            Self::Object(members) => Some(members),
            _ => None,
        }
    }
}

/// Why a text is not taken, and near which byte.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{kind} (near byte {offset})")]
pub struct JsonError {
    pub kind: JsonErrorKind,
    /// Bytes from the start of the text; within a few bytes of the fault.
    pub offset: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JsonErrorKind {
    #[error("the text starts with a byte order mark; send plain UTF-8 without one")]
    ByteOrderMark,
    #[error("an object has the same key twice; parsers differ on which one counts")]
    DuplicateKey,
    #[error("the text is not valid UTF-8")]
    NotUtf8,
    /// `serde_json`'s words. Lone surrogates, numbers beyond a 64-bit float and a second value are here too.
    #[error("not valid JSON: {0}")]
    Syntax(String),
    #[error("arrays and objects are nested too deeply")]
    TooDeep,
    #[error("more than {VALUES_MAX} values")]
    TooManyValues,
}

impl JsonErrorKind {
    /// The name of this fault in audit records.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ByteOrderMark => "json_byte_order_mark",
            Self::DuplicateKey => "json_duplicate_key",
            Self::NotUtf8 => "json_not_utf8",
            Self::Syntax(_) => "json_syntax",
            Self::TooDeep => "json_too_deep",
            Self::TooManyValues => "json_too_many_values",
        }
    }
}

/// Reads exactly one JSON value with at most `depth_max` (and [`DEPTH_MAX`]) levels of arrays and objects.
pub fn parse(bytes: &[u8], depth_max: usize) -> Result<Json, JsonError> {
    parse_within(bytes, depth_max, &mut { VALUES_MAX })
}

/// The same for one of several texts, which may have so many values together.
pub fn parse_within(bytes: &[u8], depth_max: usize, values_left: &mut usize) -> Result<Json, JsonError> {
    if [&b"\xef\xbb\xbf"[..], b"\xff\xfe", b"\xfe\xff"].iter().any(|mark| bytes.starts_with(mark)) {
        return Err(JsonError { kind: JsonErrorKind::ByteOrderMark, offset: 0 });
    }
    let text = std::str::from_utf8(bytes)
        .map_err(|fault| JsonError { kind: JsonErrorKind::NotUtf8, offset: fault.valid_up_to() })?;
    let bounds = Bounds { values_left: Cell::new(*values_left), broken: Cell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_str(text);
    let root = Reader { depth_left: depth_max.min(DEPTH_MAX), bounds: &bounds };
    let read = root.deserialize(&mut deserializer).and_then(|value| deserializer.end().map(|()| value));
    *values_left = bounds.values_left.get();
    read.map_err(|fault| {
        let kind = bounds.broken.take().unwrap_or_else(|| JsonErrorKind::Syntax(words(&fault)));
        JsonError { kind, offset: offset(bytes, fault.line(), fault.column()) }
    })
}

/// `serde_json`'s text without its line and column, which mean little for a request body.
fn words(fault: &serde_json::Error) -> String {
    let text = fault.to_string();
    text.split_once(" at line ").map_or(text.clone(), |(words, _)| words.to_owned())
}

fn offset(bytes: &[u8], line: usize, column: usize) -> usize {
    let skipped = line.saturating_sub(1);
    let start = match skipped.checked_sub(1) {
        None => 0,
        Some(nth) => memchr::memchr_iter(b'\n', bytes).nth(nth).map_or(0, |at| at + 1),
    };
    (start + column.saturating_sub(1)).min(bytes.len())
}

/// What the whole text shares: `serde_json` errors carry only words, so the kind travels here.
struct Bounds {
    values_left: Cell<usize>,
    broken: Cell<Option<JsonErrorKind>>,
}

impl Bounds {
    fn broken<E: de::Error>(&self, kind: JsonErrorKind) -> E {
        self.broken.set(Some(kind));
        E::custom("refused")
    }
}

/// Reads one value with `depth_left` levels allowed inside.
#[derive(Clone, Copy)]
struct Reader<'a> {
    depth_left: usize,
    bounds: &'a Bounds,
}

impl Reader<'_> {
    /// The reader for what is inside this array or object.
    fn inside<E: de::Error>(self) -> Result<Self, E> {
        match self.depth_left.checked_sub(1) {
            Some(depth_left) => Ok(Self { depth_left, ..self }),
            None => Err(self.bounds.broken(JsonErrorKind::TooDeep)),
        }
    }
}

impl<'de> DeserializeSeed<'de> for Reader<'_> {
    type Value = Json;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json, D::Error> {
        match self.bounds.values_left.get().checked_sub(1) {
            Some(left) => self.bounds.values_left.set(left),
            None => return Err(self.bounds.broken(JsonErrorKind::TooManyValues)),
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Reader<'_> {
    type Value = Json;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json, E> {
        Ok(Json::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Json, E> {
        Ok(Json::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Json, E> {
        Number::from_f64(value).map(Json::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Json, E> {
        Ok(Json::String(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(inside)? {
            items.push(item);
        }
        Ok(Json::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Json, A::Error> {
        let inside = self.inside()?;
        let mut members: Vec<(String, Json)> = Vec::new();
        while let Some(key) = map.next_key::<String>()? {
            if members.len() < LINEAR_SEARCH_MAX && members.iter().any(|(name, _)| *name == key) {
                return Err(self.bounds.broken(JsonErrorKind::DuplicateKey));
            }
            members.push((key, map.next_value_seed(inside)?));
        }
        if members.len() > LINEAR_SEARCH_MAX && has_duplicate(&members) {
            return Err(self.bounds.broken(JsonErrorKind::DuplicateKey));
        }
        Ok(Json::Object(members))
    }
}

/// Sorts instead of hashing: the cost is the same whatever keys a peer chooses.
fn has_duplicate(members: &[(String, Json)]) -> bool {
    let mut names: Vec<&str> = members.iter().map(|(name, _)| name.as_str()).collect();
    names.sort_unstable();
    names.iter().zip(names.iter().skip(1)).any(|(one, next)| one == next)
}

#[cfg(test)]
mod tests;
