//! Lists of a server: what is left is what was wanted, and nothing else changed.
#![no_main]

use guard_fuzz::rpc::Target;
use guard_fuzz::rpc::list::{self, Filtered};
use guard_fuzz::rpc::reply::{self, ReplyKind};
use libfuzzer_sys::fuzz_target;
use serde_json::{Map, Value};

const LISTS: [(&str, &str); 5] = [
    ("tools", "name"),
    ("prompts", "name"),
    ("resources", "uri"),
    ("resourceTemplates", "uriTemplate"),
    ("tasks", "taskId"),
];
/// Of these, a name that stands twice is not shown.
const SINGLE: [&str; 2] = ["tools", "prompts"];
/// A result with one of these is one that clients cache.
const CACHED: [&str; 4] = ["tools", "prompts", "resources", "resourceTemplates"];
const TTL_MAX: u64 = 300_000;

fn wanted(name: &str) -> bool {
    name.len() % 2 == 0
}

fn keep(target: Target<'_>) -> bool {
    match target {
        Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) | Target::Task(name) => wanted(name),
        Target::ServerRequest(_) | Target::Method | Target::Unnamed => panic!("{target:?} stands in no list"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = reply::look(bytes) else { return };
    let filtered = list::filter(bytes, &keep, TTL_MAX);
    let ReplyKind::Result(outcome) = read.kind else {
        // The guard asks the filter about results only.
        return;
    };
    let Ok(filtered) = filtered else { return };
    // Not every reader takes what this one leaves unread, such as a number beyond a float.
    let Ok(mut before) = serde_json::from_slice::<Value>(bytes) else { return };
    let after = match &filtered {
        Filtered::Unchanged => bytes,
        Filtered::Changed(changed) => {
            assert!(outcome.has_list || outcome.has_terms, "nothing told that there is a list");
            changed
        }
    };
    let after: Value = serde_json::from_slice(after).expect("it could be read before");
    let mut changed = false;
    if let Some(result) = before["result"].as_object_mut() {
        for (list, name) in LISTS {
            let Some(entries) = result.get_mut(list).and_then(Value::as_array_mut) else { continue };
            let all = entries.len();
            let name_of = |entry: &Value| entry[name].as_str().expect("every entry has its name").to_owned();
            let names: Vec<String> = entries.iter().map(name_of).collect();
            let is_single = |one: &str| {
                !SINGLE.contains(&list) || names.iter().filter(|other| *other == one).count() == 1
            };
            entries.retain(|entry| wanted(&name_of(entry)) && is_single(&name_of(entry)));
            changed |= entries.len() < all;
        }
        let has = |result: &Map<String, Value>, name: &str| result.get(name).is_some_and(|value| !value.is_null());
        let has_scope = has(result, "cacheScope");
        if has_scope {
            changed |= result["cacheScope"] != "private";
            result.insert("cacheScope".to_owned(), Value::from("private"));
        }
        if (has_scope || CACHED.iter().any(|list| has(result, list))) && has(result, "ttlMs") {
            let is_short = result["ttlMs"].as_f64().is_some_and(|ttl| ttl <= 300_000.0);
            changed |= !is_short;
            if !is_short {
                result.insert("ttlMs".to_owned(), Value::from(TTL_MAX));
            }
        }
    }
    assert_eq!(before, after);
    assert_eq!(changed, matches!(filtered, Filtered::Changed(_)));
});
