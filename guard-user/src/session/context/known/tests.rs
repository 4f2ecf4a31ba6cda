use std::sync::Arc;

use bytes::Bytes;
use http::HeaderMap;
use serde_json::json;

use super::super::tests::{label, limits, owner};
use super::super::{Contexts, book};
use super::*;
use crate::rpc::decode;

/// Of a client with this name.
fn words(name: &str) -> Words {
    let params = json!({"clientInfo": {"name": name}});
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}).to_string();
    let mut headers = HeaderMap::new();
    headers.insert("content-type", "application/json".parse().unwrap());
    decode(&headers, Bytes::from(message), 64).unwrap().words().unwrap()
}

fn server(name: &str) -> ServerName {
    ServerName::parse(name).unwrap()
}

fn knows(contexts: &Contexts, user: u32, at: &str, name: &str) -> bool {
    contexts.compare(&contexts.enter(&owner("a", user)), &server(at), words(name)).is_known
}

async fn learn(contexts: &Arc<Contexts>, user: u32, at: &str, name: &str) {
    let said = contexts.compare(&contexts.enter(&owner("a", user)), &server(at), words(name));
    contexts.learn(&said).await;
}

#[tokio::test]
async fn the_first_few_messages_are_known_to_their_server_and_outlive_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let mut contexts = open();
    let names: Vec<String> = (0..KNOWN_PER_SERVER_MAX).map(|at| format!("client-{at}")).collect();
    for name in &names {
        learn(&contexts, 1, "s", name).await;
    }
    let lines = || std::fs::read_to_string(dir.path().join(book::FILE)).unwrap().lines().count();
    let before = lines();
    // No other one takes the place of one of them, and none is written twice.
    for name in ["one-more", "client-0", "client-3"] {
        learn(&contexts, 1, "s", name).await;
    }
    assert_eq!((before, lines()), (1 + KNOWN_PER_SERVER_MAX, 1 + KNOWN_PER_SERVER_MAX));
    for _restart in 0..3 {
        assert!(names.iter().all(|name| knows(&contexts, 1, "s", name)));
        assert!(!knows(&contexts, 1, "s", "one-more"));
        assert!(!knows(&contexts, 1, "another", "client-0"), "another server has not heard it");
        assert!(!knows(&contexts, 2, "s", "client-0"), "another user has not said it");
        contexts = open();
    }
    // Another server has its own room.
    learn(&contexts, 1, "another", "one-more").await;
    assert!(knows(&contexts, 1, "another", "one-more") && !knows(&contexts, 1, "s", "one-more"));
}

#[tokio::test]
async fn what_was_said_is_forgotten_with_its_context() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Arc::new(Contexts::open(dir.path(), &limits(8, 60)).unwrap());
    let contexts = open();
    learn(&contexts, 1, "s", "t").await;
    learn(&contexts, 2, "s", "t").await;
    contexts.raise(&contexts.enter(&owner("a", 2)), &label("internal")).await.unwrap();
    let under_way = contexts.compare(&contexts.enter(&owner("a", 1)), &server("s"), words("u"));
    let cleared = contexts.clear(|_whose| true);
    assert_eq!(cleared.len(), 1, "that nothing was read in the other one needs no record");
    contexts.learn(&under_way).await;
    let file = || std::fs::read_to_string(dir.path().join(book::FILE)).unwrap();
    while file().matches(r#""is":"over""#).count() < 2 {
        tokio::task::yield_now().await;
    }
    for contexts in [contexts, open()] {
        for (user, name) in [(1, "t"), (2, "t"), (1, "u")] {
            assert!(!knows(&contexts, user, "s", name), "{user} {name}");
        }
    }
}

#[test]
fn a_file_of_a_former_format_is_read_and_no_line_that_nobody_wrote() {
    let dir = tempfile::tempdir().unwrap();
    let open = |lines: &[String]| {
        std::fs::write(dir.path().join(book::FILE), lines.join("\n") + "\n").unwrap();
        Contexts::open(dir.path(), &limits(8, 60))
    };
    let format = |format: u32| json!({"is": "format", "format": format}).to_string();
    let whose = json!({"agent": "a", "user": "user-1"});
    let read = json!({"is": "read", "id": 7, "whose": whose, "label": "restricted"}).to_string();
    let said = |id: u64, words: &serde_json::Value| {
        json!({"is": "said", "id": id, "whose": whose, "server": "s", "words": words}).to_string()
    };
    let of = |name: &str| json!(words(name));
    let contexts = open(&[format(1), read.clone()]).unwrap();
    assert_eq!(contexts.read_by(&owner("a", 1)), [label("restricted")]);
    // However many there are, the first ones count, and one of a context that is over is of no other.
    let mut lines =
        vec![format(2), said(6, &of("old")), json!({"is": "over", "id": 6}).to_string(), read.clone()];
    lines.push(said(6, &of("late")));
    lines.extend((0..20).map(|at| said(7, &of(&format!("client-{at}")))));
    let contexts = open(&lines).unwrap();
    assert_eq!(contexts.read_by(&owner("a", 1)), [label("restricted")]);
    for (name, is_known) in
        [("old", false), ("late", false), ("client-0", true), ("client-15", true), ("client-16", false)]
    {
        assert_eq!(knows(&contexts, 1, "s", name), is_known, "{name}");
    }
    for wrong in [json!("ab"), json!(7), json!(null), json!("z".repeat(64))] {
        assert!(open(&[format(2), said(7, &wrong), read.clone()]).is_err(), "{wrong}");
    }
    assert!(open(&[format(3), read.clone()]).is_err());
}
