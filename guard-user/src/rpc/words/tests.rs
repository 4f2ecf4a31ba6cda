use bytes::Bytes;
use http::HeaderMap;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::decode;
use super::*;

fn words(body: &str) -> Option<Words> {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    decode(&headers, Bytes::copy_from_slice(body.as_bytes()), 64).unwrap().words()
}

#[test]
fn what_differs_each_time_is_left_out_and_all_else_counts_byte_for_byte() {
    let initialize = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"t","version":"1"},"_meta":{"progressToken":1}}}"#;
    let known = words(initialize).unwrap();
    let with = |from: &str, to: &str| {
        assert!(initialize.contains(from), "{from}");
        words(&initialize.replace(from, to))
    };
    for (from, to) in [
        (r#""id":1"#, r#""id":2"#),
        (r#""id":1"#, r#""id":"6f1c1d9e-5a3e-4c57-8d5f-0123456789ab""#),
        (r#"Token":1"#, r#"Token":"p-7""#),
    ] {
        assert_eq!(with(from, to), Some(known), "{to}");
    }
    for (from, to) in [
        (r#""name":"t""#, r#""name":"u""#),
        (r#""name":"t""#, r#""name":"\u0074""#),
        (r#""name":"t","version":"1""#, r#""version":"1","name":"t""#),
        (r#""name":"t""#, r#""name": "t""#),
        (r#""id":1,"#, r#""id":1 ,"#),
        (r#""capabilities":{}"#, r#""capabilities":{"x":{}}"#),
        (r#""_meta":{"progressToken":1}"#, r#""_meta":{}"#),
        (r#""_meta":{"progressToken":1}"#, r#""_meta":{"progressToken":1,"x":1}"#),
        (r#"Token":1"#, r#"Token":"a text that is longer than any id would be""#),
        (r#"Token":1"#, r#"Token":"\u0070""#),
    ] {
        assert!(with(from, to).is_some_and(|words| words != known), "{to}");
    }
    // An id in which a text has room, or which is written so that it says something beside.
    for id in [r#""a text that is longer than any id would be""#, r#""\u0070""#] {
        assert_eq!(with(r#""id":1"#, &format!(r#""id":{id}"#)), None);
    }
    assert_eq!(serde_json::from_value::<Words>(json!(known)).unwrap(), known);
    for wrong in [json!("ab"), json!(1), json!(["00"]), json!("g".repeat(64)), json!("0".repeat(66))] {
        assert!(serde_json::from_value::<Words>(wrong).is_err());
    }
}

#[test]
fn only_what_opens_a_session_or_asks_what_there_is_is_compared() {
    let meta = r#""_meta":{"io.modelcontextprotocol/clientInfo":{"name":"t"}}"#;
    let ask = |method: &str, params: &str| {
        words(&format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}}}}}"#))
    };
    for method in METHODS {
        assert!(ask(method, meta).is_some(), "{method}");
    }
    for (at, method) in METHODS.iter().enumerate() {
        let others = METHODS.iter().skip(at + 1);
        others.for_each(|other| assert_ne!(ask(method, meta), ask(other, meta)));
    }
    for method in [
        "tools/call",
        "logging/setLevel",
        "tasks/result",
        "tasks/cancel",
        "resources/read",
        "notifications/progress",
    ] {
        assert_eq!(ask(method, meta), None, "{method}");
    }
    assert_eq!(
        ask("tools/list", &format!(r#"{meta},"cursor":"c""#)),
        None,
        "nobody asks for the same page again"
    );
    assert_eq!(ask("tools/list", ""), None, "it is bare by itself");
    assert_eq!(words(r#"{"jsonrpc":"2.0","method":"ping","params":{"x":1}}"#), None, "no request");
    let task = |id: &str| ask("tasks/get", &format!(r#"{meta},"taskId":"{id}""#)).unwrap();
    assert_eq!(task("t-1"), task("t-2"), "whose it is is told elsewhere");
    assert_ne!(task("t-1"), task(r"t-\u0031"));
    assert_ne!(
        ask("tools/list", &format!(r#"{meta},"taskId":"t-1""#)),
        ask("tools/list", &format!(r#"{meta},"taskId":"t-2""#))
    );
}

/// A message with one member for each, of names and values of few kinds, so that two are often alike.
fn message() -> impl Strategy<Value = Value> {
    let value = || {
        prop_oneof![
            Just(json!("a")),
            Just(json!("b")),
            Just(json!(1)),
            Just(json!({"a": "b"})),
            Just(Value::Null)
        ]
    };
    let members = |value: BoxedStrategy<Value>| {
        proptest::collection::btree_map("[abc]", value, 0..3)
            .prop_map(|members| Value::Object(members.into_iter().collect()))
    };
    let method = prop_oneof![Just("initialize"), Just("tools/list"), Just("ping"), Just("server/discover")];
    (method, members(value().boxed()), members(value().boxed()), members(value().boxed())).prop_map(
        |(method, client, meta, more)| {
            let mut params = json!({"clientInfo": client, "_meta": meta});
            params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"jsonrpc": "2.0", "method": method, "params": params})
        },
    )
}

proptest! {
    #[test]
    fn two_messages_are_the_same_words_only_if_all_but_their_ids_is_the_same(
        (one, other) in (message(), message()),
        ids in any::<[u32; 2]>(),
        tokens in proptest::option::of(("[a-z]{1,36}", 0..99_u8)),
    ) {
        let sent = |message: &Value, id: u32, token: Option<Value>| {
            let mut message = message.clone();
            message["id"] = json!(id);
            if let Some(token) = token {
                message["params"]["_meta"]["progressToken"] = token;
            }
            words(&message.to_string()).unwrap()
        };
        let first = sent(&one, ids[0], tokens.as_ref().map(|(text, _)| json!(text)));
        let again = sent(&one, ids[1], tokens.as_ref().map(|(_, number)| json!(number)));
        prop_assert_eq!(first, again);
        let differs = sent(&other, ids[1], tokens.as_ref().map(|(_, number)| json!(number)));
        prop_assert_eq!(first == differs, one == other);
    }
}
