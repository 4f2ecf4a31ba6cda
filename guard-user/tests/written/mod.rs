//! A trail as the guard writes it, for the tests of those who read it.
#![allow(dead_code, reason = "each test file uses a part")]

pub(crate) mod verifier;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mcp_guard::audit::{
    AuditLog, BootMoment, CallRecord, Event, Local, OpenError, Options, Outcome, Pruning, RECORD_SCHEMA,
    Refusal, Removal, Retention, Target,
};
use mcp_guard::config::Durability;
use mcp_guard::types::DecisionId;

pub(crate) const SEGMENT: &str = "00000000000000000000.jsonl";
pub(crate) const CHECKPOINT: &str = "checkpoint";
pub(crate) const VERIFIER_KEY: &str = "verifier-key";

pub(crate) struct Trail {
    pub(crate) dir: tempfile::TempDir,
}

impl Trail {
    /// Genesis, start, four calls with their outcomes, a refusal, stop.
    pub(crate) async fn write() -> Self {
        let trail = Self { dir: tempfile::tempdir().unwrap() };
        trail.append(2).await;
        trail
    }

    pub(crate) async fn append(&self, calls: u8) {
        self.append_with(calls, Retention::default()).await;
    }

    /// Waits until the full segments are packed.
    pub(crate) async fn append_with(&self, calls: u8, retention: Retention) {
        let log = self.open(retention);
        let start = Event::Start {
            version: "0.1.0",
            pid: 1,
            durability: Durability::Os,
            digest_key: "0123456789abcdef",
            config: &"0".repeat(64),
            schema: RECORD_SCHEMA,
            moment: BootMoment::now(),
        };
        log.note(&start).await.unwrap();
        for number in 0..calls {
            log.intend(&call(number)).await.unwrap().conclude(&Outcome::abandoned());
        }
        log.refuse(&call(calls), Refusal::Deny, 200).await.unwrap();
        while self.plain() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        log.close().await;
    }

    pub(crate) async fn prune(&self, pruning: Pruning) -> Removal {
        let log = self.open(Retention::default());
        let removal = log.prune(pruning).await.unwrap().expect("something goes");
        log.leave().await;
        removal
    }

    /// Has the trail's key replaced once.
    pub(crate) async fn hand_over(&self) {
        let log = self.open(Retention { key_epoch: Duration::from_millis(200), ..Retention::default() });
        let before = log.keys().epoch();
        while log.keys().epoch() == before {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        log.leave().await;
    }

    /// The records that hand over, as lines of the first segment.
    pub(crate) fn hand_overs(&self) -> Vec<usize> {
        let is_key = |line: &Vec<u8>| memchr::memmem::find(line, br#""kind":"key""#).is_some();
        (0..).zip(self.lines()).filter(|(_, line)| is_key(line)).map(|(seq, _)| seq).collect()
    }

    fn open(&self, retention: Retention) -> AuditLog {
        self.try_open(retention).unwrap()
    }

    pub(crate) fn try_open(&self, retention: Retention) -> Result<AuditLog, OpenError> {
        AuditLog::open(Options {
            dir: self.dir.path().to_owned(),
            host: "box".into(),
            durability: Durability::Os,
            wait: Duration::from_secs(20),
            calls_in_flight_max: 8,
            calls_in_flight_per_agent_max: 8,
            retention,
        })
    }

    fn plain(&self) -> usize {
        let names = fs::read_dir(self.dir.path()).unwrap().map(|entry| entry.unwrap().path());
        names.filter(|path| path.extension().is_some_and(|ending| ending == "jsonl")).count()
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(crate) fn segment(&self) -> Vec<u8> {
        fs::read(self.path(SEGMENT)).unwrap()
    }

    pub(crate) fn lines(&self) -> Vec<Vec<u8>> {
        self.segment().split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    pub(crate) fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    pub(crate) fn put_lines(&self, lines: &[Vec<u8>]) {
        self.put(SEGMENT, &lines.concat());
    }
}

/// What the script of docs/ says of a trail.
pub(crate) fn script(dir: &Path, since: Option<&Path>) -> i32 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(dir);
    if let Some(since) = since {
        command.arg(dir.join(VERIFIER_KEY)).arg(since);
    }
    command.output().unwrap().status.code().unwrap()
}

fn call(number: u8) -> CallRecord<'static> {
    CallRecord {
        id: DecisionId([number; 16]),
        conn: Some(1),
        server: "crm",
        agent: Some("support-agent"),
        client: None,
        profile: None,
        user: None,
        evidence: Some("secret"),
        credential: None,
        certificate: None,
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        original_dst: None,
        local: Local::Unknown,
        era: None,
        session: None,
        http_method: "POST",
        rpc_method: Some("tools/call"),
        rpc_id: Some("1"),
        target: Some(Target { kind: "tool", name: "get_\u{202e}customer" }),
        arguments: None,
        intent: Some("customer.read"),
        continues: None,
        cause: None,
        reason: "allowed",
        text: None,
        rule: None,
        velocity: None,
        counted: None,
        would_deny: &[],
        risk: None,
        label: None,
        mark: None,
        trace: None,
        policy: Some("abc"),
        body_bytes: 12,
        guest: None,
    }
}
