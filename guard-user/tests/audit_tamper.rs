//! Whatever is done to a trail after it was written, both verifiers notice, and say where.

#[path = "../src/bin/mcp-guard-verify/note.rs"]
mod note;
#[path = "../src/bin/mcp-guard-verify/trail.rs"]
#[allow(dead_code, reason = "the program's own report uses the rest")]
mod trail;
#[path = "../src/bin/mcp-guard-verify/tree.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use mcp_guard::audit::{self, AuditLog, CallRecord, Event, Local, Options, Outcome, Refusal, Target};
use mcp_guard::config::Durability;
use mcp_guard::types::DecisionId;

const SEGMENT: &str = "00000000000000000000.jsonl";
const CHECKPOINT: &str = "checkpoint";
const VERIFIER_KEY: &str = "verifier-key";

/// What both verifiers must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Sound,
    Tampered,
    Incomplete,
    Unreadable,
}

struct Trail {
    dir: tempfile::TempDir,
}

impl Trail {
    /// Genesis, start, four calls with their outcomes, a refusal, stop.
    async fn write() -> Self {
        let trail = Self { dir: tempfile::tempdir().unwrap() };
        trail.append(2).await;
        trail
    }

    async fn append(&self, calls: u8) {
        let log = AuditLog::open(Options {
            dir: self.dir.path().to_owned(),
            host: "box".into(),
            durability: Durability::Os,
            wait: Duration::from_secs(20),
            calls_in_flight_max: 8,
            calls_in_flight_per_agent_max: 8,
        })
        .unwrap();
        let start = Event::Start { version: "0.1.0", pid: 1, durability: Durability::Os };
        log.note(&start).await.unwrap();
        for number in 0..calls {
            log.intend(&call(number)).await.unwrap().conclude(&Outcome::abandoned());
        }
        log.refuse(&call(calls), Refusal::Deny, 200).await.unwrap();
        log.close().await;
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn segment(&self) -> Vec<u8> {
        fs::read(self.path(SEGMENT)).unwrap()
    }

    fn lines(&self) -> Vec<Vec<u8>> {
        self.segment().split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect()
    }

    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn put_lines(&self, lines: &[Vec<u8>]) {
        self.put(SEGMENT, &lines.concat());
    }

    /// What both say; they must agree.
    fn verdict(&self) -> Says {
        self.verdict_with(None)
    }

    fn verdict_with(&self, key: Option<&str>) -> Says {
        let theirs = trail::verify(self.dir.path(), key);
        let lib_key = key.map(|key| audit::VerifierKey::parse(key).unwrap());
        let ours = audit::verify(self.dir.path(), lib_key.as_ref());
        let (theirs_says, ours_says) = (
            match theirs.verdict() {
                trail::Verdict::Sound => Says::Sound,
                trail::Verdict::Tampered => Says::Tampered,
                trail::Verdict::Incomplete => Says::Incomplete,
                trail::Verdict::Unreadable => Says::Unreadable,
            },
            match ours.verdict {
                audit::Verdict::Sound => Says::Sound,
                audit::Verdict::Tampered => Says::Tampered,
                audit::Verdict::Incomplete => Says::Incomplete,
                audit::Verdict::Unreadable => Says::Unreadable,
            },
        );
        assert_eq!(theirs_says, ours_says, "{:?}\n{:?}", theirs.fault, ours.fault);
        if let (Some(theirs), Some(ours)) = (&theirs.fault, &ours.fault) {
            // The offline verifier is stricter about how a line begins, and may see at once what the other sees
            // in the next line's `prev`.
            assert!(theirs.file == ours.file && ours.line.abs_diff(theirs.line) <= 1, "{theirs:?}\n{ours:?}");
        }
        theirs_says
    }

    /// File and line of the first fault.
    fn place(&self) -> (String, u64) {
        let fault = trail::verify(self.dir.path(), None).fault.unwrap();
        (fault.file.file_name().unwrap().to_string_lossy().into_owned(), fault.line)
    }
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
        peer: Some("127.0.0.1:4711".parse().unwrap()),
        original_dst: None,
        local: Local::Unknown,
        era: None,
        session: None,
        http_method: "POST",
        rpc_method: Some("tools/call"),
        rpc_id: Some("1"),
        target: Some(Target { kind: "tool", name: "get_\u{202e}customer" }),
        intent: Some("customer.read"),
        continues: None,
        cause: None,
        reason: "allowed",
        text: None,
        rule: None,
        velocity: None,
        counted: None,
        would_deny: &[],
        policy: Some("abc"),
        body_bytes: 12,
        guest: None,
    }
}

