use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::RECORD_SCHEMA_TEXT;
use crate::audit::record::tests::call;
use crate::audit::record::{
    Block, Event, Outcome, Refusal, SessionsEnded, ToolChange, allowed, closing, refused,
};
use crate::audit::{Arguments, BootMoment, CallRecord, Cause, RECORD_SCHEMA, TookEffect};
use crate::audit::{spelling, text};
use crate::config::{Durability, OtherPorts};
use crate::kernel::Change;
use crate::policy::RuleName;
use crate::risk::Score;
use crate::rpc::Trace;
use crate::rules::Digests;
use crate::types::DecisionId;
use crate::velocity::Counted;

/// Kinds that are no [`Event`].
const OTHER_KINDS: [&str; 10] =
    ["clock", "genesis", "stop", "checkpoint", "gap", "key", "pruned", "heartbeat", "call", "outcome"];

fn published() -> Value {
    serde_json::from_str(RECORD_SCHEMA_TEXT).unwrap()
}

/// The same without room for fields that it does not name.
static STRICT: LazyLock<jsonschema::Validator> = LazyLock::new(|| {
    fn close(schema: &mut Value) {
        match schema {
            Value::Object(keys) => {
                let is_object = keys
                    .get("type")
                    .is_some_and(|kind| kind == "object" || kind == &json!(["object", "null"]));
                if is_object && keys.contains_key("properties") {
                    keys.insert("additionalProperties".into(), false.into());
                }
                keys.values_mut().for_each(close);
            }
            Value::Array(items) => items.iter_mut().for_each(close),
            _ => {}
        }
    }
    let mut schema = published();
    close(&mut schema);
    let root = schema.as_object_mut().unwrap();
    root.remove("additionalProperties");
    root.insert("unevaluatedProperties".into(), false.into());
    root["properties"]["kind"] = json!({ "enum": kinds() });
    jsonschema::draft202012::options().build(&schema).unwrap()
});

/// The kinds that the schema knows.
fn kinds() -> BTreeSet<String> {
    let rules = published()["allOf"].clone();
    let of = |rule: &Value| rule["if"]["properties"]["kind"]["const"].as_str().unwrap().to_owned();
    rules.as_array().unwrap().iter().map(of).collect()
}

