//! JSON-RPC batches, which 2025-03-26 had and no other revision of the new transport: an array of messages.
//!
//! Servers run them whatever was agreed on, so a batch never goes on as one. Where the operator wants it, its messages go
//! on one by one.

use std::collections::HashSet;
use std::fmt;

use bytes::Bytes;
use http::HeaderMap;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::json::VALUES_MAX;
use super::message::decode_within;
use super::{Fault, FrameError, Id, Kind};

/// The one revision with batches.
pub const BATCH_VERSION: &str = "2025-03-26";

/// Whether the body is an array.
pub fn is_batch(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

/// A message of a batch: the bytes of the whole are there anyway, what was read of each would be a multiple of them.
#[derive(Debug, Clone)]
pub struct Part {
    /// Its exact bytes.
    pub raw: Bytes,
    /// The id under which its answer is waited for.
    pub request: Option<Id>,
}

/// The messages of a batch. One that is refused refuses them all.
pub fn split(
    headers: &HeaderMap,
    body: &Bytes,
    (depth_max, messages_max): (usize, usize),
) -> Result<Vec<Part>, FrameError> {
    let mut reader = serde_json::Deserializer::from_slice(body);
    let mut count = 0;
    let cut = Cutter { messages_max, count: &mut count }.deserialize(&mut reader);
    let cut = cut.and_then(|parts| reader.end().map(|()| parts));
    if (count == 0 && cut.is_ok()) || count > messages_max {
        return Err(Fault::BatchSize { messages_max }.into());
    }
    let parts: Vec<&RawValue> = cut.map_err(|_error| FrameError::from(Fault::Batch))?;
    let mut ids = HashSet::new();
    let mut messages = Vec::with_capacity(parts.len());
    let mut values_left = VALUES_MAX;
    for part in parts {
        let raw = body.slice_ref(part.get().as_bytes());
        let message = decode_within(headers, raw.clone(), depth_max, &mut values_left)?;
        // The session's begin is no part of a batch.
        if message.method() == "initialize" {
            return Err(Fault::Batch.into());
        }
        let request = match message.kind() {
            Kind::Request { id } => Some(id.clone()),
            Kind::Notification | Kind::Response { .. } => None,
        };
        if request.as_ref().is_some_and(|id| !ids.insert(id.clone())) {
            return Err(Fault::IdInUse.into());
        }
        messages.push(Part { raw, request });
    }
    Ok(messages)
}

/// Cuts an array into its elements, and stops at the first that is one too many.
struct Cutter<'c> {
    messages_max: usize,
    count: &'c mut usize,
}

impl<'de> DeserializeSeed<'de> for Cutter<'_> {
    type Value = Vec<&'de RawValue>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Cutter<'_> {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a batch")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut parts = Vec::new();
        while let Some(part) = seq.next_element()? {
            *self.count += 1;
            if *self.count > self.messages_max {
                return Err(A::Error::custom("too many"));
            }
            parts.push(part);
        }
        Ok(parts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(body: &str) -> Result<Vec<String>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let messages = split(&headers, &Bytes::copy_from_slice(body.as_bytes()), (8, 3));
        let texts =
            |all: Vec<Part>| all.iter().map(|one| String::from_utf8(one.raw.to_vec()).unwrap()).collect();
        messages.map(texts).map_err(|error| error.fault)
    }

    #[test]
    fn each_message_keeps_its_bytes() {
        let one = r#"{"jsonrpc":"2.0", "id":1,"method":"ping"}"#;
        let two = r#"{"jsonrpc":"2.0","method":"a\/b","params":{"x":1.0e0}}"#;
        assert_eq!(cut(&format!(" [{one} , {two}]\n")).unwrap(), [one, two]);
    }

    #[test]
    fn all_messages_have_the_values_of_one() {
        let note = |values: usize| {
            let list = vec!["0"; values].join(",");
            format!(r#"{{"jsonrpc":"2.0","method":"m","params":{{"a":[{list}]}}}}"#)
        };
        let half = VALUES_MAX / 2;
        assert_eq!(cut(&format!("[{},{}]", note(half), note(half - 100))).map(|all| all.len()), Ok(2));
        let too_many = cut(&format!("[{},{}]", note(half), note(half)));
        assert!(matches!(too_many, Err(Fault::Json(error)) if error.kind.reason() == "json_too_many_values"));
    }

    #[test]
    fn what_is_refused_alone_refuses_the_batch() {
        let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert!(matches!(cut("[]"), Err(Fault::BatchSize { .. })));
        let four = vec![ping("1"); 4].join(",");
        assert!(matches!(cut(&format!("[{four}]")), Err(Fault::BatchSize { .. })));
        assert!(matches!(cut(&format!("[{four},")), Err(Fault::BatchSize { .. })), "the rest is not read");
        assert_eq!(cut(&format!("[{}] [{}]", ping("1"), ping("2"))), Err(Fault::Batch));
        assert_eq!(cut(&format!("[{},{}]", ping("1"), ping("1"))), Err(Fault::IdInUse));
        assert!(cut(&format!("[{},{}]", ping("1"), ping("\"1\""))).is_ok());
        assert!(matches!(cut(&format!("[{},{}]", ping("1"), ping("1.0"))), Err(Fault::Id(_))));
        assert_eq!(cut(&format!("[[{}]]", ping("1"))), Err(Fault::Batch));
        assert_eq!(cut(&format!("[{}", ping("1"))), Err(Fault::Batch));
        assert_eq!(cut(r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"}]"#), Err(Fault::Batch));
    }
}
