//! The page for users says what the code does.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::config::Problems;
use crate::http::{FramingError as F, Unreadable};
use crate::identity::{CertificateFault, TokenFault, WrongProcess};
use crate::policy::{Circumstances, Decision, Policy, Question};
use crate::rpc::json::{JsonError, JsonErrorKind};
use crate::rpc::{IdError, Target};
use crate::session::Cause;
use crate::tools::Held;
use crate::types::{AgentName, ProfileName, ServerName};

const PAGE: &str = include_str!("../../../docs/refusals.md");

/// Where reasons are given their words.
const SOURCES: [(&str, &str); 11] = [
    (include_str!("../refusal.rs"), "pub fn reason("),
    (include_str!("../http/exchange.rs"), "pub fn reason("),
    (include_str!("../http/framing/error.rs"), "pub fn reason("),
    (include_str!("../identity/mod.rs"), "pub fn as_str("),
    (include_str!("../identity/certificate/fault.rs"), "pub fn as_str("),
    (include_str!("../identity/token/fault.rs"), "pub fn as_str("),
    (include_str!("../policy/decision.rs"), "pub fn as_str("),
    (include_str!("../rpc/fault.rs"), "pub fn reason("),
    (include_str!("../rpc/json.rs"), "pub fn reason("),
    (include_str!("../tools/store.rs"), "pub fn reason("),
    (include_str!("../upstream/mod.rs"), "pub fn reason("),
];

/// Reason, code and HTTP status of each row.
fn rows() -> BTreeMap<String, (String, String)> {
    let cells =
        |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows =
        PAGE.lines().filter(|line| line.starts_with("| `")).map(cells).filter(|cells| cells.len() == 5);
    let mut found = BTreeMap::new();
    for row in rows {
        let [reason, code, status, ..] = row.as_slice() else { unreachable!() };
        let before = found.insert(reason.replace('`', ""), (code.replace('\u{2212}', "-"), status.clone()));
        assert_eq!(before, None, "{reason} stands twice");
    }
    found
}

fn words() -> BTreeSet<String> {
    let of = |(text, head): (&str, &str)| {
        let (_, body) = text.split_once(head).unwrap_or_else(|| panic!("no {head}"));
        let (body, _) = body.split_once("\n    }\n").unwrap();
        body.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
    };
    SOURCES.into_iter().flat_map(of).collect()
}

fn denied(rules: &str, tool: &str) -> Refusal {
    denied_in(None, rules, tool)
}

fn denied_in(profile: Option<&ProfileName>, rules: &str, tool: &str) -> Refusal {
    let server = serde_json::from_value(serde_json::json!({"name": "s", "port": 1})).unwrap();
    let policy: Result<Policy, Problems> =
        Policy::from_texts(&[("p.yaml".into(), rules.to_owned())], &[server]);
    let decision = policy.unwrap().decide(&Question {
        agent: &AgentName::parse("a").unwrap(),
        profile,
        server: &ServerName::parse("s").unwrap(),
        method: "tools/call",
        target: Target::Tool(tool),
        arguments: None,
        around: Circumstances { read: Some(&[]), ..Circumstances::default() },
    });
    match decision {
        Decision::Deny(deny) => Refusal::Denied(deny),
        Decision::Hold(hold) => Refusal::held(&hold),
        Decision::Allow(allow) => panic!("{allow:?}"),
    }
}

