//! What the guard passes on of a server's messages, clients in JavaScript, Python and Rust read alike.

use bytes::Bytes;
use guard_tests::differ::{Case, Jury, Reader, project, reply, stream};
use std::cell::RefCell;

use mcp_guard::rpc::Target;
use mcp_guard::rpc::list::{self, Filtered};
use mcp_guard::rpc::reply::{self as replies, Outcome, ReplyKind};
use mcp_guard::rpc::sse::Events;
use serde_json::Value;

const MESSAGES: u64 = 50_000;
const STREAMS: u64 = 20_000;
/// Another one makes other cases; a failing case's name says its own.
const SEED: u64 = 20_251_125;
const EVENT_BYTES_MAX: usize = 1 << 20;
const TTL_MAX: u64 = 300_000;

/// What the agent may see of a list.
fn may_see(target: Target<'_>) -> bool {
    match target {
        Target::Tool(name) | Target::Prompt(name) | Target::Resource(name) | Target::Task(name) => {
            name.len() % 3 != 0
        }
        Target::ServerRequest(_) | Target::Method | Target::Unnamed => false,
    }
}

/// As the guard reads a server's message on its way: what it passes on, and what it knows of it.
fn pass(data: &[u8]) -> Option<(Vec<u8>, String)> {
    let read = replies::look(data).ok()?;
    let shown = RefCell::new(Vec::new());
    let mut passed = data.to_vec();
    if let ReplyKind::Result(Outcome { has_list: true, .. }) = read.kind {
        let keep = |target: Target<'_>| {
            shown.borrow_mut().extend(may_see(target).then(|| project::about(target)));
            may_see(target)
        };
        if let Filtered::Changed(bytes) = list::filter(data, &keep, TTL_MAX).ok()? {
            passed = bytes.to_vec();
        }
    }
    // Of a name that stands twice among tools or prompts, neither is passed on.
    let all = shown.take();
    let is_single = |one: &&String| {
        one.starts_with("resource:")
            || one.starts_with("task:")
            || all.iter().filter(|other| other == one).count() == 1
    };
    let shown: Vec<String> = all.iter().filter(is_single).cloned().collect();
    Some((passed, project::reply(&read, &shown)))
}

fn guard(case: &Case) -> Option<(Case, Vec<String>)> {
    match case {
        Case::Json(_) => None,
        Case::Reply(bytes) => {
            let (passed, known) = pass(bytes)?;
            let untyped = serde_json::from_slice(&passed).ok();
            let untyped = untyped.map(|message: Value| project::reply_value(&message));
            Some((Case::Reply(passed), [known].into_iter().chain(untyped).collect()))
        }
        Case::Stream(chunks) => {
            let (passed, known) = relay(chunks);
            (!passed.is_empty()).then(|| (Case::Stream(passed), vec![known.join(" ")]))
        }
    }
}

/// Passes events on until one cannot go; and what clients will take for an event.
fn relay(chunks: &[Vec<u8>]) -> (Vec<Vec<u8>>, Vec<String>) {
    let (mut passed, mut known) = (Vec::new(), Vec::new());
    let mut events = Events::new(EVENT_BYTES_MAX);
    for chunk in chunks {
        events.push(Bytes::copy_from_slice(chunk));
        loop {
            let mut piece = match events.next_piece() {
                Ok(Some(piece)) => piece,
                Ok(None) => break,
                Err(_fault) => return (passed, known),
            };
            if piece.is_message() {
                let Some((message, _)) = pass(&piece.data) else { return (passed, known) };
                let mut again = Events::new(EVENT_BYTES_MAX);
                again.push(piece.passing(&message.into()));
                piece = again.next_piece().expect("it was read before").expect("it is whole");
            }
            if !piece.data.is_empty() {
                let text = |bytes: &Bytes| String::from_utf8_lossy(bytes).into_owned();
                let event = piece.event.as_ref().map(text).filter(|event| !event.is_empty());
                let event = event.unwrap_or("message".to_owned());
                known.push(format!("{}={}", project::text(&event), project::text(&text(&piece.data))));
            }
            passed.push(piece.raw.to_vec());
        }
    }
    (passed, known)
}

/// No guard: the bytes as they come.
#[expect(clippy::unnecessary_wraps, reason = "it is a decision, and takes all")]
fn open_door(case: &Case) -> Option<(Case, Vec<String>)> {
    Some((case.clone(), Vec::new()))
}

fn jury() -> Jury {
    Jury::new([Reader::node(), Reader::python("json"), Reader::python("pydantic")]).unwrap().that_may_refuse()
}

/// The parser of the TypeScript SDK, and two of Python.
fn stream_jury() -> Jury {
    Jury::new([Reader::node(), Reader::python("json"), Reader::python("lines")]).unwrap()
}

fn generated(make: fn(u64) -> Case, count: u64) -> impl Iterator<Item = (String, Case)> {
    (SEED..SEED + count).map(move |seed| (format!("seed {seed}"), make(seed)))
}

#[test]
fn what_the_guard_passes_to_a_client_is_read_alike_by_all() {
    let report = jury().hear(generated(reply, MESSAGES), &guard).unwrap();
    println!("{report}");
    assert!(report.differences.is_empty(), "{report}");
    let quarter = report.cases / 4;
    assert!(report.accepted > quarter && report.cases - report.accepted > quarter, "{report}");
}

#[test]
fn events_that_the_guard_passes_are_cut_alike_by_all() {
    let report = stream_jury().hear(generated(stream, STREAMS), &guard).unwrap();
    println!("{report}");
    assert!(report.differences.is_empty(), "{report}");
    assert!(report.accepted > report.cases / 4, "{report}");
}

#[test]
fn without_the_guard_clients_read_differently() {
    for (make, jury) in [(reply as fn(u64) -> Case, jury()), (stream, stream_jury())] {
        let mut jury = jury;
        let report = jury.hear(generated(make, 3000), &open_door).unwrap();
        println!("{} of {} cases are read in two ways", report.differences.len(), report.cases);
        assert!(report.differences.len() > 20, "{report}");
    }
}
