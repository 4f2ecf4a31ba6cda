//! What clients say in the same words each time that they open a session or ask what there is: who has said just that to a server before
//! tells it nothing new.

use std::collections::BTreeMap;
use std::ops::Range;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};

use super::bare::is_short;
use super::{BARE_ID_BYTES_MAX, Id, Message, json};

/// Those that are compared, over all revisions. Beside the first two, those of [`super::BARE_METHODS`] that ask what there is.
const METHODS: [&str; 9] = [
    "initialize",
    "server/discover",
    "ping",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "tasks/get",
    "tasks/list",
    "tools/list",
];

type Members<'r> = BTreeMap<String, &'r RawValue>;

/// SHA-256 over a message as it is sent, byte for byte, less what differs each time: its id, its `progressToken`, and the id of the task
/// that it asks for. Spaces, escapes and the order of members count: they reach the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Words([u8; 32]);

impl Message {
    /// `None`: it is bare by itself, is never compared, or has an id in which a text has room. A list with a cursor is none that is asked
    /// for again.
    pub fn words(&self) -> Option<Words> {
        let is_compared = METHODS.contains(&self.method()) && self.id().is_some_and(is_short);
        if !is_compared || self.param("cursor").is_some() || self.is_bare() {
            return None;
        }
        let raw = self.raw();
        let message: Members<'_> = serde_json::from_slice(&raw).ok()?;
        let mut left_out = vec![span(&raw, message.get("id").filter(|id| is_plain_id(id))?)?];
        let params = message.get("params").and_then(|params| members(params)).unwrap_or_default();
        let meta = params.get("_meta").and_then(|meta| members(meta)).unwrap_or_default();
        let token = meta.get("progressToken").filter(|token| is_plain_id(token));
        // Whose task it is the session says, by its exact name.
        let task = params.get("taskId").filter(|id| self.method() == "tasks/get" && !id.get().contains('\\'));
        for value in [token, task].into_iter().flatten() {
            left_out.push(span(&raw, value)?);
        }
        left_out.sort_by_key(|span| span.start);
        let mut hash = Sha256::new();
        let mut at = 0;
        for end in left_out {
            add(&mut hash, raw.get(at..end.start)?);
            at = end.end;
        }
        add(&mut hash, raw.get(at..)?);
        Some(Words(hash.finalize().into()))
    }
}

fn members(value: &RawValue) -> Option<Members<'_>> {
    serde_json::from_str(value.get()).ok()
}

/// With its length, so that none can be taken for a part of the next one.
fn add(hash: &mut Sha256, part: &[u8]) {
    hash.update(part.len().to_be_bytes());
    hash.update(part);
}

/// Where `value` stands in the bytes that it was read from.
fn span(raw: &[u8], value: &RawValue) -> Option<Range<usize>> {
    let start = value.get().as_ptr().addr().checked_sub(raw.as_ptr().addr())?;
    Some(start..start.checked_add(value.get().len())?)
}

/// A number or a short text, written so that it says nothing beside: without escapes.
fn is_plain_id(value: &RawValue) -> bool {
    let text = value.get();
    // Two quotes.
    text.len() <= BARE_ID_BYTES_MAX + 2
        && !text.contains('\\')
        && json::parse(text.as_bytes(), 1).is_ok_and(|id| Id::read(&id).is_ok_and(|id| is_short(&id)))
}

impl Serialize for Words {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Words {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let mut digest = [0; 32];
        hex::decode_to_slice(&text, &mut digest).map_err(de::Error::custom)?;
        Ok(Self(digest))
    }
}

#[cfg(test)]
mod tests;