fn by_policy() -> Vec<Refusal> {
    let policy = "
agents: {a: {client_id: a}}
intents:
  open: [{server: s, tool: open}]
  shut: [{server: s, tool: shut}]
  none: [{server: s, tool: none}]
  held: [{server: s, tool: held}]
  few: [{server: s, tool: few, facts: {n: {number: n}}}]
policies:
  - {intent: open, agents: [a], decision: allow}
  - {intent: shut, agents: [a], decision: deny}
  - {intent: held, agents: [a], decision: escalate, escalation: {type: single, reviewers: ['role:r']}}
  - {intent: few, agents: [a], decision: allow, conditions: {max_n: 1}}
";
    let tools = ["shut", "none", "held", "few", "unknown"];
    let mut all: Vec<_> = tools.into_iter().map(|tool| denied(policy, tool)).collect();
    let exceeded = all.iter().find_map(|refusal| match refusal {
        Refusal::NeedsApproval(approval) => Some(Exceeded {
            rule: approval.rule.clone(),
            reason: "".into(),
            count: 1,
            max: 1,
            action: ExceededAction::Deny,
            retry_after_milliseconds: 1,
        }),
        _ => None,
    });
    all.extend(exceeded.map(Refusal::TooOften));
    all.push(denied("agents: {a: {client_id: a}}", "open"));
    all.push(denied("", "open"));
    all.push(Refusal::Inspected(RuleName::for_tests("no-keys")));
    all.push(Refusal::Unmarked(std::io::Error::other("the disk is full")));
    let narrowed = format!("{policy}profiles: {{narrow: {{intents: [few]}}}}");
    let flow = "flow_rules: [{after: public, sink: external, decision: deny}]";
    all.push(denied(&format!("{policy}{flow}"), "open"));
    all.push(denied_in(Some(&ProfileName::parse("narrow").unwrap()), &narrowed, "open"));
    all
}

fn of_frames() -> Vec<Refusal> {
    let json = |kind| Fault::Json(JsonError { kind, offset: 0 });
    let faults = [
        Fault::Batch,
        Fault::BatchSize { messages_max: 1 },
        Fault::BodyTooLarge { bytes_max: 1 },
        Fault::ConnectionToken(String::new()),
        Fault::ContentEncoding(String::new()),
        Fault::ContentType,
        Fault::ControlCharacter { place: "" },
        Fault::Id(IdError::Type),
        Fault::IdInUse,
        Fault::Incomplete,
        Fault::JsonRpcVersion,
        Fault::KeyCharacters { place: "" },
        Fault::LookalikeHeader(String::new()),
        Fault::LookalikeKey { place: "" },
        Fault::MessageElsewhere,
        Fault::Method,
        Fault::Mixed,
        Fault::NotAForm,
        Fault::NotAnObject,
        Fault::Params,
        Fault::ProgressToken(IdError::Type),
        Fault::RepeatedHeader(String::new()),
        Fault::RequestId(IdError::Type),
        Fault::TooLong { place: "" },
        Fault::TooManyWaiting { max: 1 },
        Fault::TooMuchListened { names_max: 1 },
        Fault::UnknownMember,
        json(JsonErrorKind::ByteOrderMark),
        json(JsonErrorKind::DuplicateKey),
        json(JsonErrorKind::NotUtf8),
        json(JsonErrorKind::Syntax(String::new())),
        json(JsonErrorKind::TooDeep),
        json(JsonErrorKind::TooManyValues),
    ];
    faults.into_iter().map(Refusal::from).collect()
}

fn of_http() -> Vec<Refusal> {
    let framing = [
        F::BareCarriageReturn,
        F::BareLineFeed,
        F::ChunkEnd,
        F::ChunkExtension,
        F::ChunkSize,
        F::ContentLength,
        F::ContentLengthRepeated,
        F::ControlCharacter,
        F::EmptyLines,
        F::FoldedLine,
        F::HeadSlow,
        F::HeadTooLarge,
        F::HeaderName,
        F::Host,
        F::RequestLine,
        F::Target,
        F::Trailer,
        F::TransferEncoding,
        F::TwoLengths,
        F::Version,
    ];
    let bodies = [Unreadable::Broken, Unreadable::Busy, Unreadable::Slow(1), Unreadable::TooLong(1)];
    let all = framing.into_iter().map(Refusal::from).chain(bodies.into_iter().map(Refusal::from));
    all.chain([Refusal::Method, Refusal::Path(String::new()), Refusal::Plaintext]).collect()
}

