//! A client goes away at each moment of a call: what was decided has its record, nothing reaches the server without one, and each call
//! that was let through has one closing record, with what became of it.
//!
//! `GUARD_FAULTS_CLIENTS` says how many leave at random moments, and `GUARD_FAULTS_SEED` when.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::{Context, ensure};
use guard_tests::daemon::Daemon;
use guard_tests::differ::Random;
use guard_tests::faults;
use guard_tests::faults::rig;
use guard_tests::faults::strace::{self, Strace, Whom};
use guard_tests::h2::{End, Frames, RST_STREAM, frame};
use guard_tests::https::{Https, Leaving, Line, Request};
use guard_tests::ledger::Ledger;
use guard_tests::process::{START_LIMIT, eventually};
use guard_tests::puppet::Heard;
use guard_tests::scene::{ADDRESS, Scene, apart, call, done, done_for};
use rustls::{ClientConfig, ClientConnection};
use serde_json::{Value, json};

const WAYS: [Leaving; 3] = [Leaving::Ends, Leaving::Closes, Leaving::Resets];
const CLIENTS: u64 = 240;
/// At a time.
const THREADS: u64 = 4;
/// A client stays so long at most behind its last byte: about as long as a call takes.
const STAY_MICROSECONDS_MAX: usize = 12_000;
/// What the kernel keeps for a client that does not read is less.
const LARGE: usize = 8 << 20;
/// How long a record takes on its way to the disk.
const SLOW: &str = "fdatasync:delay_enter=3s";

