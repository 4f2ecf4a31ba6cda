//! What is learned from a trail.

use super::*;
use crate::audit::record::tests::call;
use crate::audit::{Reading, Refusal, calls};

fn read(dir: &Path) -> (std::io::Result<Reading>, Vec<(String, String)>) {
    let mut found = Vec::new();
    let reading =
        calls(&dir.join("audit"), &mut |call| found.push((call.server, call.decision)), &mut |_, _| {});
    (reading, found)
}

async fn written(dir: &Path) {
    let log = open(dir).unwrap();
    log.intend(&call(1)).await.unwrap().conclude(&ok());
    log.refuse(&call(2), Refusal::Deny, 200).await.unwrap();
    log.close().await;
}

#[tokio::test]
async fn calls_are_read_in_their_order_and_checked() {
    let dir = tempdir();
    written(dir.path()).await;
    let (reading, found) = read(dir.path());
    let reading = reading.unwrap();
    let decisions: Vec<_> = found.iter().map(|(_, decision)| decision.as_str()).collect();
    assert_eq!(decisions, ["allow", "deny"]);
    assert_eq!((reading.verified, reading.fault, reading.records), (true, None, 5));
    assert!(reading.begins < reading.ends);
}

#[tokio::test]
async fn a_trail_that_was_changed_gives_no_calls_to_learn_from() {
    let dir = tempdir();
    written(dir.path()).await;
    let segment = dir.path().join("audit/00000000000000000000.jsonl");
    let text = std::fs::read_to_string(&segment).unwrap();
    std::fs::write(&segment, text.replacen("\"decision\":\"deny\"", "\"decision\":\"hold\"", 1)).unwrap();
    let (reading, _) = read(dir.path());
    assert!(reading.is_err(), "{reading:?}");
}

#[tokio::test]
async fn a_trail_without_its_beginning_is_read_and_said_not_to_be_checked() {
    let dir = tempdir();
    written(dir.path()).await;
    let audit = dir.path().join("audit");
    std::fs::rename(audit.join("00000000000000000000.jsonl"), audit.join("00000000000000000007.jsonl"))
        .unwrap();
    let (reading, found) = read(dir.path());
    let reading = reading.unwrap();
    assert_eq!((reading.verified, found.len()), (false, 2));
    assert!(reading.fault.unwrap().contains("first files"));
}
