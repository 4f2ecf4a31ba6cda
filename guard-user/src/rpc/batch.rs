//! JSON-RPC batches, which 2025-03-26 had and no other revision of the new transport: an array of messages.
//!
//! Servers run them whatever was agreed on, so a batch never goes on as one. Where the operator wants it, its messages go
//! on one by one.

use std::collections::HashSet;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::value::RawValue;

use super::{Fault, FrameError, Kind, Message, decode};

/// The one revision with batches.
pub const BATCH_VERSION: &str = "2025-03-26";

/// Whether the body is an array.
pub fn is_batch(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'[')
}

/// The messages of a batch, each with its exact bytes. One that is refused refuses them all.
pub fn split(
    headers: &HeaderMap,
    body: &Bytes,
    (depth_max, messages_max): (usize, usize),
) -> Result<Vec<Message>, FrameError> {
    let unreadable = |_error| FrameError::from(Fault::Batch);
    let parts: Vec<&RawValue> = serde_json::from_slice(body).map_err(unreadable)?;
    if parts.is_empty() || parts.len() > messages_max {
        return Err(Fault::BatchSize { messages_max }.into());
    }
    let mut ids = HashSet::new();
    let mut messages = Vec::with_capacity(parts.len());
    for part in parts {
        let message = decode(headers, body.slice_ref(part.get().as_bytes()), depth_max)?;
        // The session's begin is no part of a batch.
        if message.method() == "initialize" {
            return Err(Fault::Batch.into());
        }
        if let Kind::Request { id } = message.kind()
            && !ids.insert(id.clone())
        {
            return Err(Fault::IdInUse.into());
        }
        messages.push(message);
    }
    Ok(messages)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(body: &str) -> Result<Vec<String>, Fault> {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        let messages = split(&headers, &Bytes::copy_from_slice(body.as_bytes()), (8, 3));
        let texts = |all: Vec<Message>| {
            all.iter().map(|one| String::from_utf8(one.raw().to_vec()).unwrap()).collect()
        };
        messages.map(texts).map_err(|error| error.fault)
    }

    #[test]
    fn each_message_keeps_its_bytes() {
        let one = r#"{"jsonrpc":"2.0", "id":1,"method":"ping"}"#;
        let two = r#"{"jsonrpc":"2.0","method":"a\/b","params":{"x":1.0e0}}"#;
        assert_eq!(cut(&format!(" [{one} , {two}]\n")).unwrap(), [one, two]);
    }

    #[test]
    fn what_is_refused_alone_refuses_the_batch() {
        let ping = |id: &str| format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#);
        assert!(matches!(cut("[]"), Err(Fault::BatchSize { .. })));
        let four = vec![ping("1"); 4].join(",");
        assert!(matches!(cut(&format!("[{four}]")), Err(Fault::BatchSize { .. })));
        assert_eq!(cut(&format!("[{},{}]", ping("1"), ping("1"))), Err(Fault::IdInUse));
        assert!(cut(&format!("[{},{}]", ping("1"), ping("\"1\""))).is_ok());
        assert!(matches!(cut(&format!("[{},{}]", ping("1"), ping("1.0"))), Err(Fault::Id(_))));
        assert_eq!(cut(&format!("[[{}]]", ping("1"))), Err(Fault::Batch));
        assert_eq!(cut(&format!("[{}", ping("1"))), Err(Fault::Batch));
        assert_eq!(cut(r#"[{"jsonrpc":"2.0","id":1,"method":"initialize"}]"#), Err(Fault::Batch));
    }
}