/// What the trail has of a client that went.
#[derive(Debug, PartialEq)]
enum Told {
    Nothing,
    /// With this word.
    Refused(&'static str),
    /// Let through; what became of it, and the events that went to the client.
    Ended(&'static str, u64),
}

/// A guard, and what a client does that leaves.
struct Stage {
    scene: Scene,
    /// JSON-RPC id of the next call.
    id: u64,
    leaving: Leaving,
}

impl Stage {
    fn post(&self, tool: &str) -> Request {
        self.scene.post(&call(self.id, tool))
    }

    fn line(&self) -> Line {
        self.scene.https.line().unwrap()
    }

    fn leave(&self, line: Line) {
        line.leave(self.leaving).unwrap();
    }

    /// A call that has reached the server.
    fn asked(&self) -> (Line, Heard) {
        let mut line = self.line();
        line.send(&self.post("open").bytes()).unwrap();
        let heard = self.scene.puppet.hear().unwrap();
        assert_eq!(heard.message()["id"], self.id);
        (line, heard)
    }

    /// A call that is answered by a stream, of which the client has had one event.
    fn streamed(&self) -> (Line, Heard) {
        let (mut line, mut heard) = self.asked();
        heard.stream().unwrap();
        heard.event(&progress()).unwrap();
        line.head().unwrap();
        line.chunks_until("\n\n").unwrap();
        (line, heard)
    }

    /// A whole call of another client: nobody else is hurt, and nothing else has reached the server.
    fn is_healthy(&self) -> anyhow::Result<()> {
        let id = self.id + 1;
        let mut line = self.scene.https.line()?;
        line.send(&self.scene.post(&call(id, "open")).bytes())?;
        let heard = self.scene.puppet.hear()?;
        ensure!(heard.message()["id"] == id, "something else has reached the server: {heard:?}");
        heard.answer(&done(id))?;
        ensure!(line.answer()?.json() == done(id), "another answer");
        Ok(())
    }

    /// A client that leaves while its record is on its way to the disk.
    fn leaves_during_the_record(&self, tool: &str) {
        let writer = Whom::Thread(rig::thread(&self.scene.daemon, "audit-writer").unwrap());
        let mut line = self.line();
        let slow = Strace::attach(writer, "fdatasync", Some(SLOW), &[]).unwrap();
        let before = calls(&self.scene.daemon.ledger().unwrap()).len();
        line.send(&self.post(tool).bytes()).unwrap();
        let written =
            eventually(
                START_LIMIT,
                || Ok((calls(&self.scene.daemon.ledger()?).len() > before).then_some(())),
            );
        written.unwrap().expect("the record is written");
        self.leave(line);
        let answered = eventually(START_LIMIT, || {
            Ok(slow.seen()?.iter().any(|seen| seen.line.contains("= 0")).then_some(()))
        });
        answered.unwrap().expect("and synced at last");
        slow.detach().unwrap();
    }
}

fn progress() -> Value {
    json!({"jsonrpc": "2.0", "method": "notifications/message", "params": {"level": "info", "data": "on"}})
}

fn calls(ledger: &Ledger) -> Vec<Value> {
    ledger.of_kind("call").cloned().collect()
}

/// The first bytes of a TLS handshake.
fn hello() -> Vec<u8> {
    let roots = rustls::RootCertStore::empty();
    let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let mut tls = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    tls.write_tls(&mut bytes).unwrap();
    bytes
}

/// Sends bytes that are no TLS yet, or a part of it, and leaves.
fn handshake(stage: &Stage, bytes: &[u8]) {
    let mut line = guard_tests::https::plain(ADDRESS).unwrap();
    line.send(bytes).unwrap();
    stage.leave(line);
}

/// Each moment by name, what a client does there, and what is told of it.
type Moment = (&'static str, fn(&Stage), Told);

fn moments() -> impl Iterator<Item = Moment> {
    before_the_record().into_iter().chain(behind_the_record()).chain(by_http2())
}

fn before_the_record() -> Vec<Moment> {
    vec![
        ("before the TLS handshake", |stage| handshake(stage, b""), Told::Nothing),
        ("within the TLS handshake", |stage| handshake(stage, &hello()[..80]), Told::Nothing),
        ("behind its own part of the TLS handshake", |stage| handshake(stage, &hello()), Told::Nothing),
        ("behind the TLS handshake", |stage| stage.leave(stage.line()), Told::Nothing),
        (
            "within the head",
            |stage| {
                let mut line = stage.line();
                line.send(&stage.post("open").bytes()[..90]).unwrap();
                stage.leave(line);
            },
            Told::Nothing,
        ),
        ("behind the head", |stage| within_the_body(stage, 0), Told::Refused("body_broken")),
        ("within the body", |stage| within_the_body(stage, 20), Told::Refused("body_broken")),
    ]
}

fn behind_the_record() -> Vec<Moment> {
    vec![
        (
            "while the record of a call is written",
            |stage| stage.leaves_during_the_record("open"),
            Told::Ended("abandoned", 0),
        ),
        (
            "while the record of a refusal is written",
            |stage| stage.leaves_during_the_record("closed"),
            Told::Refused("denied_by_rule"),
        ),
        (
            "before the server answers",
            |stage| {
                let (line, mut heard) = stage.asked();
                stage.leave(line);
                heard.other_side_leaves().unwrap();
            },
            Told::Ended("abandoned", 0),
        ),
        (
            "within the server's answer",
            |stage| {
                let (line, mut heard) = stage.asked();
                heard
                    .write(
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 900\r\n\r\n{",
                    )
                    .unwrap();
                // The guard is to have it.
                thread::sleep(Duration::from_millis(50));
                stage.leave(line);
                heard.other_side_leaves().unwrap();
            },
            Told::Ended("abandoned", 0),
        ),
        (
            "within the answer that it is given",
            |stage| {
                let (mut line, heard) = stage.asked();
                let mut answer = done(stage.id);
                answer["result"]["content"][0]["text"] = "x".repeat(LARGE).into();
                heard.answer(&answer).unwrap();
                line.head().unwrap();
                line.take(1000).unwrap();
                stage.leave(line);
            },
            Told::Ended("ok", 0),
        ),
        (
            "within a stream of events",
            |stage| {
                let (line, mut heard) = stage.streamed();
                stage.leave(line);
                heard.other_side_leaves().unwrap();
            },
            Told::Ended("client_gone", 1),
        ),
        (
            "within an event",
            |stage| {
                let (line, mut heard) = stage.streamed();
                heard.write("event: message\ndata: {\"jsonrpc\":").unwrap();
                thread::sleep(Duration::from_millis(50));
                stage.leave(line);
                heard.other_side_leaves().unwrap();
            },
            Told::Ended("client_gone", 1),
        ),
        (
            "behind the answer in a stream of events",
            |stage| {
                let (mut line, mut heard) = stage.streamed();
                heard.event(&done(stage.id)).unwrap();
                line.chunks_until("done").unwrap();
                stage.leave(line);
            },
            Told::Ended("ok", 2),
        ),
    ]
}

fn by_http2() -> Vec<Moment> {
    vec![
        (
            "by the reset of its stream of HTTP/2",
            |stage| {
                let mut frames = Frames::open(&stage.scene.https).unwrap();
                frames.ask(1, &stage.post("open")).unwrap();
                let mut heard = stage.scene.puppet.hear().unwrap();
                frames.send(&frame(RST_STREAM, 0, 1, &8_u32.to_be_bytes())).unwrap();
                heard.other_side_leaves().unwrap();
                assert_eq!(frames.end(3), End::Alive, "the connection goes on");
            },
            Told::Ended("abandoned", 0),
        ),
        (
            "by the end of its connection of HTTP/2",
            |stage| {
                let mut frames = Frames::open(&stage.scene.https).unwrap();
                frames.ask(1, &stage.post("open")).unwrap();
                let mut heard = stage.scene.puppet.hear().unwrap();
                drop(frames);
                heard.other_side_leaves().unwrap();
            },
            Told::Ended("abandoned", 0),
        ),
    ]
}

fn within_the_body(stage: &Stage, sent: usize) {
    let (mut line, request) = (stage.line(), stage.post("open"));
    let bytes = request.bytes();
    line.send(&bytes[..bytes.len() - request.body.len() + sent]).unwrap();
    // The guard is to have it.
    thread::sleep(Duration::from_millis(50));
    stage.leave(line);
}

/// What the trail says of its last call.
fn told(ledger: &Ledger, call: &Value) -> Option<Told> {
    if call["decision"] != "allow" {
        let words = ["body_broken", "denied_by_rule"];
        return Some(Told::Refused(words.into_iter().find(|word| call["reason"] == *word)?));
    }
    let outcome = ledger.outcome_of(call)?;
    let words = ["abandoned", "client_gone", "ok"];
    let word = words.into_iter().find(|word| outcome["result"] == *word)?;
    Some(Told::Ended(word, outcome["events"].as_u64()?))
}

/// Each call that was let through has one closing record.
fn has_one_outcome_each(ledger: &Ledger) -> anyhow::Result<()> {
    let allowed: Vec<_> = ledger.of_kind("call").filter(|call| call["decision"] == "allow").collect();
    for call in &allowed {
        let outcomes = ledger.of_kind("outcome").filter(|outcome| outcome["id"] == call["id"]).count();
        ensure!(outcomes == 1, "{outcomes} outcomes of {call}");
    }
    ensure!(ledger.of_kind("outcome").count() == allowed.len(), "outcomes of no call");
    Ok(())
}

/// Ends in order: nothing is open, and the trail is sound.
fn ends_well(mut daemon: Daemon) -> Ledger {
    daemon.stop().unwrap();
    let ledger = daemon.ledger().unwrap();
    has_one_outcome_each(&ledger).unwrap();
    let stop = ledger.of_kind("stop").last().unwrap();
    assert_eq!(stop["open_count"], 0);
    assert_eq!(daemon.verify().unwrap().code, Some(0));
    let own = daemon.output("audit verify", &["--json"]).unwrap();
    assert_eq!(own.status.code(), Some(0), "{own:?}");
    ledger
}

#[test]
fn audit_client_disconnect() {
    if !strace::is_there() {
        return;
    }
    apart(|| {
        let scene = Scene::new(&json!({"audit_wait_milliseconds": 9000})).unwrap();
        let mut stage = Stage { scene, id: 1, leaving: Leaving::Ends };
        let mut known = 0;
        for leaving in WAYS {
            for (name, act, expected) in moments() {
                stage.leaving = leaving;
                act(&stage);
                let count = usize::from(expected != Told::Nothing);
                let ledger = eventually(START_LIMIT, || {
                    let ledger = stage.scene.daemon.ledger()?;
                    let calls = calls(&ledger);
                    let is_told = calls.get(known..).is_some_and(|new| {
                        new.len() == count && new.iter().all(|call| told(&ledger, call).is_some())
                    });
                    Ok(is_told.then_some(ledger))
                });
                let ledger = ledger.unwrap().unwrap_or_else(|| {
                    let ledger = stage.scene.daemon.ledger().unwrap();
                    panic!("{leaving:?} {name}: {:?}", &ledger.records[ledger.records.len() - 4..])
                });
                let new = &calls(&ledger)[known..];
                let found = new.first().map_or(Told::Nothing, |call| told(&ledger, call).unwrap());
                assert_eq!(found, expected, "{leaving:?} {name}: {new:?}");
                stage.is_healthy().with_context(|| format!("{leaving:?} {name}")).unwrap();
                known += count + 1;
                assert_eq!(calls(&stage.scene.daemon.ledger().unwrap()).len(), known, "{leaving:?} {name}");
                stage.id += 2;
            }
        }
        assert!(stage.scene.puppet.heard().is_none());
        println!("{} clients went away", WAYS.len() * moments().count());

        // Of three under way, one is given up, and two are open when the guard is killed.
        stage.id += 1;
        let (gone, mut heard) = stage.asked();
        stage.id += 1;
        let (_first, _heard) = stage.asked();
        stage.id += 1;
        let (_second, _also) = stage.asked();
        stage.leave(gone);
        heard.other_side_leaves().unwrap();
        let closed = eventually(START_LIMIT, || {
            let ledger = stage.scene.daemon.ledger()?;
            let open =
                calls(&ledger).iter().rev().take(3).filter(|call| ledger.outcome_of(call).is_none()).count();
            Ok((open == 2).then_some(()))
        });
        closed.unwrap().expect("the outcome of the call that was given up");
        let ledger = stage.scene.daemon.ledger().unwrap();
        let calls = calls(&ledger);
        let open: BTreeSet<_> = calls[calls.len() - 2..].iter().map(|call| call["id"].to_string()).collect();
        stage.scene.daemon.kill().unwrap();
        stage.scene.daemon.start().unwrap();
        let ledger = stage.scene.daemon.ledger().unwrap();
        let gap = ledger.of_kind("gap").last().unwrap();
        let named = gap["open"].as_array().unwrap().iter().map(|open| open["id"].to_string());
        assert_eq!((gap["open_count"].as_u64(), named.collect::<BTreeSet<_>>()), (Some(2), open), "{gap}");
        stage.id += 2;
        stage.is_healthy().unwrap();
        stage.scene.daemon.stop().unwrap();
        assert_eq!(stage.scene.daemon.verify().unwrap().code, Some(0));
    });
}

/// One client: it sends a part of its request, or all and stays for a while, and goes.
fn one(https: &Https, bytes: &[u8], random: &mut Random) -> anyhow::Result<()> {
    let mut line = https.line()?;
    if random.below(4) == 0 {
        line.send(&bytes[..random.below(bytes.len())])?;
    } else {
        line.send(bytes)?;
        // However slow the disk is, some calls end.
        if random.below(8) == 0 {
            line.answer()?;
        }
        thread::sleep(Duration::from_micros(u64::try_from(random.below(STAY_MICROSECONDS_MAX))?));
    }
    line.leave(WAYS[random.below(WAYS.len())])?;
    Ok(())
}

#[test]
fn clients_that_leave_at_random_moments_leave_nothing_open_and_nothing_unrecorded() {
    let (clients, seed) = (faults::number("CLIENTS", CLIENTS), faults::seed());
    println!("seed {seed}");
    apart(|| {
        let Scene { daemon, puppet, credential, https } = Scene::new(&json!({})).unwrap();
        let reached = Arc::new(Mutex::new(BTreeSet::new()));
        let theirs = Arc::clone(&reached);
        puppet.answer_each(move |message| {
            theirs.lock().unwrap().insert(message["id"].to_string());
            done_for(message)
        });
        let next = AtomicU64::new(1);
        thread::scope(|scope| {
            for number in 0..THREADS {
                let (next, https, credential) = (&next, &https, &credential);
                scope.spawn(move || {
                    let mut random = Random::new(seed ^ number << 32);
                    loop {
                        let id = next.fetch_add(1, Ordering::Relaxed);
                        if id > clients {
                            return;
                        }
                        // Whatever becomes of it: the guard may have closed first.
                        let request = Request::post(&call(id, "open")).by(credential);
                        let _ = one(https, &request.bytes(), &mut random);
                    }
                });
            }
        });
        let told = eventually(START_LIMIT, || Ok(has_one_outcome_each(&daemon.ledger()?).ok()));
        told.unwrap().unwrap_or_else(|| has_one_outcome_each(&daemon.ledger().unwrap()).unwrap());
        assert_eq!(daemon.status().unwrap()["holders"], json!([]));
        let ledger = ends_well(daemon);
        let recorded: BTreeSet<_> = ledger
            .calls("allow", "open")
            .map(|call| call["rpc_id"].as_str().unwrap_or_default().to_owned())
            .collect();
        let reached = reached.lock().unwrap().clone();
        assert!(reached.is_subset(&recorded), "{:?}", reached.difference(&recorded).collect::<Vec<_>>());
        let mut results = BTreeMap::<_, usize>::new();
        for outcome in ledger.of_kind("outcome") {
            *results.entry(outcome["result"].to_string()).or_default() += 1;
        }
        println!(
            "seed {seed}: {clients} clients went away, {} calls have a record, {} reached the server: {results:?}",
            recorded.len(),
            reached.len()
        );
        assert!(results.len() > 1, "all left at the same moment");
    });
}
