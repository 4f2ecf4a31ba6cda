use super::*;
use crate::audit::Arguments;
use crate::audit::{LINE_BYTES_MAX, TEXT_BYTES_MAX};
use crate::kernel::process::{Executable, Place, Running, Unit};
use crate::types::LocalProcess;

/// A plain call, for tests of this and other modules.
pub(in crate::audit) fn call(number: u8) -> CallRecord<'static> {
    CallRecord {
        id: DecisionId([number; 16]),
        conn: Some(7),
        server: "crm",
        agent: Some("support-agent"),
        client: Some("support"),
        profile: Some("production"),
        user: None,
        evidence: Some("secret"),
        credential: Some("c-1"),
        certificate: None,
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        original_dst: Some("127.0.0.1:3001".parse().unwrap()),
        local: Local::Unknown,
        era: Some("legacy"),
        session: None,
        http_method: "POST",
        rpc_method: Some("tools/call"),
        rpc_id: Some("1"),
        target: Some(Target { kind: "tool", name: "get_customer" }),
        arguments: None,
        intent: Some("customer.read"),
        continues: None,
        cause: None,
        reason: "allowed",
        text: None,
        rule: Some("read"),
        velocity: Some(Velocity { rule: "reads", count: 1, max: 100 }),
        counted: None,
        would_deny: &[],
        risk: None,
        label: None,
        mark: None,
        trace: None,
        policy: Some("abc"),
        body_bytes: 120,
        guest: None,
    }
}

#[test]
fn a_call_is_one_object_with_the_verdict_first() {
    let line = String::from_utf8(allowed(&call(1)).unwrap()).unwrap();
    assert!(line.starts_with(r#"{"kind":"call","decision":"allow","id":"0101"#), "{line}");
    let line = String::from_utf8(refused(&call(1), Refusal::Deny, 403).unwrap()).unwrap();
    assert!(line.starts_with(r#"{"kind":"call","decision":"deny","http_status":403,"id":"#), "{line}");
}

#[test]
fn a_session_id_is_recorded_as_a_digest() {
    let line = allowed(&CallRecord { session: Some("abc"), ..call(1) }).unwrap();
    let line: serde_json::Value = serde_json::from_slice(&line).unwrap();
    assert_eq!(line["session"], "ba7816bf8f01cfea");
}

#[test]
fn the_longest_record_that_an_attacker_can_cause_fits_a_line() {
    let text = "\u{1}".repeat(TEXT_BYTES_MAX * 64);
    let text = text.as_str();
    let unit = format!("user@{}.service/{}.service", u32::MAX, "a".repeat(247));
    let evidence = Evidence {
        process: LocalProcess {
            pid: u32::MAX,
            uid: u32::MAX,
            gid: u32::MAX,
            cgroup: u64::MAX,
            comm: text.into(),
            cookie: u64::MAX,
            connected_at: u64::MAX,
        },
        cgroup_path: Some(text.into()),
        place: Place { unit: Some(Unit::parse(&unit).unwrap()), container: None },
        running: Some(Running {
            started_milliseconds: u64::MAX,
            executable: Some(Executable::for_tests(text, false)),
        }),
    };
    let local =
        Local::Process { evidence: &evidence, relay: Some("systemd-socket-proxyd"), sha256: Some([0; 32]) };
    let arguments = Arguments::longest_for_tests();
    let call = CallRecord {
        server: text,
        agent: Some(text),
        client: Some(text),
        profile: Some(text),
        user: Some(text),
        evidence: Some(text),
        credential: Some(text),
        certificate: None,
        local,
        era: Some(text),
        session: Some(text),
        http_method: text,
        rpc_method: Some(text),
        rpc_id: Some(text),
        target: Some(Target { kind: "resource", name: text }),
        intent: Some(text),
        continues: Some(DecisionId([0xff; 16])),
        cause: Some("session_too_old"),
        reason: text,
        text: Some(text),
        rule: Some(text),
        velocity: Some(Velocity { rule: text, count: u64::MAX, max: u64::MAX }),
        counted: Some(&Counted::longest_for_tests()),
        risk: Some(&Score::longest_for_tests()),
        would_deny: &vec![RuleName::for_tests(&"\u{1f600}".repeat(32)); WOULD_DENY_MAX],
        arguments: Some(&arguments),
        label: None,
        mark: None,
        policy: Some(text),
        ..call(1)
    };
    let told = refused(&call, Refusal::Hold, 200).unwrap();
    assert!(told.len() <= LINE_BYTES_MAX - PREFIX_ROOM, "{}", told.len());
    let told: serde_json::Value = serde_json::from_slice(&told).unwrap();
    assert_eq!(
        (&told["arguments"]["digest"], &told["arguments"]["values"]),
        (&"f".repeat(32).into(), &serde_json::json!([]))
    );
    let ordinary = CallRecord { arguments: Some(&arguments), ..self::call(1) };
    let told: serde_json::Value = serde_json::from_slice(&allowed(&ordinary).unwrap()).unwrap();
    assert_eq!(told["arguments"]["values"].as_array().unwrap().len(), crate::audit::ARGUMENT_VALUES_MAX);
}
