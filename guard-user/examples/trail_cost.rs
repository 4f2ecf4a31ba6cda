//! What the trail costs: to write it, to check it, to find something in it, to start with it after a guard was killed.
//!
//! ```text
//! cargo run --release --example trail_cost                                # a million records, in a folder that is removed
//! cargo run --release --example trail_cost -- 10000000 trail              # ten million, in ./trail, which is kept
//! ```
//!
//! A trail in ./trail that is there already is used, and written to: the start is measured behind a guard that was killed.

use std::fs::{self, OpenOptions};
use std::hint::black_box;
use std::io::{BufRead, BufReader, Write};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use mcp_guard::audit::{
    AuditLog, CallRecord, Index, Local, Options, Order, Outcome, OutcomeResult, Outcomes, Query, Retention,
    Target, Velocity, search, verify,
};
use mcp_guard::config::Durability;
use mcp_guard::policy::IntentPattern;
use mcp_guard::types::DecisionId;

const RECORDS: u64 = 1_000_000;
const AGENTS: [&str; 5] = ["support-agent", "finance-agent", "sales-agent", "ops-agent", "rare-agent"];
const INTENTS: [&str; 4] =
    ["data.customer.read", "financial.refund.process", "financial.ledger.read", "comms.email.send"];
/// Calls of one measurement of the writer.
const CALLS: u64 = 4_000;
/// The first argument of a guard that is killed.
const DIES: &str = "dies";
/// What a question about a part of the time asks for: two hours of ten days.
const SLICE: i64 = 120;

fn main() {
    let mut arguments = std::env::args().skip(1).peekable();
    if arguments.next_if(|first| first == DIES).is_some() {
        let trail = arguments.next().expect("the directory of a trail");
        return dies(Path::new(&trail));
    }
    let records = arguments
        .next()
        .map_or(RECORDS, |text| text.parse().expect("the first argument is a number of records"));
    let kept = arguments.next().map(PathBuf::from);
    let temporary = kept.is_none().then(|| tempfile::tempdir_in(".").unwrap());
    let dir = kept.unwrap_or_else(|| temporary.as_ref().unwrap().path().to_owned());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    writing(&runtime, &dir);
    let trail = dir.join("trail");
    if !trail.is_dir() {
        runtime.block_on(fill(&trail, records));
    }
    let bytes: u64 =
        fs::read_dir(&trail).unwrap().map(|entry| entry.unwrap().metadata().unwrap().len()).sum();
    reading(&runtime, &trail, bytes);
}

fn options(dir: &Path, durability: Durability) -> Options {
    Options {
        dir: dir.to_owned(),
        host: "bench".into(),
        durability,
        wait: Duration::from_secs(60),
        calls_in_flight_max: 4096,
        calls_in_flight_per_agent_max: 4096,
        retention: Retention::default(),
    }
}

/// Records a second and the delay of a call's record, with one, 8 and 64 callers, beside what the same disk takes for one sync.
fn writing(runtime: &tokio::runtime::Runtime, dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join("bare");
    let file = fs::File::create(&path).unwrap();
    let mut bare: Vec<_> = (0..200)
        .map(|number| {
            let start = Instant::now();
            file.write_all_at(&[b'x'; 700], number * 700).unwrap();
            file.sync_data().unwrap();
            start.elapsed()
        })
        .collect();
    bare.sort_unstable();
    println!("fdatasync of 700 bytes: p50 {} us, p99 {} us", bare[100].as_micros(), bare[197].as_micros());
    fs::remove_file(path).unwrap();
    for durability in [Durability::Durable, Durability::Os] {
        for callers in [1, 8, 64] {
            let place = dir.join("written");
            let log = AuditLog::open(options(&place, durability)).unwrap();
            let start = Instant::now();
            let mut delays = runtime.block_on(async {
                let mut tasks = tokio::task::JoinSet::new();
                for caller in 0..callers {
                    let log = log.clone();
                    tasks.spawn(async move {
                        let mut delays = Vec::new();
                        for number in 0..CALLS / callers {
                            let start = Instant::now();
                            let permit = log.intend(&call(caller << 32 | number)).await.unwrap();
                            delays.push(start.elapsed());
                            permit.conclude(&outcome());
                        }
                        delays
                    });
                }
                tasks.join_all().await.concat()
            });
            let took = start.elapsed();
            delays.sort_unstable();
            let records = log.records();
            runtime.block_on(log.close());
            println!(
                "{durability:?}, {callers} callers: {} records/s, a call waits p50 {} us, p99 {} us",
                rate(records, took),
                delays[delays.len() / 2].as_micros(),
                delays[delays.len() * 99 / 100].as_micros()
            );
            fs::remove_dir_all(place).unwrap();
        }
    }
}

/// Writes calls with their outcomes, as a guard with `os` does.
async fn fill(dir: &Path, records: u64) {
    let log = AuditLog::open(options(dir, Durability::Os)).unwrap();
    let start = Instant::now();
    let mut number = 0;
    while log.records() < records {
        log.intend(&call(number)).await.unwrap().conclude(&outcome());
        number += 1;
        if number.is_multiple_of(100_000) {
            eprintln!("{} of {records} records, {} s", log.records(), start.elapsed().as_secs());
        }
    }
    log.close().await;
}