fn faults(record: &Value) -> Vec<String> {
    STRICT.iter_errors(record).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

/// Every record is as the schema says, and has nothing that it does not name.
pub(in crate::audit) fn follows(records: &[Value]) {
    for record in records {
        assert_eq!(faults(record), Vec::<String>::new(), "{record}");
    }
}

/// A body, which has the guard's spelling, with what the writer puts in front.
fn whole(body: &[u8]) -> Value {
    assert_eq!(spelling::is_own(body), Ok(()), "{}", String::from_utf8_lossy(body));
    let mut record: Value = serde_json::from_slice(body).unwrap();
    record["seq"] = 1.into();
    record["prev"] = "0".repeat(64).into();
    record["time"] = "2026-11-22T21:00:00.000001Z".into();
    record
}

#[test]
fn the_published_schema_is_valid_and_has_the_number_that_a_start_says() {
    let schema = published();
    jsonschema::draft202012::meta::validate(&schema).unwrap();
    assert_eq!(schema["$id"], format!("urn:mcp-guard:audit-record:{RECORD_SCHEMA}"));
    let known: BTreeSet<_> = schema["$defs"].as_object().unwrap().keys().cloned().collect();
    assert!(kinds().is_subset(&known));
}

#[test]
fn whoever_reads_may_meet_kinds_and_fields_of_later_versions() {
    let reader = jsonschema::draft202012::options().build(&published()).unwrap();
    let mut record = whole(
        &text::encode(&Event::Policy(TookEffect { digest: "abc", text: None, ..took_effect() })).unwrap(),
    );
    record["later"] = 1.into();
    assert!(reader.is_valid(&record) && !STRICT.is_valid(&record));
    record["kind"] = "later".into();
    assert!(reader.is_valid(&record) && !STRICT.is_valid(&record));
    record["kind"] = "policy".into();
    record["digest"] = 7.into();
    assert!(!reader.is_valid(&record), "a field of a kind that it knows");
    record.as_object_mut().unwrap().remove("prev");
    assert!(!reader.is_valid(&record));
}

/// The word that it has in records. A new event needs a name here, a sample below, and an entry in the schema.
fn kind(event: &Event<'_>) -> &'static str {
    match event {
        Event::Start { .. } => "start",
        Event::Drift { .. } => "drift",
        Event::Policy(_) => "policy",
        Event::Listener { .. } => "listener",
        Event::IssuerKeys { .. } => "issuer_keys",
        Event::OtherPort { .. } => "other_port",
        Event::SessionsEnded(_) => "sessions_ended",
        Event::ContextsCleared { .. } => "contexts_cleared",
        Event::Tool(_) => "tool",
        Event::SessionEnded { .. } => "session_ended",
        Event::Blocked(_) => "blocked",
        Event::Unblocked(_) => "unblocked",
        Event::Denied { .. } => "denied",
    }
}

const NO_DIGESTS: Digests =
    Digests { credentials: None, client_ca: None, client_crl: None, issuer_keys: None, certificate: None };
static ALL_DIGESTS: LazyLock<Digests> = LazyLock::new(|| {
    let digest = Some("0".repeat(64));
    Digests {
        credentials: digest.clone(),
        client_ca: digest.clone(),
        client_crl: digest.clone(),
        issuer_keys: digest.clone(),
        certificate: digest,
    }
});
const LONGEST_MOMENT: BootMoment = BootMoment::longest_for_tests();

fn took_effect() -> TookEffect<'static> {
    let cause = Cause::Operator { uid: u32::MAX };
    TookEffect { digest: "d", text: Some("in shadow: a"), cause, digests: &ALL_DIGESTS }
}

/// Each event with all that it can say, and where it can say less, with that.
fn events() -> Vec<Event<'static>> {
    let address: SocketAddr = "[::1]:3001".parse().unwrap();
    let block = Block { what: "agent", name: "a", reason: "r", since: 1, uid: 0 };
    let ended = SessionsEnded {
        uid: 0,
        count: 1,
        tasks: 0,
        sessions: Some("a b"),
        agent: Some("a"),
        server: Some("s"),
    };
    let tool = ToolChange {
        server: "s",
        tool: "t",
        change: "held",
        digest: Some("d"),
        before: Some("b"),
        text: Some("t"),
        uid: Some(0),
        unrecorded: 0,
    };
    let cleared = |cause, agent| Event::ContextsCleared {
        cause,
        uid: Some(0),
        count: 1,
        sessions: 1,
        agent,
        user: agent,
    };
    let keys =
        |state, digest| Event::IssuerKeys { issuer: "https://issuer", state, keys: 1, digest, text: digest };
    let listener = |state, server, by_uid| Event::Listener {
        state,
        netns: 1,
        address,
        pid: 1,
        uid: 0,
        comm: "c",
        cgroup: "/c",
        server,
        by_uid,
    };
    let denied = |reason, server| Event::Denied {
        reason,
        address,
        protocol: 6,
        pid: 1,
        uid: 0,
        comm: "c",
        cgroup: server,
        cgroup_id: 1,
        server,
    };
    vec![
        Event::Start {
            version: "1",
            pid: 1,
            durability: Durability::Os,
            digest_key: "0123456789abcdef",
            config: "0000000000000000000000000000000000000000000000000000000000000000",
            schema: RECORD_SCHEMA,
            moment: LONGEST_MOMENT,
        },
        Event::Drift { what: "w", text: "t", change: Change::Found },
        Event::Drift { what: "w", text: "t", change: Change::Mended },
        Event::Drift { what: "w", text: "t", change: Change::Gone },
        Event::Policy(took_effect()),
        Event::Policy(TookEffect { cause: Cause::Start, ..took_effect() }),
        Event::Policy(TookEffect { cause: Cause::Signal, ..took_effect() }),
        Event::Policy(TookEffect { cause: Cause::Changed, ..took_effect() }),
        Event::Policy(TookEffect { cause: Cause::Stays, ..took_effect() }),
        Event::Policy(TookEffect {
            cause: Cause::Renewal,
            text: None,
            digests: &NO_DIGESTS,
            ..took_effect()
        }),
        listener("pending", None, None),
        listener("approved", None, Some(0)),
        listener("guarded", Some("s"), Some(u32::MAX)),
        listener("refused", None, Some(0)),
        keys("taken", Some("d")),
        keys("unavailable", None),
        keys("ended", None),
        Event::OtherPort { server: "s", netns: 1, port: 1, uid: 0, done: OtherPorts::Report },
        Event::OtherPort { server: "s", netns: 1, port: 1, uid: 0, done: OtherPorts::Protect },
        Event::OtherPort { server: "s", netns: 1, port: 1, uid: 0, done: OtherPorts::Deny },
        Event::SessionsEnded(ended),
        Event::SessionsEnded(SessionsEnded { sessions: None, agent: None, server: None, ..ended }),
        cleared("operator", Some("a")),
        cleared("idle", None),
        Event::Tool(tool),
        Event::Tool(ToolChange { digest: None, before: None, text: None, uid: None, ..tool }),
        Event::SessionEnded { session: Some("s"), server: "s", agent: "a", reason: "session_idle" },
        Event::Blocked(block),
        Event::Unblocked(block),
        denied("bind", None),
        denied("connect", Some("s")),
        denied("send", None),
        denied("blocked", None),
    ]
}

