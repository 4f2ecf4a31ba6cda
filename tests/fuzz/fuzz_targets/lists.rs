//! Lists of a server: what is left is what was wanted, and nothing else changed.
#![no_main]

use guard_fuzz::rpc::Target;
use guard_fuzz::rpc::list::{self, Filtered};
use guard_fuzz::rpc::reply::{self, ReplyKind};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

const LISTS: [(&str, &str); 4] =
    [("tools", "name"), ("prompts", "name"), ("resources", "uri"), ("resourceTemplates", "uriTemplate")];

fn wanted(name: &str) -> bool {
    name.len() % 2 == 0
}

fn keep(target: Target<'_>) -> bool {
    match target {
        Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) => wanted(name),
        Target::Method | Target::Unnamed => panic!("{target:?} stands in no list"),
    }
}

fuzz_target!(|bytes: &[u8]| {
    let Ok(read) = reply::look(bytes) else { return };
    let filtered = list::filter(bytes, keep);
    let ReplyKind::Result { has_list, .. } = read.kind else {
        // The guard asks the filter about results only.
        return;
    };
    let Ok(filtered) = filtered else { return };
    // Not every reader takes what this one leaves unread, such as a number beyond a float.
    let Ok(mut before) = serde_json::from_slice::<Value>(bytes) else { return };
    let after = match &filtered {
        Filtered::Unchanged => bytes,
        Filtered::Changed(changed) => {
            assert!(has_list, "nothing told that there is a list");
            changed
        }
    };
    let after: Value = serde_json::from_slice(after).expect("it could be read before");
    let mut dropped = false;
    if let Some(result) = before["result"].as_object_mut() {
        for (list, name) in LISTS {
            let Some(entries) = result.get_mut(list).and_then(Value::as_array_mut) else { continue };
            let all = entries.len();
            entries.retain(|entry| wanted(entry[name].as_str().expect("every entry has its name")));
            dropped |= entries.len() < all;
        }
        if dropped && result.get("cacheScope") == Some(&Value::from("public")) {
            result.insert("cacheScope".to_owned(), Value::from("private"));
        }
    }
    assert_eq!(before, after);
    assert_eq!(dropped, matches!(filtered, Filtered::Changed(_)));
});
