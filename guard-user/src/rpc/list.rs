//! Takes out of a server's list what an agent may not see, and leaves every other byte as it was.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Target;

/// A server's reply after [`filter`].
#[must_use]
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filtered {
    /// Forward the reply as it came.
    Unchanged,
    Changed(Bytes),
}

/// The reply has a list that the guard cannot read for sure, so it cannot tell what the agent would see.
#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error("the server's reply is not one JSON object")]
    NotAnObject,
    #[error("the server's list is not valid UTF-8")]
    NotUtf8(#[from] std::str::Utf8Error),
    /// A known member stands twice, an entry has no name, a list is no array, or the text is no JSON.
    #[error("the server's list cannot be read for sure: {0}")]
    Unreadable(#[from] serde_json::Error),
}

/// Drops the entries of `tools`, `prompts`, `resources`, `resourceTemplates` and `tasks` that `keep` does not want; a template
/// is asked about as [`Target::Resource`] with its template text. Entries that stay keep their bytes and order, and
/// `nextCursor` stays, so a page may become empty. If anything was dropped, `cacheScope: "public"` becomes
/// `"private"`, since another agent's list is another one.
///
/// Takes any server's message; one without a list is unchanged.
pub fn filter(raw: &[u8], mut keep: impl FnMut(Target<'_>) -> bool) -> Result<Filtered, ListError> {
    let text = std::str::from_utf8(raw)?;
    if !text.trim_ascii_start().starts_with('{') {
        return Err(ListError::NotAnObject);
    }
    let frame: Frame<'_> = serde_json::from_str(text)?;
    let Some(result) = frame.result.map(RawValue::get).filter(|result| result.starts_with('{')) else {
        return Ok(Filtered::Unchanged);
    };
    let lists: Lists<'_> = serde_json::from_str(result)?;
    let mut edits = Vec::new();
    let judged = [
        lists.tools.map(|list| kept(list, |Named { name }| keep(Target::Tool(&name)))),
        lists.prompts.map(|list| kept(list, |Named { name }| keep(Target::Prompt(&name)))),
        lists.resources.map(|list| kept(list, |Located { uri }| keep(Target::Resource(&uri)))),
        lists
            .resource_templates
            .map(|list| kept(list, |Template { uri_template }| keep(Target::Resource(&uri_template)))),
        lists.tasks.map(|list| kept(list, |Identified { task_id }| keep(Target::Task(&task_id)))),
    ];
    for edit in judged.into_iter().flatten() {
        edits.extend(edit?);
    }
    if edits.is_empty() {
        return Ok(Filtered::Unchanged);
    }
    if let Some(scope) = lists.cache_scope
        && serde_json::from_str::<Cow<'_, str>>(scope.get()).is_ok_and(|scope| scope == "public")
    {
        edits.push((scope.get(), "\"private\"".to_owned()));
    }
    Ok(Filtered::Changed(apply(text, edits).into()))
}

#[derive(Deserialize)]
struct Frame<'a> {
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Lists<'a> {
    #[serde(borrow)]
    tools: Option<&'a RawValue>,
    #[serde(borrow)]
    prompts: Option<&'a RawValue>,
    #[serde(borrow)]
    resources: Option<&'a RawValue>,
    #[serde(borrow)]
    resource_templates: Option<&'a RawValue>,
    #[serde(borrow)]
    tasks: Option<&'a RawValue>,
    #[serde(borrow)]
    cache_scope: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Named<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
}

#[derive(Deserialize)]
struct Located<'a> {
    #[serde(borrow)]
    uri: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Template<'a> {
    #[serde(borrow)]
    uri_template: Cow<'a, str>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Identified<'a> {
    #[serde(borrow)]
    task_id: Cow<'a, str>,
}

/// A part of the reply's text (by address, not by content) and what comes in its place.
type Edit<'a> = (&'a str, String);

/// The list without the entries that `keep` does not want; None if it wants them all.
fn kept<'a, T: Deserialize<'a>>(
    list: &'a RawValue,
    mut keep: impl FnMut(T) -> bool,
) -> Result<Option<Edit<'a>>, serde_json::Error> {
    let entries: Vec<&RawValue> = serde_json::from_str(list.get())?;
    let mut kept = Vec::with_capacity(entries.len());
    for entry in &entries {
        // A derived reader would take an array for the members in their order.
        if !entry.get().starts_with('{') {
            return Err(serde::de::Error::custom("an entry is no object"));
        }
        if keep(serde_json::from_str(entry.get())?) {
            kept.push(entry.get());
        }
    }
    Ok((kept.len() < entries.len()).then(|| (list.get(), format!("[{}]", kept.join(",")))))
}

fn apply(text: &str, edits: Vec<Edit<'_>>) -> String {
    let mut edits: Vec<(Range<usize>, String)> =
        edits.into_iter().map(|(part, new)| (range_in(text, part), new)).collect();
    edits.sort_unstable_by_key(|(range, _)| range.start);
    let mut out = String::with_capacity(text.len());
    let mut done = 0;
    for (range, new) in edits {
        out.push_str(text.get(done..range.start).unwrap_or_default());
        out.push_str(&new);
        done = range.end;
    }
    out.push_str(text.get(done..).unwrap_or_default());
    out
}

/// Where `part`, a borrowed piece of `text`, stands in it.
fn range_in(text: &str, part: &str) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(text.as_ptr().addr());
    start..start.saturating_add(part.len())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

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
        assert_eq!(without("z", text), text);
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
        let mut asked = Vec::new();
        let filtered = filter(text.as_bytes(), |target| {
            asked.push(format!("{target:?}"));
            false
        });
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
            names in prop::collection::vec(".{0,6}", 0..12),
            wanted in prop::collection::vec(any::<bool>(), 12),
            pretty in any::<bool>(),
        ) {
            let tools: Vec<_> = names.iter().map(|name| serde_json::json!({"description": name, "name": name})).collect();
            let reply = |tools: Vec<serde_json::Value>| {
                serde_json::json!({"id": 1, "result": {"a": "é", "tools": tools, "z": [1]}})
            };
            let before = reply(tools.clone());
            let text = if pretty { serde_json::to_vec_pretty(&before) } else { serde_json::to_vec(&before) }.unwrap();
            let mut answers = wanted.iter();
            let after = match filter(&text, |_| *answers.next().unwrap()).unwrap() {
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
}