#[test]
fn each_kind_of_record_is_in_the_schema_and_as_it_says() {
    let events = events();
    for event in &events {
        let record = whole(&text::encode(event).unwrap());
        assert_eq!(record["kind"], kind(event));
        follows(&[record]);
    }
    let written = events.iter().map(kind).chain(OTHER_KINDS).map(str::to_owned).collect();
    assert_eq!(kinds(), written);
}

#[test]
fn calls_and_outcomes_with_all_that_they_can_say_are_as_the_schema_says() {
    let (arguments, counted, risk) =
        (Arguments::longest_for_tests(), Counted::longest_for_tests(), Score::longest_for_tests());
    let (rules, certificate) = ([RuleName::for_tests("r")], "0".repeat(64));
    let trace = Trace { id: "0af7651916cd43dd8448eb211c80319c".into(), span: "b7ad6b7169203331".into() };
    let full = CallRecord {
        user: Some("u"),
        certificate: Some(&certificate),
        session: Some("s"),
        arguments: Some(&arguments),
        continues: Some(DecisionId([1; 16])),
        cause: Some("unknown"),
        text: Some("t"),
        counted: Some(&counted),
        would_deny: &rules,
        risk: Some(&risk),
        label: Some("l"),
        mark: Some("m"),
        trace: Some(&trace),
        ..call(1)
    };
    let bare = CallRecord {
        conn: None,
        agent: None,
        client: None,
        profile: None,
        evidence: None,
        credential: None,
        peer: None,
        original_dst: None,
        era: None,
        rpc_method: None,
        rpc_id: None,
        target: None,
        intent: None,
        rule: None,
        velocity: None,
        policy: None,
        ..call(2)
    };
    for record in [&full, &bare] {
        follows(&[whole(&allowed(record).unwrap())]);
        for refusal in [Refusal::Deny, Refusal::Hold, Refusal::Tell] {
            follows(&[whole(&refused(record, refusal, 403).unwrap())]);
        }
    }
    let outcome = Outcome {
        status: Some(200),
        error_code: Some(-32_000),
        reason: Some("blocked"),
        ..Outcome::abandoned()
    };
    for outcome in [outcome, Outcome::abandoned()] {
        follows(&[whole(&closing((DecisionId([1; 16]), 1), &outcome, None, None).unwrap())]);
    }
}
