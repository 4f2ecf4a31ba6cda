//! Messages that tell a server nothing that their sender could choose: what is fixed by the protocol, and names that the server gave.

use super::{Id, Json, Kind, Message};

/// Longest message of them, in bytes: what is between its members says nothing.
pub const BARE_BYTES_MAX: usize = 512;
/// Longest id in one, in bytes: a UUID.
pub const BARE_ID_BYTES_MAX: usize = 36;

/// Those that may be so, over all revisions. No other ever is.
pub const BARE_METHODS: [&str; 11] = [
    "notifications/cancelled",
    "notifications/initialized",
    "ping",
    "prompts/list",
    "resources/list",
    "resources/templates/list",
    "tasks/cancel",
    "tasks/get",
    "tasks/list",
    "tasks/result",
    "tools/list",
];

impl Message {
    /// Whether nothing in it is of its sender's choosing but which of [`BARE_METHODS`] it is, and its short id. Tasks' ids are told
    /// apart elsewhere: one that no server gave to the agent is refused.
    pub fn is_bare(&self) -> bool {
        let has_short_id = self.id().is_none_or(is_short);
        if self.raw().len() > BARE_BYTES_MAX || !has_short_id {
            return false;
        }
        match self.kind() {
            Kind::Response { .. } => is_empty_result(&self.raw()),
            _ => BARE_METHODS.contains(&self.method()) && self.has_bare_params(),
        }
    }

    fn has_bare_params(&self) -> bool {
        let members = match self.params() {
            None => return true,
            Some(Json::Object(members)) => members,
            Some(_) => return false,
        };
        members.iter().all(|(key, value)| match (self.method(), key.as_str()) {
            (_, "_meta") => is_bare_meta(value),
            ("notifications/cancelled", "requestId") => Id::read(value).is_ok_and(|id| is_short(&id)),
            ("tasks/cancel" | "tasks/get" | "tasks/result", "taskId") => true,
            _ => false,
        })
    }
}

pub(super) fn is_short(id: &Id) -> bool {
    match id {
        Id::Number(_) => true,
        Id::String(text) => text.len() <= BARE_ID_BYTES_MAX,
    }
}

fn is_bare_meta(meta: &Json) -> bool {
    let is_bare =
        |key: &str, value: &Json| key == "progressToken" && Id::read(value).is_ok_and(|id| is_short(&id));
    meta.as_object().is_some_and(|members| members.iter().all(|(key, value)| is_bare(key, value)))
}

/// The answer to a ping.
fn is_empty_result(message: &[u8]) -> bool {
    let message: Option<serde_json::Value> = serde_json::from_slice(message).ok();
    message.is_some_and(|message| message["result"].as_object().is_some_and(serde_json::Map::is_empty))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http::HeaderMap;

    use super::super::decode;
    use super::*;

    fn is_bare(body: &str) -> bool {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", "application/json".parse().unwrap());
        decode(&headers, Bytes::copy_from_slice(body.as_bytes()), 64).unwrap().is_bare()
    }

    #[test]
    fn what_the_protocol_fixes_is_bare_and_whatever_holds_a_text_is_not() {
        for bare in [
            r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#,
            r#"{"jsonrpc":"2.0","id":"6f1c1d9e-5a3e-4c57-8d5f-0123456789ab","method":"tools/list","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"resources/list","params":{"_meta":{"progressToken":7}}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t-1"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
        ] {
            assert!(is_bare(bare), "{bare}");
        }
        let long = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping"{}}}"#, " ".repeat(BARE_BYTES_MAX));
        let long_id = format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "a".repeat(37));
        for told in [
            &long,
            &long_id,
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":{"x":1}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"c"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"x":"c"}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/clientInfo":{}}}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t-1","x":"y"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/update","params":{"taskId":"t-1"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":7,"reason":"x"}}"#,
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"action":"decline"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"x"}}"#,
        ] {
            assert!(!is_bare(told), "{told}");
        }
    }
}
