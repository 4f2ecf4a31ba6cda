//! Trails that were written by hand: what is told of each difference, and in which interval.

use std::fs;

use serde_json::{Value, json};

use super::*;

/// One server's numbers: what the kernel established, what the guard accepted, recorded, saw end, has open.
type Numbers = (u64, u64, u64, u64, u64);

fn beat(occasion: &str, numbers: Numbers) -> Value {
    beat_of(0, occasion, numbers)
}

/// Of a guard before whose time the kernel had established `before`.
fn beat_of(before: u64, occasion: &str, (established, accepted, recorded, ended, open): Numbers) -> Value {
    json!({"kind": "heartbeat", "occasion": occasion, "host": {}, "servers": [{
        "server": "crm", "netns": 1, "port": 3001, "before": before,
        "kernel": {"steered": established, "established": established},
        "guard": {"accepted": accepted, "recorded": recorded, "ended": ended, "open": open},
    }]})
}

fn start() -> Value {
    json!({"kind": "start"})
}

fn call(conn: u64) -> Value {
    json!({"kind": "call", "server": "crm", "conn": conn, "decision": "deny"})
}

fn balance(records: Vec<Value>) -> Balance {
    let dir = tempfile::tempdir().unwrap();
    let mut text = String::new();
    for (seq, mut record) in records.into_iter().enumerate() {
        record["seq"] = json!(seq);
        record["time"] = json!("2026-11-21T05:11:34.786123Z");
        text.push_str(&record.to_string());
        text.push('\n');
    }
    fs::write(dir.path().join("00000000000000000000.jsonl"), text).unwrap();
    reconcile(dir.path()).unwrap()
}

/// (from, difference, beginning of the words) of each fault.
fn faults(records: Vec<Value>) -> Vec<(u64, u64, String)> {
    let balance = balance(records);
    assert_eq!(balance.complete, balance.intervals.iter().all(|interval| interval.faults.is_empty()));
    let of = |interval: &Interval| {
        let from = interval.from.seq;
        interval
            .faults
            .iter()
            .map(move |fault| (from, fault.difference, fault.words.clone()))
            .collect::<Vec<_>>()
    };
    balance.intervals.iter().flat_map(of).collect()
}

#[test]
fn what_agrees_is_complete() {
    let balance = balance(vec![
        start(),
        beat_of(7, "start", (7, 0, 0, 0, 0)),
        call(1),
        call(1),
        beat_of(7, "interval", (9, 2, 1, 1, 0)),
        call(1),
        call(2),
        beat_of(7, "interval", (11, 4, 2, 1, 1)),
        beat_of(7, "stop", (11, 4, 2, 2, 0)),
        start(),
        beat_of(11, "start", (11, 0, 0, 0, 0)),
        call(1),
        beat_of(11, "stop", (12, 1, 1, 0, 0)),
    ]);
    assert!(balance.complete, "{balance:#?}");
    let states: Vec<_> =
        balance.intervals.iter().map(|interval| (interval.from.seq, interval.state)).collect();
    assert_eq!(
        states,
        [(1, State::Served), (4, State::Served), (7, State::Served), (8, State::Closed), (10, State::Served)]
    );
    let second = &balance.intervals[1];
    assert_eq!((second.established, second.accepted, second.recorded, second.open), (2, 2, 1, 1));
}

#[test]
fn a_connection_whose_record_is_gone_is_told() {
    let records = vec![
        start(),
        beat("start", (0, 0, 0, 0, 0)),
        call(1),
        beat("interval", (2, 2, 2, 0, 0)),
        beat("stop", (2, 2, 2, 0, 0)),
    ];
    let faults = faults(records);
    assert_eq!(faults.len(), 1);
    assert_eq!((faults[0].0, faults[0].1), (1, 1));
    assert!(faults[0].2.contains("not in the trail"), "{faults:?}");
}

#[test]
fn a_connection_that_the_guard_hid_is_told_and_one_that_waits_is_not() {
    let hidden = vec![
        start(),
        beat("start", (0, 0, 0, 0, 0)),
        beat("interval", (1, 0, 0, 0, 0)),
        beat("interval", (3, 1, 0, 1, 0)),
        beat("stop", (3, 2, 0, 2, 0)),
    ];
    let told = faults(hidden);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].0, told[0].1), (1, 1), "it was missing from the first interval on");
    assert!(told[0].2.contains("never counted as accepted"));
    let waits = vec![
        start(),
        beat("start", (0, 0, 0, 0, 0)),
        beat("interval", (1, 0, 0, 0, 0)),
        beat("interval", (1, 1, 0, 1, 0)),
        beat("interval", (2, 1, 0, 1, 0)),
    ];
    assert!(faults(waits).is_empty(), "the newest may still wait");
}

#[test]
fn invented_and_unexplained_connections_are_told() {
    let told = faults(vec![
        start(),
        beat("start", (0, 0, 0, 0, 0)),
        beat("interval", (1, 3, 0, 3, 0)),
        beat("interval", (5, 7, 0, 5, 0)),
        beat("stop", (5, 7, 0, 5, 0)),
    ]);
    let told: Vec<_> =
        told.iter().map(|(from, count, words)| (*from, *count, words.contains("never gave"))).collect();
    assert_eq!(told, [(1, 2, true), (2, 2, false)]);
}

#[test]
fn a_guard_that_died_has_an_interval_of_its_own() {
    let trail = |known: &[u64]| {
        let mut records =
            vec![start(), beat("start", (0, 0, 0, 0, 0)), call(1), beat("interval", (2, 2, 1, 0, 1))];
        records.extend(known.iter().map(|conn| call(*conn)));
        records.extend([start(), beat_of(4, "start", (4, 0, 0, 0, 0)), beat_of(4, "stop", (4, 0, 0, 0, 0))]);
        records
    };
    assert!(faults(trail(&[2, 3, 4])).is_empty(), "each of them has a record");
    let told = faults(trail(&[2]));
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, told[0].1), (3, 2));
    assert!(told[0].2.contains("ended without a word"), "{told:?}");
}

#[test]
fn a_guard_that_hands_on_leaves_no_gap() {
    let trail = |before, accepted| {
        vec![
            start(),
            beat("start", (0, 0, 0, 0, 0)),
            beat("hand_over", (5, 3, 0, 3, 0)),
            start(),
            beat_of(before, "take_over", (before, 0, 0, 0, 0)),
            beat_of(before, "interval", (6, accepted, 0, accepted, 0)),
            beat_of(before, "stop", (6, accepted, 0, accepted, 0)),
        ]
    };
    assert!(faults(trail(3, 3)).is_empty(), "the two that waited and one more");
    assert_eq!(faults(trail(3, 1)).len(), 1);
    assert_eq!(faults(trail(5, 1)).len(), 1, "it hides the two that waited");
}

#[test]
fn connections_while_no_guard_was_there_are_told() {
    let told = faults(vec![
        start(),
        beat("start", (0, 0, 0, 0, 0)),
        beat("stop", (0, 0, 0, 0, 0)),
        start(),
        beat_of(1, "start", (1, 0, 0, 0, 0)),
        beat_of(1, "stop", (1, 0, 0, 0, 0)),
    ]);
    assert_eq!(told.len(), 1);
    assert!(told[0].2.contains("had said that it stopped"));
}

#[test]
fn a_trail_without_heartbeats_is_not_complete() {
    let balance = balance(vec![start(), call(1)]);
    assert!(!balance.complete && balance.faults[0].contains("no heartbeat"), "{balance:?}");
}