#[tokio::test]
async fn an_untouched_trail_is_sound_across_restarts() {
    let trail = Trail::write().await;
    assert_eq!(trail.verdict(), Says::Sound);
    trail.append(1).await;
    assert_eq!(trail.verdict(), Says::Sound);
}

#[tokio::test]
async fn every_flipped_byte_is_noticed_at_its_line_or_the_next() {
    let trail = Trail::write().await;
    let whole = trail.segment();
    let mut line = 1;
    for at in 0..whole.len() {
        // Bit 0 makes other digits and letters; bit 6 joins lines, and moves letters to digits.
        for bit in [0x01, 0x40] {
            if bit != 1 && at % 5 != 0 && whole[at] != b'\n' {
                continue;
            }
            let mut changed = whole.clone();
            changed[at] ^= bit;
            trail.put(SEGMENT, &changed);
            let says = trail.verdict();
            let incomplete_is_right = at + 1 == whole.len();
            assert!(
                says == Says::Tampered || (incomplete_is_right && says == Says::Incomplete),
                "byte {at}: {says:?}"
            );
            let (file, found) = trail.place();
            assert!(
                file == SEGMENT && (found == line || found == line + 1),
                "byte {at} of line {line}: {found}"
            );
        }
        line += u64::from(whole[at] == b'\n');
    }
}

#[tokio::test]
async fn every_flipped_byte_of_the_checkpoint_is_noticed() {
    let trail = Trail::write().await;
    let whole = fs::read(trail.path(CHECKPOINT)).unwrap();
    for at in 0..whole.len() {
        for bit in 0..8 {
            let mut changed = whole.clone();
            changed[at] ^= 1 << bit;
            trail.put(CHECKPOINT, &changed);
            assert_eq!(trail.verdict(), Says::Tampered, "bit {bit} of byte {at}");
        }
    }
}

#[tokio::test]
async fn a_missing_line_is_noticed_wherever_it_was() {
    let trail = Trail::write().await;
    let lines = trail.lines();
    for gone in 0..lines.len() {
        let mut left = lines.clone();
        left.remove(gone);
        trail.put_lines(&left);
        let expected = if gone + 1 == lines.len() { Says::Incomplete } else { Says::Tampered };
        assert_eq!(trail.verdict(), expected, "line {gone}");
    }
}

#[tokio::test]
async fn swapped_and_repeated_lines_are_noticed() {
    let trail = Trail::write().await;
    let lines = trail.lines();
    for first in 0..lines.len() {
        for second in first + 1..lines.len() {
            let mut swapped = lines.clone();
            swapped.swap(first, second);
            trail.put_lines(&swapped);
            assert_eq!(trail.verdict(), Says::Tampered, "{first} and {second}");
        }
        for at in 0..=lines.len() {
            let mut repeated = lines.clone();
            repeated.insert(at, lines[first].clone());
            trail.put_lines(&repeated);
            assert_eq!(trail.verdict(), Says::Tampered, "{first} again at {at}");
        }
    }
}

#[tokio::test]
async fn a_trail_cut_at_any_byte_is_incomplete() {
    let trail = Trail::write().await;
    let whole = trail.segment();
    for end in 0..whole.len() {
        trail.put(SEGMENT, &whole[..end]);
        assert_eq!(trail.verdict(), Says::Incomplete, "cut at {end}");
    }
}

/// The attack that a chain alone does not notice: the records after a point are written anew, with good links.
#[tokio::test]
async fn records_written_anew_with_good_links_are_noticed() {
    let trail = Trail::write().await;
    let mut lines = trail.lines();
    let mut prev = [0; 32];
    for line in &mut lines {
        let text = String::from_utf8(line.clone()).unwrap().replace("\"deny\"", "\"hold\"");
        let start = text.find("\"prev\":\"").unwrap() + 8;
        let text = format!("{}{}{}", &text[..start], note::hex(&prev), &text[start + 64..]);
        prev = tree::leaf(text.trim_end().as_bytes());
        *line = text.into_bytes();
    }
    trail.put_lines(&lines);
    assert_eq!(trail.verdict(), Says::Tampered);
    assert_eq!(trail.place(), (SEGMENT.to_owned(), lines.len() as u64));
}