fn reading(runtime: &tokio::runtime::Runtime, trail: &Path, bytes: u64) {
    let start = Instant::now();
    let report = verify(trail, None, None);
    assert!(report.fault.is_none(), "{:?}", report.fault);
    let records = report.records;
    println!("{records} records, {} bytes each", bytes / records);
    println!("the guard's verifier, one core: {} records/s", rate(records, start.elapsed()));

    let start = Instant::now();
    let index = Index::open(trail, |_, _| {}).unwrap();
    println!("the index, made anew or read: {} ms", start.elapsed().as_millis());
    drop(index);
    let start = Instant::now();
    let index = Index::open(trail, |_, _| {}).unwrap();
    println!("the index, kept: {} ms", start.elapsed().as_millis());

    let end = |order| {
        let mut time = Timestamp::MIN;
        search(&index, &Query::default(), (order, Outcomes::LeftOut), |record| {
            let line: serde_json::Value = serde_json::from_str(&record.line).unwrap();
            time = line["time"].as_str().unwrap().parse().unwrap();
            ControlFlow::Break(())
        })
        .unwrap();
        time
    };
    let (first, last) = (end(Order::Oldest), end(Order::Newest));
    let whole = last.duration_since(first);
    // In the middle of the trail.
    let at = |slices: i64| {
        let after = i64::try_from(whole.as_micros()).unwrap() / SLICE * slices;
        Some(first.checked_add(SignedDuration::from_micros(after)).unwrap())
    };
    let of = |agent: &str| Query { agent: Some(agent.into()), ..Query::default() };
    let queries = [
        ("the newest 100 of an agent", of("support-agent"), 100),
        (
            "the newest 100 refunds of an agent",
            Query { intent: Some(IntentPattern::parse("financial.refund.*").unwrap()), ..of("rare-agent") },
            100,
        ),
        ("all of a rare agent", of("rare-agent"), usize::MAX),
        (
            "all of a busy agent in a 120th of the time",
            Query { from: at(SLICE / 2), to: at(SLICE / 2 + 1), ..of("support-agent") },
            usize::MAX,
        ),
        (
            "all of a rare agent in half of the time",
            Query { from: at(SLICE / 4), to: at(SLICE * 3 / 4), ..of("rare-agent") },
            usize::MAX,
        ),
        ("a session", Query { session: Some("00000000deadbeef".into()), ..Query::default() }, 100),
        ("an agent that there is not", of("nobody"), 100),
        ("a text that is nowhere", Query { text: Some("zzqq".into()), ..Query::default() }, 100),
    ];
    for (name, query, most) in queries {
        let start = Instant::now();
        let mut found = 0;
        search(&index, &query, (Order::Newest, Outcomes::Shown), |record| {
            black_box(record);
            found += 1;
            if found < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })
        .unwrap();
        println!("{name}: {} ms, {found} found", start.elapsed().as_millis());
    }

    let open = |what: &str| {
        let start = Instant::now();
        let log = AuditLog::open(options(trail, Durability::Os)).unwrap();
        println!("{what}: {} ms", start.elapsed().as_millis());
        runtime.block_on(log.close());
    };
    open("a start with this trail");
    is_killed(trail);
    open("a start after a guard was killed in the middle of a line");
}

/// Has a guard's log killed while calls are under way, and leaves the beginning of a line behind.
fn is_killed(trail: &Path) {
    let mut guard = Command::new(std::env::current_exe().unwrap());
    let mut guard = guard.arg(DIES).arg(trail).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(guard.stdout.take().unwrap()).read_line(&mut said).unwrap();
    guard.kill().unwrap();
    guard.wait().unwrap();
    assert_eq!(said.trim_end(), DIES, "it has calls under way");
    let last = fs::read_dir(trail).unwrap().map(|entry| entry.unwrap().path());
    let last = last.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")).max().unwrap();
    OpenOptions::new().append(true).open(last).unwrap().write_all(br#"{"seq":"#).unwrap();
}

/// Says so once calls are recorded, and waits for its end.
fn dies(trail: &Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let log = AuditLog::open(options(trail, Durability::Durable)).unwrap();
        let mut permits = Vec::new();
        for number in 0..8 {
            permits.push(log.intend(&call(number)).await.unwrap());
        }
        println!("{DIES}");
        std::future::pending::<()>().await;
    });
}

fn rate(records: u64, took: Duration) -> u128 {
    u128::from(records) * 1_000_000_000 / took.as_nanos().max(1)
}

fn call(number: u64) -> CallRecord<'static> {
    let pick = |count: usize, of: u64| usize::try_from(of).unwrap_or_default() % count;
    let agent = if number.is_multiple_of(50_021) { AGENTS[4] } else { AGENTS[pick(4, number)] };
    CallRecord {
        id: DecisionId::random(),
        conn: Some(number / 100),
        server: "customer-ops",
        agent: Some(agent),
        client: Some("assistant"),
        profile: Some("default"),
        user: None,
        evidence: Some("client_secret"),
        credential: Some("c-0123456789ab"),
        certificate: None,
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        original_dst: Some("127.0.0.1:3001".parse().unwrap()),
        local: Local::Remote,
        era: Some("2025-11-25"),
        session: Some("00112233445566778899aabbccddeeff"),
        http_method: "POST",
        rpc_method: Some("tools/call"),
        rpc_id: Some("1"),
        target: Some(Target { kind: "tool", name: "read_customer" }),
        arguments: None,
        intent: Some(INTENTS[pick(4, number / 7)]),
        continues: None,
        cause: None,
        reason: "allowed",
        text: None,
        rule: Some("support-reads"),
        velocity: Some(Velocity { rule: "reads", count: 1, max: 100 }),
        counted: None,
        would_deny: &[],
        risk: None,
        label: None,
        mark: None,
        trace: None,
        policy: Some("7f3923a111c049170119a49ec3d87c1dbce13c9ac52b3cfd44318a4dec7f9726"),
        body_bytes: 320,
        guest: None,
    }
}

fn outcome() -> Outcome {
    Outcome {
        status: Some(200),
        result: OutcomeResult::Ok,
        error_code: None,
        reason: None,
        response_bytes: 640,
        events: 0,
        duration: Duration::from_micros(1500),
    }
}
