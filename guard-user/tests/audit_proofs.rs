//! What an older checkpoint shows, and what can be proved with the key alone.

mod written;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use mcp_guard::audit::{self, Claim, VerifierKey, prove};
use written::verifier::proof::{self, Proved};
use written::verifier::trail;
use written::{CHECKPOINT, SEGMENT, Trail, VERIFIER_KEY};

/// What a trail's directory holds.
type Copied = Vec<(PathBuf, Vec<u8>)>;

fn copied(trail: &Trail) -> Copied {
    let entries = fs::read_dir(trail.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

fn put_back(trail: &Trail, copied: &Copied) {
    for entry in fs::read_dir(trail.dir.path()).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for (path, bytes) in copied {
        fs::write(path, bytes).unwrap();
        // The guard takes no key that others may read.
        fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
    }
}

fn key(trail: &Trail) -> String {
    fs::read_to_string(trail.path(VERIFIER_KEY)).unwrap()
}

/// A copy of the trail's latest checkpoint, outside of it.
fn checkpoint(trail: &Trail, outside: &tempfile::TempDir, name: &str) -> PathBuf {
    let path = outside.path().join(name);
    fs::copy(trail.path(CHECKPOINT), &path).unwrap();
    path
}

/// What both verifiers say of the trail with an older checkpoint, by their exit codes.
fn verdict_since(trail: &Trail, since: &Path) -> u8 {
    let key = key(trail);
    let wanted = trail::Wanted { dir: trail.dir.path(), key: Some(&key), keys: None, since: Some(since) };
    let theirs = trail::verify(&wanted, |_, _| {}).verdict().code();
    let ours = audit::verify(trail.dir.path(), Some(&VerifierKey::parse(&key).unwrap()), Some(since)).verdict;
    let ours = match ours {
        audit::Verdict::Sound => 0,
        audit::Verdict::Tampered => 1,
        audit::Verdict::Incomplete => 2,
        audit::Verdict::Unreadable => 3,
    };
    assert_eq!(theirs, ours, "offline verifier and guard");
    ours
}

#[tokio::test]
async fn a_whole_trail_put_back_is_noticed_with_a_checkpoint_from_elsewhere() {
    let (trail, outside) = (Trail::write().await, tempfile::tempdir().unwrap());
    let first = checkpoint(&trail, &outside, "first");
    let before = copied(&trail);
    trail.append(1).await;
    let second = checkpoint(&trail, &outside, "second");
    for since in [&first, &second] {
        assert_eq!(verdict_since(&trail, since), 0, "it only grew");
    }

    // All of it put back, its own checkpoint included: in itself that is a sound trail.
    put_back(&trail, &before);
    assert_eq!(verdict_since(&trail, &first), 0);
    assert_eq!(verdict_since(&trail, &second), 2);
    // The guard's own key signs another history over it.
    trail.append(3).await;
    assert_eq!(verdict_since(&trail, &first), 0);
    assert_eq!(verdict_since(&trail, &second), 1);
    // Somebody else's checkpoint proves nothing, and accuses nobody.
    let other = Trail::write().await;
    assert_eq!(verdict_since(&trail, &checkpoint(&other, &outside, "other")), 3);
    assert_eq!(verdict_since(&trail, &outside.path().join("none")), 3);
}

#[tokio::test]
async fn each_record_is_proved_and_no_changed_proof_passes() {
    let (trail, outside) = (Trail::write().await, tempfile::tempdir().unwrap());
    let (key, file) = (key(&trail), outside.path().join("record.tlog-proof"));
    let verifier = VerifierKey::parse(&key).unwrap();
    let lines = trail.lines();
    for (number, line) in (0..).zip(&lines) {
        let text = prove(trail.dir.path(), &verifier, Claim::Record(number)).unwrap();
        fs::write(&file, &text).unwrap();
        let Ok(Proved::Record { number: proved, record, size }) = proof::verify(&file, (&key, ""), None)
        else {
            panic!("record {number}: {text}");
        };
        assert_eq!((proved, size), (number, lines.len() as u64));
        assert_eq!(record.as_bytes(), line.trim_ascii_end());
    }
    let past = lines.len() as u64;
    assert!(prove(trail.dir.path(), &verifier, Claim::Record(past)).is_err(), "it is not there");

    let text = prove(trail.dir.path(), &verifier, Claim::Record(3)).unwrap().into_bytes();
    for at in 0..text.len() {
        let mut changed = text.clone();
        changed[at] ^= 1;
        fs::write(&file, &changed).unwrap();
        assert!(proof::verify(&file, (&key, ""), None).is_err(), "byte {at}");
    }
    for changed in [&text[..text.len() - 1], &text[1..]] {
        fs::write(&file, changed).unwrap();
        assert!(proof::verify(&file, (&key, ""), None).is_err());
    }
    fs::write(&file, &text).unwrap();
    assert!(
        proof::verify(&file, (&self::key(&Trail::write().await), ""), None).is_err(),
        "another trail's key"
    );
}

#[tokio::test]
async fn growth_is_proved_from_each_older_checkpoint_and_from_no_other_history() {
    let (trail, outside) = (Trail::write().await, tempfile::tempdir().unwrap());
    let (key, file) = (key(&trail), outside.path().join("growth"));
    let verifier = VerifierKey::parse(&key).unwrap();
    let mut older = vec![checkpoint(&trail, &outside, "0")];
    let before = copied(&trail);
    for (calls, name) in [(1, "1"), (4, "2"), (2, "3")] {
        trail.append(calls).await;
        older.push(checkpoint(&trail, &outside, name));
    }
    for since in &older {
        let note = fs::read_to_string(since).unwrap();
        let text = prove(trail.dir.path(), &verifier, Claim::Since(&note)).unwrap();
        fs::write(&file, &text).unwrap();
        assert!(
            matches!(proof::verify(&file, (&key, ""), Some(since)), Ok(Proved::Grown { .. })),
            "{since:?}: {text}"
        );
        for at in 0..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[at] ^= 1;
            fs::write(&file, &changed).unwrap();
            assert!(proof::verify(&file, (&key, ""), Some(since)).is_err(), "{since:?}, byte {at}");
        }
    }
    // Another history of the same length or more has no proof, and an old proof is not about it.
    let note = fs::read_to_string(&older[1]).unwrap();
    let text = prove(trail.dir.path(), &verifier, Claim::Since(&note)).unwrap();
    put_back(&trail, &before);
    trail.append(9).await;
    assert!(prove(trail.dir.path(), &verifier, Claim::Since(&note)).is_err());
    let (proof_lines, _) = text.split_once("\n\n").unwrap();
    let forged = format!("{proof_lines}\n\n{}", fs::read_to_string(trail.path(CHECKPOINT)).unwrap());
    fs::write(&file, forged).unwrap();
    let fault = proof::verify(&file, (&key, ""), Some(&older[1])).unwrap_err();
    assert_eq!(fault.verdict, trail::Verdict::Tampered);
}

fn ran(program: &str, words: &[&str]) -> Output {
    Command::new(program).args(words).output().unwrap()
}

#[tokio::test]
async fn the_programs_write_and_check_proofs() {
    const GUARD: &str = env!("CARGO_BIN_EXE_mcp-guard");
    const VERIFY: &str = env!("CARGO_BIN_EXE_mcp-guard-verify");
    let (trail, outside) = (Trail::write().await, tempfile::tempdir().unwrap());
    let older = checkpoint(&trail, &outside, "older");
    trail.append(1).await;
    let (dir, key) = (trail.dir.path().to_str().unwrap(), trail.path(VERIFIER_KEY));
    let (key, older) = (key.to_str().unwrap(), older.to_str().unwrap());
    let at = |name: &str| outside.path().join(name).to_str().unwrap().to_owned();
    let (record, growth) = (at("record.tlog-proof"), at("growth"));

    let made = ran(GUARD, &["audit", "prove", "2", "--dir", dir, "--output", &record]);
    assert!(made.status.success(), "{made:?}");
    let made = ran(GUARD, &["audit", "prove", "--since", older, "--dir", dir]);
    fs::write(&growth, &made.stdout).unwrap();
    let again = ran(GUARD, &["audit", "prove", "2", "--dir", dir, "--output", &record]);
    assert_eq!(again.status.code(), Some(1), "a file that is there stays: {again:?}");

    let checked = ran(VERIFY, &["--proof", &record, "--key", key]);
    let text = String::from_utf8(checked.stdout).unwrap();
    assert!(
        checked.status.success() && text.contains("\"kind\":\"call\"") && text.contains("SOUND"),
        "{text}"
    );
    let checked = ran(VERIFY, &["--proof", &growth, "--key", key, "--since", older, "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&checked.stdout).unwrap();
    assert_eq!(json["verdict"], "sound", "{json}");
    assert_eq!(ran(VERIFY, &["--proof", &record]).status.code(), Some(3), "without a key");
    assert_eq!(
        ran(VERIFY, &["--proof", &record, "--key", key, "--since", older]).status.code(),
        Some(3),
        "mixed up"
    );
    assert_eq!(ran(VERIFY, &[dir, "--since", older]).status.code(), Some(0));

    let changed = fs::read_to_string(&record).unwrap().replace("\nindex 2\n", "\nindex 3\n");
    fs::write(&record, changed).unwrap();
    assert_eq!(ran(VERIFY, &["--proof", &record, "--key", key]).status.code(), Some(1));
    trail.put(SEGMENT, &trail.lines()[..2].concat());
    assert_eq!(ran(VERIFY, &[dir, "--since", older]).status.code(), Some(2));
}

/// What the program of `docs/` says of a trail: it was written from the description of the format alone.
fn documented(trail: &Trail, since: Option<&str>) -> u8 {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
    let (dir, key) = (trail.dir.path(), trail.path(VERIFIER_KEY));
    let ran = Command::new("python3").arg(script).arg(dir).arg(key).args(since).output().unwrap();
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    ran.status.code().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn the_description_of_the_format_is_enough_to_check_a_trail() {
    let script = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py")).unwrap();
    assert!(script.lines().count() < 150);

    let (trail, outside) = (Trail::write().await, tempfile::tempdir().unwrap());
    trail.append(3).await;
    let older = checkpoint(&trail, &outside, "older");
    trail.append(1).await;
    assert_eq!((documented(&trail, None), documented(&trail, older.to_str())), (0, 0));
    let (whole, lines) = (copied(&trail), trail.lines());
    let cases = [
        ("last line gone", lines[..lines.len() - 1].to_vec()),
        ("first line gone", lines[1..].to_vec()),
        ("inner line gone", [&lines[..3], &lines[4..]].concat()),
        ("a line twice", [&lines[..4], &lines[3..]].concat()),
        ("two lines swapped", [&lines[..2], &lines[3..4], &lines[2..3], &lines[4..]].concat()),
        ("end torn", [&lines[..], &[b"{\"seq\":".to_vec()]].concat()),
    ];
    for (case, left) in cases {
        trail.put_lines(&left);
        assert_eq!(documented(&trail, None), verdict(&trail), "{case}");
    }
    // One byte in each part of a line, and in the files beside the trail.
    for (name, step) in [(SEGMENT, 401), (CHECKPOINT, 29)] {
        put_back(&trail, &whole);
        let bytes = fs::read(trail.path(name)).unwrap();
        for at in (0..bytes.len()).step_by(step) {
            let mut changed = bytes.clone();
            changed[at] ^= 1;
            trail.put(name, &changed);
            assert_eq!(documented(&trail, None), verdict(&trail), "byte {at} of {name}");
        }
    }
    put_back(&trail, &whole);
    fs::remove_file(trail.path(CHECKPOINT)).unwrap();
    assert_eq!(documented(&trail, None), 2);
    fs::remove_file(trail.path(VERIFIER_KEY)).unwrap();
    assert_eq!(documented(&trail, None), 3);
}

/// What the offline verifier says.
fn verdict(trail: &Trail) -> u8 {
    let wanted = trail::Wanted { dir: trail.dir.path(), key: None, keys: None, since: None };
    trail::verify(&wanted, |_, _| {}).verdict().code()
}