fn of_the_rest() -> Vec<Refusal> {
    let server = ServerName::parse("s").unwrap();
    let session = crate::session::SessionIdError;
    vec![
        Refusal::Answer(""),
        Refusal::Answered,
        Refusal::Audit(audit::AuditError::TooLong),
        Refusal::Blocked { forwarded: false },
        Refusal::Cancelled,
        Refusal::HeaderMismatch(String::new()),
        Unidentified::NoCredential.into(),
        Unidentified::Malformed("").into(),
        Unidentified::MissingHeader("").into(),
        Unidentified::UnknownCredential.into(),
        Unidentified::WrongClientOrProfile.into(),
        Unidentified::Expired.into(),
        Unidentified::WrongProcess(WrongProcess::Remote).into(),
        Unidentified::SeveralAgents.into(),
        Unidentified::SecretNotNeeded.into(),
        Unidentified::UnknownProcess.into(),
        Unidentified::WebPage.into(),
        Unidentified::UnknownSubject.into(),
        Unidentified::Token(TokenFault::Malformed("")).into(),
        Unidentified::Token(TokenFault::Issuer).into(),
        Unidentified::Token(TokenFault::Audience).into(),
        Unidentified::Token(TokenFault::Algorithm).into(),
        Unidentified::Token(TokenFault::UnknownKey).into(),
        Unidentified::Token(TokenFault::KeysUnavailable).into(),
        Unidentified::Token(TokenFault::Signature).into(),
        Unidentified::Token(TokenFault::Expired).into(),
        Unidentified::Token(TokenFault::NotYet).into(),
        Unidentified::Token(TokenFault::NoUser).into(),
        Unidentified::Token(TokenFault::NoProfile).into(),
        Unidentified::Certificate(CertificateFault::Missing).into(),
        Unidentified::Certificate(CertificateFault::Malformed("it is no X.509")).into(),
        Unidentified::Certificate(CertificateFault::Unknown).into(),
        Unidentified::Certificate(CertificateFault::Wrong).into(),
        Unidentified::Certificate(CertificateFault::Expired).into(),
        Unidentified::Certificate(CertificateFault::Untrusted).into(),
        NotYours::BadSession(session).into(),
        NotYours::Session(Cause::Unknown).into(),
        NotYours::Event.into(),
        NotYours::Task(String::new()).into(),
        NotYours::State.into(),
        Refusal::Scope(String::new()),
        Refusal::SessionOver,
        Refusal::TooManyCalls(audit::AuditError::Busy(1)),
        Refusal::Withdrawn,
        Refusal::Tool(Held::Changed { server: server.clone(), tool: String::new() }),
        Refusal::Tool(Held::New { server, tool: String::new() }),
        Refusal::Tool(Held::LongName),
        upstream::Error::Down(1).into(),
        upstream::Error::Silent.into(),
        upstream::Error::NoCredential.into(),
        upstream::Error::CredentialRefused.into(),
    ]
}

#[test]
fn the_page_names_every_reason_with_its_code_and_status_and_no_other() {
    let rows = rows();
    let named: BTreeSet<String> = rows.keys().cloned().collect();
    assert_eq!(named, words(), "docs/refusals.md has one row for each word of the code");

    let samples = [by_policy(), of_frames(), of_http(), of_the_rest()].into_iter().flatten();
    let mut seen = BTreeSet::new();
    for refusal in samples {
        let reason = refusal.reason();
        let (code, status) = &rows[reason];
        let (own_code, own_status) = (refusal.code().to_string(), refusal.status().as_u16().to_string());
        assert!(code.split(" or ").any(|code| *code == own_code), "{reason}: {code} is {own_code}");
        assert_eq!(*status, own_status, "{reason}");
        seen.insert(reason.to_owned());
    }
    // The first cannot be made without a connection, the second not without a bad URI; both are as `server_silent`.
    seen.extend(["server_broke_off", "bad_target"].map(str::to_owned));
    assert_eq!(seen, named, "each row is tried");
}
