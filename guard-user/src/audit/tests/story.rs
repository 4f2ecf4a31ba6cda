//! What a healthy guard writes.

use super::*;
use crate::audit::record::tests::call;
use crate::audit::{
    AuditError, BootMoment, CallRecord, Cause, Event, Local, RECORD_SCHEMA, Refusal, TookEffect, Why,
};
use crate::rules::Digests;
use serde_json::json;

#[tokio::test]
async fn a_trail_tells_the_whole_life_of_a_guard() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    let start = Event::Start {
        version: "0.1.0",
        pid: 7,
        durability: Durability::Durable,
        digest_key: "0123456789abcdef",
        config: &"0".repeat(64),
        schema: RECORD_SCHEMA,
        moment: BootMoment::now(),
    };
    assert_eq!(log.note(&start).await, Ok(1));
    let digests = Digests { credentials: Some("1".repeat(64)), ..Digests::default() };
    let took_effect =
        TookEffect { digest: "abc", text: None, cause: Cause::Operator { uid: 1000 }, digests: &digests };
    log.note(&Event::Policy(took_effect)).await.unwrap();
    let permit = log.intend(&call(1)).await.unwrap();
    assert_eq!((permit.id(), permit.seq()), (call(1).id, 3));
    permit.conclude(&ok());
    assert_eq!(log.refuse(&call(2), Refusal::Deny, 200).await, Ok(5));
    log.close().await;

    assert_eq!(kinds(dir.path()), ["genesis", "start", "policy", "call", "outcome", "call", "stop"]);
    let records = records(dir.path());
    assert_eq!(records[0]["host"], "box 1");
    assert!(records[0]["origin"].as_str().unwrap().starts_with("box-1/mcp-guard/"));
    assert!(records[1]["boot_id"].is_string() && records[1]["boot_milliseconds"].is_u64());
    assert_eq!(records[2]["digests"], json!({"credentials": "1".repeat(64)}));
    assert_eq!((&records[2]["cause"], &records[2]["uid"]), (&json!("operator"), &json!(1000)));
    assert_eq!(records[4]["call_seq"], 3);
    assert_eq!(records[4]["id"], records[3]["id"]);
    assert_eq!(records[5]["decision"], "deny");

    let report = sound(dir.path());
    assert_eq!((report.records, report.unsigned_records, report.open_calls), (7, 0, 0));
    assert_eq!((report.counts.calls, report.counts.refusals, report.counts.outcomes), (1, 1, 1));
}

#[tokio::test]
async fn a_permit_that_is_dropped_is_recorded_as_abandoned() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    drop(log.intend(&call(1)).await.unwrap());
    log.close().await;
    assert_eq!(records(dir.path())[2]["result"], "abandoned");
    assert_eq!(records(dir.path())[2].get("reason"), None);
    sound(dir.path());
}

#[tokio::test]
async fn a_permit_that_is_given_up_is_recorded_with_the_reason() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    let why = Why::default();
    let permit = log.intend(&call(1)).await.unwrap().heeding(&why);
    why.tell("blocked");
    why.tell("session_over");
    drop(permit);
    // What had an outcome of its own keeps it.
    log.intend(&call(2)).await.unwrap().heeding(&why).conclude(&ok());
    log.close().await;
    let closing: Vec<_> =
        records(dir.path()).into_iter().filter(|record| record["kind"] == "outcome").collect();
    let told = |at: usize| (closing[at]["result"].as_str().unwrap(), closing[at].get("reason").cloned());
    assert_eq!(told(0), ("abandoned", Some("blocked".into())));
    assert_eq!(told(1), ("ok", None));
    sound(dir.path());
}

#[test]
fn a_permit_can_go_into_a_response_body_on_another_thread() {
    fn fits<T: Send + 'static>() {}
    fits::<crate::audit::Permit>();
    fits::<AuditLog>();
}

#[tokio::test]
async fn an_outcome_is_recorded_though_the_waiting_task_is_gone() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    let permit = log.intend(&call(1)).await.unwrap();
    // The task that served the client ends; the permit lives on in the one that reads the server's answer.
    let reader = tokio::spawn(async move {
        tokio::task::yield_now().await;
        permit.conclude(&ok());
    });
    reader.await.unwrap();
    log.close().await;
    assert_eq!(records(dir.path())[2]["result"], "ok");
}

#[tokio::test]
async fn one_call_more_than_the_limit_is_refused_until_an_outcome_is_written() {
    let dir = tempdir();
    let log = AuditLog::open(Options { calls_in_flight_max: 2, ..options(dir.path()) }).unwrap();
    let first = log.intend(&call(1)).await.unwrap();
    let _second = log.intend(&call(2)).await.unwrap();
    assert_eq!(log.intend(&call(3)).await.err(), Some(AuditError::Busy(2)));
    first.conclude(&ok());
    // The outcome stands before this record in the queue.
    log.refuse(&call(3), Refusal::Deny, 200).await.unwrap();
    assert!(log.intend(&call(4)).await.is_ok());
}

#[tokio::test]
async fn one_agent_leaves_room_for_the_others_and_for_the_guard() {
    let dir = tempdir();
    let options = Options { calls_in_flight_max: 4, calls_in_flight_per_agent_max: 2, ..options(dir.path()) };
    let log = AuditLog::open(options).unwrap();
    let of = |agent| CallRecord { agent: Some(agent), ..call(1) };
    let first = log.intend(&of("a")).await.unwrap();
    let _second = log.intend(&of("a")).await.unwrap();
    assert_eq!(log.intend(&of("a")).await.err(), Some(AuditError::AgentBusy(2)));
    let _other = log.intend(&of("b")).await.unwrap();
    let own = log.intend(&CallRecord { local: Local::Guard, ..of("a") }).await.unwrap();
    assert_eq!(log.intend(&of("b")).await.err(), Some(AuditError::Busy(4)));
    drop((first, own));
    log.refuse(&call(3), Refusal::Deny, 200).await.unwrap();
    assert!(log.intend(&of("a")).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_at_the_same_time_share_the_chain() {
    for durability in [Durability::Durable, Durability::Os] {
        let dir = tempdir();
        let log = AuditLog::open(Options { durability, ..options(dir.path()) }).unwrap();
        let tasks: Vec<_> = (0..32)
            .map(|number| {
                let log = log.clone();
                tokio::spawn(async move { log.intend(&call(number)).await.unwrap().conclude(&ok()) })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        log.close().await;
        let report = sound(dir.path());
        assert_eq!((report.counts.calls, report.counts.outcomes, report.records), (32, 32, 66));
    }
}

#[tokio::test]
async fn a_long_trail_signs_itself_on_the_way() {
    let dir = tempdir();
    let log = AuditLog::open(Options { durability: Durability::Os, ..options(dir.path()) }).unwrap();
    for number in 0..1100_u32 {
        log.refuse(&call(u8::try_from(number % 256).unwrap()), Refusal::Deny, 200).await.unwrap();
    }
    log.close().await;
    let report = sound(dir.path());
    assert_eq!((report.counts.checkpoints, report.counts.refusals), (1, 1100));
}

#[tokio::test]
async fn a_directory_has_one_guard() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::Locked(_))));
    log.close().await;
    open(dir.path()).unwrap().close().await;
    assert_eq!(kinds(dir.path()), ["genesis", "stop", "stop"]);
}

#[tokio::test]
async fn a_closed_trail_gives_no_permit() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    log.clone().close().await;
    assert_eq!(log.intend(&call(1)).await.err(), Some(AuditError::Stopped));
}
