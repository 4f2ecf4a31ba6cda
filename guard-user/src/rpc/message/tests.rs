use proptest::prelude::*;

use super::*;

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    headers
}

fn read(body: &str) -> Result<Message, FrameError> {
    decode(&headers(), Bytes::copy_from_slice(body.as_bytes()), 64)
}

fn reason(body: &str) -> &'static str {
    read(body).unwrap_err().fault.reason()
}

#[test]
fn each_kind_of_message_is_told_from_the_others() {
    let request = read(r#"{"jsonrpc":"2.0","id":"7","method":"ping"}"#).unwrap();
    assert_eq!(request.kind(), &Kind::Request { id: Id::String("7".to_owned()) });
    assert_eq!((request.method(), request.target()), ("ping", Target::Method));
    let notification = read(r#"{"method":"notifications/initialized","jsonrpc":"2.0"}"#).unwrap();
    assert_eq!((notification.kind(), notification.id()), (&Kind::Notification, None));
    for body in [r#"{"jsonrpc":"2.0","id":3,"result":{}}"#, r#"{"jsonrpc":"2.0","id":3,"error":{"code":1}}"#]
    {
        assert_eq!(read(body).unwrap().kind(), &Kind::Response { id: Id::Number(3) });
        assert_eq!(read(body).unwrap().method(), "");
    }
}

#[test]
fn the_target_is_what_the_method_is_about() {
    let target = |method: &str, params: &str| {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        format!("{:?}", read(&body).unwrap().target())
    };
    assert_eq!(target("tools/call", r#"{"n\u0061me":"a","uri":"x"}"#), r#"Tool("a")"#);
    assert_eq!(target("t\\u006fols\\/call", r#"{"name":"a"}"#), r#"Tool("a")"#);
    assert_eq!(target("prompts/get", r#"{"name":"a"}"#), r#"Prompt("a")"#);
    for method in ["resources/read", "resources/subscribe", "resources/unsubscribe"] {
        assert_eq!(target(method, r#"{"uri":"u:1","name":"a"}"#), r#"Resource("u:1")"#);
    }
    let complete = |reference: &str| target("completion/complete", &format!(r#"{{"ref":{reference}}}"#));
    assert_eq!(complete(r#"{"type":"ref/prompt","name":"a","uri":"u"}"#), r#"Prompt("a")"#);
    assert_eq!(complete(r#"{"type":"ref/resource","name":"a","uri":"u"}"#), r#"Resource("u")"#);
    assert_eq!(target("tools/list", r#"{"name":"a"}"#), "Method");
    assert_eq!(target("Tools/call", r#"{"name":"a"}"#), "Method");
}

#[test]
fn a_named_method_without_a_readable_name_is_unnamed() {
    for (method, params) in [
        ("tools/call", "{}"),
        ("tools/call", r#"{"name":5}"#),
        ("resources/read", r#"{"name":"a"}"#),
        ("prompts/get", r#"{"name":null}"#),
        ("completion/complete", "{}"),
        ("completion/complete", r#"{"ref":{"name":"a"}}"#),
        ("completion/complete", r#"{"ref":{"type":"ref/tool","name":"a"}}"#),
    ] {
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#);
        assert_eq!(read(&body).unwrap().target(), Target::Unnamed, "{body}");
    }
    assert_eq!(read(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call"}"#).unwrap().target(), Target::Unnamed);
}

#[test]
fn arguments_and_progress_token_are_given_as_sent() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":
        {"name":"a","arguments":{"Name":1,"name":2,"ключ":"\u0000"},"_meta":{"progressToken":"p","x\u0000":1}}}"#;
    let message = read(body).unwrap();
    assert_eq!(message.arguments().unwrap().as_object().unwrap().len(), 3);
    assert_eq!(message.progress_token(), Some(&Id::String("p".to_owned())));
    assert_eq!(message.raw(), body);
}

#[test]
fn arguments_that_the_method_does_not_have_are_none() {
    let body = r#"{"jsonrpc":"2.0","id":1,"method":"completion/complete","params":{"ref":{"type":"ref/prompt",
        "name":"a"},"argument":{"name":"to","value":"x"},"arguments":{"to":"a@good.example"}}}"#;
    assert!(read(body).unwrap().arguments().is_none());
}

#[test]
fn every_sign_of_a_stateless_request_makes_it_modern() {
    let plain = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
    let era = |name: &'static str, value: &str| {
        let mut headers = headers();
        headers.insert(name, value.parse().unwrap());
        decode(&headers, Bytes::copy_from_slice(plain.as_bytes()), 64).unwrap().era()
    };
    assert_eq!(read(plain).unwrap().era(), Era::Legacy);
    assert_eq!(era("mcp-protocol-version", "2025-11-25"), Era::Legacy);
    assert_eq!(era("mcp-protocol-version", "2026-07-28"), Era::Modern);
    assert_eq!(era("mcp-protocol-version", "2027-01-01"), Era::Modern);
    assert_eq!(era("mcp-method", "tools/list"), Era::Modern);
    let meta = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"_meta":{"io.modelcontextprotocol/protocolVersion":5}}}"#;
    assert_eq!(read(meta).unwrap().era(), Era::Modern);
}

#[test]
fn the_id_is_echoed_only_when_it_was_read_beyond_doubt() {
    let id = |body: &str| read(body).unwrap_err().id;
    assert_eq!(id(r#"{"id":4,"method":"a","jsonrpc":"1.0"}"#), Some(Id::Number(4)));
    assert_eq!(id(r#"{"x":1,"jsonrpc":"2.0","method":"a","id":4}"#), Some(Id::Number(4)));
    assert_eq!(id(r#"{"jsonrpc":"2.0","method":"a","id":4,"id":4}"#), None);
    assert_eq!(id(r#"{"jsonrpc":"2.0","method":"a","id":1.0}"#), None);
    assert_eq!(id(r#"[{"jsonrpc":"2.0","method":"a","id":4}]"#), None);
}

#[test]
fn each_fault_has_its_status_and_code() {
    let mut gzip = headers();
    gzip.insert("content-encoding", "gzip".parse().unwrap());
    let fault = decode(&gzip, Bytes::from_static(b"{}"), 64).unwrap_err().fault;
    assert_eq!((fault.status().as_u16(), fault.code(), fault.reason()), (415, -32600, "content_encoding"));
    let fault = read("{").unwrap_err().fault;
    assert_eq!((fault.status().as_u16(), fault.code(), fault.reason()), (400, -32700, "json_syntax"));
    let fault = read(r#"{"id":1,"id":1}"#).unwrap_err().fault;
    assert_eq!((fault.status().as_u16(), fault.code(), fault.reason()), (400, -32600, "json_duplicate_key"));
    assert_eq!(Fault::BodyTooLarge { bytes_max: 9 }.status().as_u16(), 413);
}

#[test]
fn lengths_are_bounded() {
    let call = |name: usize| {
        let name = "n".repeat(name);
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{name}"}}}}"#)
    };
    assert!(read(&call(TARGET_BYTES_MAX)).is_ok());
    assert_eq!(reason(&call(TARGET_BYTES_MAX + 1)), "text_too_long");
    let method = |bytes: usize| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "m".repeat(bytes));
    assert!(read(&method(METHOD_BYTES_MAX)).is_ok());
    assert_eq!(reason(&method(METHOD_BYTES_MAX + 1)), "text_too_long");
}

#[test]
fn a_listen_names_so_many_things() {
    let listen = |names: usize| {
        let uris: Vec<String> = (0..names).map(|n| format!("a://{n}")).collect();
        let params = serde_json::json!({"notifications": {"resourceSubscriptions": uris}});
        let message = serde_json::json!({"jsonrpc": "2.0", "id": 1, "method": "subscriptions/listen", "params": params});
        read(&message.to_string()).map(|_message| ()).map_err(|error| error.fault)
    };
    assert_eq!(listen(LISTENED_MAX), Ok(()));
    assert_eq!(listen(LISTENED_MAX + 1), Err(Fault::TooMuchListened { names_max: LISTENED_MAX }));
}

#[test]
fn everything_that_a_listen_names_is_judged_and_what_nobody_knows_is_unnamed() {
    let listened = |filter: &str| {
        let params = format!(r#"{{"notifications":{filter}}}"#);
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{params}}}"#);
        let message = read(&body).unwrap();
        message.listened().iter().map(|target| format!("{target:?}")).collect::<Vec<_>>()
    };
    let filter = r#"{"toolsListChanged":true,"resourceSubscriptions":["a://1","a://2"],"taskIds":["t"]}"#;
    assert_eq!(listened(filter), [r#"Resource("a://1")"#, r#"Resource("a://2")"#, r#"Task("t")"#]);
    assert_eq!(listened(r#"{"toolsListChanged":true}"#), [""; 0]);
    assert_eq!(listened("{}"), [""; 0]);
    for unreadable in [r#""a://1""#, r"[1]", r#"{"0":"a://1"}"#, "null"] {
        for key in ["resourceSubscriptions", "taskIds"] {
            assert_eq!(listened(&format!(r#"{{"{key}":{unreadable}}}"#)), ["Unnamed"]);
        }
    }
    assert_eq!(listened(r#"{"promptIds":["a"]}"#), ["Unnamed"]);
    assert_eq!(listened("7"), ["Unnamed"]);
}

proptest! {
    #[test]
    fn what_is_forwarded_is_what_was_judged(name in ".{0,30}", space in "[ \t\r\n]{0,4}", id in any::<i32>()) {
        let name = serde_json::to_string(&name).unwrap();
        let body = format!(
            r#"{space}{{"jsonrpc":{space}"2.0","id":{id},"method":"tools/call","params":{{"arguments":{{"q":{name}}}}}}}{space}"#
        );
        prop_assert_eq!(read(&body).unwrap().raw(), body);
    }

    #[test]
    fn no_body_makes_it_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        _ = decode(&headers(), body.into(), 64);
    }

    #[test]
    fn a_second_key_anywhere_in_a_call_is_refused(at in 0_usize..5) {
        let mut body = r#"{"jsonrpc":"2.0","id":1,"method":"m","params":{"name":"a","_meta":{"k":1},"arguments":{"o":[{"z":1}]}}}"#.to_owned();
        let opening = body.match_indices('{').nth(at).unwrap().0;
        let keys = ["jsonrpc", "name", "k", "o", "z"];
        body.insert_str(opening + 1, &format!("\"{}\":0,", keys[at]));
        prop_assert_eq!(reason(&body), "json_duplicate_key");
    }

    #[test]
    fn a_plain_reader_sees_the_same_call(
        at in any::<prop::sample::Index>(),
        with in prop_oneof![
            Just(r#""name":"b","#), Just(r#""n\u0061me":"b""#), Just("{"), Just("}"), Just(","), Just("\""), Just("\\u0000"),
            Just("\\"), Just(" "), Just("Name"), Just("e0"), Just(".0"), Just("[]"), Just(":"), Just("\\/"), Just("0"),
        ],
        cut in 0_usize..3,
    ) {
        let mut body = r#"{"jsonrpc":"2.0","id":17,"method":"tools/call","params":{"name":"a","arguments":{"name":"c"}}}"#.to_owned();
        let start = at.index(body.len() + 1);
        body.replace_range(start..(start + cut).min(body.len()), with);
        if let Ok(message) = read(&body) {
            let plain: serde_json::Value = serde_json::from_str(&body).unwrap();
            prop_assert_eq!(message.method(), plain["method"].as_str().unwrap_or_default());
            prop_assert_eq!(message.id().map(|id| serde_json::to_value(id).unwrap()), plain.get("id").cloned());
            let name = plain["params"]["name"].as_str();
            match message.target() {
                Target::Tool(tool) => prop_assert_eq!(Some(tool), name),
                Target::Unnamed => prop_assert_eq!(name, None),
                _ => prop_assert_ne!(message.method(), "tools/call"),
            }
        }
    }
}