#[tokio::test]
async fn an_older_directory_put_back_is_noticed_with_any_later_checkpoint() {
    let trail = Trail::write().await;
    let old = trail.segment();
    trail.append(1).await;
    trail.put(SEGMENT, &old);
    assert_eq!(trail.verdict(), Says::Incomplete);
}

#[tokio::test]
async fn another_trails_checkpoint_key_or_segment_does_not_pass() {
    let (trail, other) = (Trail::write().await, Trail::write().await);
    let key = fs::read_to_string(trail.path(VERIFIER_KEY)).unwrap();
    for name in [CHECKPOINT, VERIFIER_KEY, SEGMENT] {
        let own = fs::read(trail.path(name)).unwrap();
        trail.put(name, &fs::read(other.path(name)).unwrap());
        assert_eq!(trail.verdict(), Says::Tampered, "{name}");
        trail.put(name, &own);
    }
    // A whole trail put in place of another passes by its own key, and only by that.
    for name in [CHECKPOINT, VERIFIER_KEY, SEGMENT] {
        trail.put(name, &fs::read(other.path(name)).unwrap());
    }
    assert_eq!(trail.verdict(), Says::Sound);
    assert!(trail::verify(trail.dir.path(), None).key_from_trail);
    assert_eq!(trail.verdict_with(Some(&key)), Says::Tampered);
}

#[tokio::test]
async fn renamed_and_missing_files_are_noticed() {
    let trail = Trail::write().await;
    let (lines, whole) = (trail.lines(), trail.segment());
    // Two segments, as after an error of the disk.
    let second = format!("{:020}.jsonl", 3);
    trail.put(SEGMENT, &lines[..3].concat());
    trail.put(&second, &lines[3..].concat());
    assert_eq!(trail.verdict(), Says::Sound);

    trail.put(SEGMENT, &lines[3..].concat());
    trail.put(&second, &lines[..3].concat());
    assert_eq!(trail.verdict(), Says::Tampered, "swapped");
    fs::remove_file(trail.path(&second)).unwrap();
    trail.put(SEGMENT, &lines[..3].concat());
    assert_eq!(trail.verdict(), Says::Incomplete, "second gone");
    trail.put(&second, &lines[3..].concat());
    fs::remove_file(trail.path(SEGMENT)).unwrap();
    assert_eq!(trail.verdict(), Says::Incomplete, "first gone");
    fs::remove_file(trail.path(&second)).unwrap();
    assert_eq!(trail.verdict(), Says::Incomplete, "both gone");

    trail.put(SEGMENT, &whole);
    let checkpoint = fs::read(trail.path(CHECKPOINT)).unwrap();
    fs::remove_file(trail.path(CHECKPOINT)).unwrap();
    assert_eq!(trail.verdict(), Says::Incomplete, "checkpoint gone");
    trail.put(CHECKPOINT, &checkpoint);
    fs::remove_file(trail.path(VERIFIER_KEY)).unwrap();
    assert_eq!(trail.verdict(), Says::Unreadable, "key gone");
}

#[tokio::test]
async fn the_programs_exit_with_the_documented_codes() {
    let trail = Trail::write().await;
    let whole = trail.segment();
    assert_eq!(exit_codes(trail.dir.path()), (0, 0));
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    trail.put(SEGMENT, &changed);
    assert_eq!(exit_codes(trail.dir.path()), (1, 1));
    trail.put(SEGMENT, &whole[..whole.len() / 2]);
    assert_eq!(exit_codes(trail.dir.path()), (2, 2));
    assert_eq!(exit_codes(Path::new("/nowhere")), (3, 3));
}

fn exit_codes(dir: &Path) -> (i32, i32) {
    let offline =
        Command::new(env!("CARGO_BIN_EXE_mcp-guard-verify")).arg(dir).arg("--json").output().unwrap();
    let json: serde_json::Value = serde_json::from_slice(&offline.stdout).unwrap();
    assert_eq!(json["verdict"] == "sound", offline.status.success());
    let own = Command::new(env!("CARGO_BIN_EXE_mcp-guard"))
        .args(["audit", "verify", "--json", "--dir"])
        .arg(dir)
        .output()
        .unwrap();
    let json: serde_json::Value = serde_json::from_slice(&own.stdout).unwrap();
    assert_eq!(json["verdict"] == "sound", own.status.success());
    (offline.status.code().unwrap(), own.status.code().unwrap())
}
