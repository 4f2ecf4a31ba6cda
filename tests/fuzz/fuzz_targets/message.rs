//! JSON-RPC: what is taken is read alike by a plain reader, and its bytes are those that were judged.
#![no_main]

use bytes::Bytes;
use guard_fuzz::rpc::{self, Id, Kind, Target};
use http::{HeaderMap, HeaderValue};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const DEPTH_MAX: usize = 64;

fuzz_target!(|bytes: &[u8]| {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    let message = match rpc::decode(&headers, Bytes::copy_from_slice(bytes), DEPTH_MAX) {
        Ok(message) => message,
        Err(refused) => {
            assert!(refused.fault.status().is_client_error());
            return;
        }
    };
    assert_eq!(message.raw(), bytes);
    let plain: Value = serde_json::from_slice(bytes).expect("a plain reader takes it too");
    let id = match message.id() {
        None => None,
        Some(Id::Number(number)) => Some(Value::from(*number)),
        Some(Id::String(text)) => Some(Value::from(text.as_str())),
    };
    assert_eq!(plain.get("id"), id.as_ref());
    assert_eq!(plain.get("method").and_then(Value::as_str).unwrap_or_default(), message.method());
    let is_response = matches!(message.kind(), Kind::Response { .. });
    assert_eq!(is_response, plain.get("result").is_some() || plain.get("error").is_some());
    let member = |name| plain["params"].get(name).and_then(Value::as_str);
    match message.target() {
        Target::Tool(name) | Target::Prompt(name) if message.method() != "completion/complete" => {
            assert_eq!(member("name"), Some(name));
        }
        Target::Resource(uri) if message.method() != "completion/complete" => {
            assert_eq!(member("uri"), Some(uri))
        }
        Target::Tool(name) | Target::Prompt(name) => assert_eq!(plain["params"]["ref"]["name"], *name),
        Target::Resource(uri) => assert_eq!(plain["params"]["ref"]["uri"], *uri),
        Target::Task(id) => assert_eq!(member("taskId"), Some(id)),
        Target::ServerRequest(method) => panic!("no client asks by {method}"),
        Target::Method | Target::Unnamed => {}
    }
    // Written anew it is the same message.
    let again = serde_json::to_vec(&plain).expect("a value can be written");
    let again = rpc::decode(&headers, again.into(), DEPTH_MAX).expect("the same message");
    assert_eq!(
        (again.kind(), again.method(), again.target()),
        (message.kind(), message.method(), message.target())
    );
    let _ = message.headers_agree(&headers);
});
