use http::{HeaderMap, StatusCode};

use super::*;
use crate::respond::refuse_on;
use crate::types::DecisionId;

fn asked() -> Asked {
    let mut asked = Asked::unread(DecisionId([0; 16]), &HeaderMap::new());
    asked.what = super::super::What::ToolCall { id: serde_json::from_str("7").unwrap(), tool: "open".into() };
    asked
}

#[tokio::test]
async fn a_client_that_takes_nothing_learns_of_a_refusal_by_an_error() {
    let (link, mut told) = Link::new();
    let refuse = || refuse_on(&link, &asked(), &Refusal::SessionOver).unwrap().status();
    for _ in 0..TOLD_MAX {
        assert_eq!(refuse(), StatusCode::ACCEPTED);
    }
    assert_eq!(refuse(), StatusCode::SERVICE_UNAVAILABLE);
    told.recv().await.unwrap();
    assert_eq!(refuse(), StatusCode::ACCEPTED);
}

#[test]
fn a_link_is_removed_by_itself_and_not_by_its_path() {
    let (links, server) = (Links::default(), ServerName::parse("demo").unwrap());
    let path = SessionId::parse(b"/message").unwrap();
    let ((old, _), (new, _)) = (Link::new(), Link::new());
    links.add(&server, &path, &old);
    links.add(&server, &path, &new);
    links.remove(&server, &path, &old);
    assert!(links.find(&server, &path).is_some_and(|found| Arc::ptr_eq(&found, &new)));
    links.remove(&server, &path, &new);
    assert!(links.find(&server, &path).is_none());
}
