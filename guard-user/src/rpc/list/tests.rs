//! What is left of a server's lists.

use proptest::prelude::*;

use super::*;

/// Shows what the function wants; holds tools by the name of `held`.
struct Shows<F>(F);

impl<F: Fn(Target<'_>) -> bool> Judge for Shows<F> {
    fn shows(&self, target: Target<'_>) -> bool {
        self.0(target)
    }

    fn shows_any(&self, kind: Kind) -> bool {
        kind == Kind::Tool
    }

    fn held(&self, _list: &str, tools: &[(Cow<'_, str>, &RawValue)]) -> std::io::Result<Arc<[String]>> {
        Ok(tools.iter().map(|(name, _)| name.to_string()).filter(|name| name == "held").collect())
    }
}

const TTL_MAX: u64 = 1000;

fn filter(raw: &[u8], shows: impl Fn(Target<'_>) -> bool) -> Result<Filtered, ListError> {
    super::filter(raw, &Shows(shows), TTL_MAX)
}

fn all(text: &str) -> String {
    without("", text)
}

fn without(denied: &str, text: &str) -> String {
    match filter(text.as_bytes(), |target| target != Target::Tool(denied)).unwrap() {
        Filtered::Unchanged => text.to_owned(),
        Filtered::Changed(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
    }
}

#[test]
fn only_the_list_changes_and_what_stays_keeps_its_bytes() {
    let text = r#"{ "jsonrpc" : "2.0",  "id":1.0e0, "result": {"nextCursor":"c", "tools" : [ {"name": "a", "x": 1.00},
        {"n\u0061me":"b"} , {"name":"c","name2":"b","inputSchema":{"name":"b"}} ], "ttlMs":5,"cacheScope" : "public"} } "#;
    let expected = r#"{ "jsonrpc" : "2.0",  "id":1.0e0, "result": {"nextCursor":"c", "tools" : [{"name": "a", "x": 1.00},{"name":"c","name2":"b","inputSchema":{"name":"b"}}], "ttlMs":5,"cacheScope" : "private"} } "#;
    assert_eq!(without("b", text), expected);
}

#[test]
fn nothing_that_is_for_one_agent_is_for_all_caches_or_for_long() {
    let list = |terms: &str| format!(r#"{{"id":1,"result":{{"tools":[],{terms}}}}}"#);
    for (before, after) in [
        (r#""cacheScope" : "public","ttlMs":5"#, r#""cacheScope" : "private","ttlMs":5"#),
        (r#""cacheScope":"p\u0075blic","ttlMs": 1001"#, r#""cacheScope":"private","ttlMs": 1000"#),
        (r#""cacheScope":7,"ttlMs":1e300"#, r#""cacheScope":"private","ttlMs":1000"#),
        (r#""ttlMs":"9999","cacheScope":"private""#, r#""ttlMs":1000,"cacheScope":"private""#),
    ] {
        assert_eq!(all(&list(before)), list(after));
    }
    for same in
        [r#""cacheScope":"private","ttlMs":1000"#, r#""cacheScope":"private","ttlMs":0.5"#, r#""x":1"#]
    {
        assert_eq!(all(&list(same)), list(same));
    }
    // What a task says of its own time is not about a cache.
    let task = r#"{"id":1,"result":{"resultType":"task","taskId":"t","ttlMs":999999}}"#;
    assert_eq!(all(task), task);
}

#[test]
fn a_capability_without_anything_to_use_is_dropped() {
    let text = r#"{"id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{ "logging":{} , "prompts":{"a":[1]},
        "tools" : {"listChanged":true},"resources":{},"completions":{}, "x":1 }}}"#;
    let expected = r#"{"id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"logging":{},"tools" : {"listChanged":true},"x":1}}}"#;
    assert_eq!(all(text), expected);
    for same in [
        r#"{"id":1,"result":{"capabilities":{"tools":{}}}}"#,
        r#"{"id":1,"result":{"capabilities":["prompts"]}}"#,
        r#"{"id":1,"result":{"content":[],"capabilities":{"prompts":{}}}}"#,
    ] {
        assert_eq!(all(same), same);
    }
    let twice = br#"{"id":1,"result":{"capabilities":{"prompts":{},"prompts":{}}}}"#;
    assert!(filter(twice, |_| true).is_err());
}

#[test]
fn of_a_name_that_stands_twice_no_entry_is_shown() {
    let text = r#"{"result":{"tools":[{"name":"a","x":1},{"name":"b"},{"n\u0061me":"\u0061","x":2}],"prompts":[{"name":"a"},{"name":"p"},{"name":"p"}]}}"#;
    assert_eq!(all(text), r#"{"result":{"tools":[{"name":"b"}],"prompts":[{"name":"a"}]}}"#);
}

#[test]
fn a_held_tool_is_shown_to_nobody() {
    let text = r#"{"result":{"tools":[{"name":"a"},{"name":"held"}],"prompts":[{"name":"held"}]}}"#;
    assert_eq!(all(text), r#"{"result":{"tools":[{"name":"a"}],"prompts":[{"name":"held"}]}}"#);
}

#[test]
fn an_empty_page_keeps_its_cursor() {
    let text = r#"{"id":1,"result":{"cacheScope":"private","tools":[{"name":"a"}],"nextCursor":"c"}}"#;
    assert_eq!(
        without("a", text),
        r#"{"id":1,"result":{"cacheScope":"private","tools":[],"nextCursor":"c"}}"#
    );
}

#[test]
fn each_list_is_asked_about_by_its_own_kind_of_target() {
    let text = r#"{"result":{"resources":[{"uri":"u:1","name":"n"}],"prompts":[{"name":"p"}],
        "resourceTemplates":[{"uriTemplate":"u:{x}"}],"tools":[{"name":"t"}]}}"#;
    let asked = std::cell::RefCell::new(Vec::new());
    let filtered = filter(text.as_bytes(), |target| {
        asked.borrow_mut().push(format!("{target:?}"));
        false
    });
    let mut asked = asked.into_inner();
    asked.sort();
    assert_eq!(asked, [r#"Prompt("p")"#, r#"Resource("u:1")"#, r#"Resource("u:{x}")"#, r#"Tool("t")"#]);
    let Filtered::Changed(bytes) = filtered.unwrap() else { panic!("nothing was dropped") };
    let value: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(
        value["result"],
        serde_json::json!({"resources":[],"prompts":[],"resourceTemplates":[],"tools":[]})
    );
}

#[test]
fn a_message_without_a_list_is_unchanged() {
    for text in [
        r#"{"method":"notifications/tools/list_changed","params":{"tools":[{"name":"a"}]}}"#,
        r#"{"id":1,"result":{"content":[],"structuredContent":{"tools":[{"name":"a"}]}}}"#,
        r#"{"id":1,"result":null}"#,
        r#"{"id":1,"result":[{"tools":[{"name":"a"}]}]}"#,
        r#"{"id":1,"error":{"code":1}}"#,
    ] {
        assert_eq!(filter(text.as_bytes(), |_| false).unwrap(), Filtered::Unchanged, "{text}");
    }
}

#[test]
fn a_list_that_cannot_be_read_for_sure_is_refused() {
    for text in [
        &br#"{"result":{"tools":[{"name":"a"}],"tools":[]}}"#[..],
        br#"{"result":{"tools":[]},"result":{}}"#,
        br#"{"result":{"tools":[{"name":"a","n\u0061me":"b"}]}}"#,
        br#"{"result":{"tools":[{"title":"a"}]}}"#,
        br#"{"result":{"tools":[["a"]]}}"#,
        br#"{"result":{"resourceTemplates":[["u:1"]]}}"#,
        br#"{"result":{"tools":[{"name":5}]}}"#,
        br#"{"result":{"tools":{"name":"a"}}}"#,
        br#"{"result":{"tools":[{"name":"\ud800"}]}}"#,
        b"{\"result\":{\"tools\":[{\"name\":\"\xff\"}]}}",
        br#"{"result":{"tools":[]}}}"#,
        br#"[{"result":{"tools":[]}}]"#,
        b"\xef\xbb\xbf{}",
        b"",
    ] {
        assert!(filter(text, |_| true).is_err(), "{}", text.escape_ascii());
    }
}

proptest! {
    #[test]
    fn what_is_left_is_what_was_wanted_in_order(
        names in prop::collection::btree_set(".{0,6}", 0..12),
        wanted in prop::collection::vec(any::<bool>(), 12),
        pretty in any::<bool>(),
    ) {
        let tools: Vec<_> = names.iter().map(|name| serde_json::json!({"description": name, "name": name})).collect();
        let reply = |tools: Vec<serde_json::Value>| {
            serde_json::json!({"id": 1, "result": {"a": "é", "tools": tools, "z": [1]}})
        };
        let before = reply(tools.clone());
        let text = if pretty { serde_json::to_vec_pretty(&before) } else { serde_json::to_vec(&before) }.unwrap();
        let is_wanted = |target: Target<'_>| names.iter().zip(&wanted).any(|(name, wanted)| Target::Tool(name) == target && *wanted);
        let after = match filter(&text, is_wanted).unwrap() {
            Filtered::Unchanged => before.clone(),
            Filtered::Changed(bytes) => serde_json::from_slice(&bytes).unwrap(),
        };
        let left = tools.into_iter().zip(&wanted).filter(|(_, wanted)| **wanted).map(|(tool, _)| tool).collect();
        prop_assert_eq!(after, reply(left));
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        _ = filter(&[b"{\"result\":{\"tools\":[", bytes.as_slice(), b"]}}"].concat(), |_| false);
    }
}
