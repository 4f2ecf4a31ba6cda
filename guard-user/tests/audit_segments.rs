//! Trails in several files: the guard's reader, the offline one and the documented one say the same.

mod written;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use jiff::{SignedDuration, Timestamp};
use mcp_guard::audit::{self, Pruning, Retention, Verdict};

use written::verifier::trail;
use written::{CHECKPOINT, Trail, VERIFIER_KEY};

/// Some full segments, packed, and the last.
async fn packed() -> Trail {
    let trail = Trail { dir: tempfile::tempdir().unwrap() };
    let retention = Retention { segment_bytes: 20_000, ..Retention::default() };
    trail.append_with(80, retention).await;
    trail
}

fn files(trail: &Trail, ending: &str) -> Vec<PathBuf> {
    let all = fs::read_dir(trail.dir.path()).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = all.filter(|path| path.to_string_lossy().ends_with(ending)).collect();
    files.sort();
    files
}

fn code(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Sound => 0,
        Verdict::Tampered => 1,
        Verdict::Incomplete => 2,
        Verdict::Unreadable => 3,
    }
}

/// What the three say; the key is known from elsewhere.
fn verdicts(trail: &Trail, since: Option<&Path>) -> [u8; 3] {
    let (dir, key) = (trail.dir.path(), trail.path(VERIFIER_KEY));
    let text = fs::read_to_string(&key).unwrap();
    let ours = audit::verify(dir, Some(&audit::VerifierKey::parse(&text).unwrap()), since);
    let theirs = trail::verify(&trail::Wanted { dir, key: Some(&text), keys: None, since }, |_, _| {});
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
    let ran = Command::new("python3").arg(script).arg(dir).arg(key).args(since).output().unwrap();
    assert!(ran.stderr.is_empty(), "{}", String::from_utf8_lossy(&ran.stderr));
    [code(ours.verdict), theirs.verdict().code(), ran.status.code().unwrap().try_into().unwrap()]
}

#[tokio::test]
async fn all_three_readers_agree_on_packed_segments_and_on_each_that_is_changed() {
    let trail = packed().await;
    let packed = files(&trail, ".jsonl.gz");
    assert!(packed.len() >= 3 && files(&trail, ".jsonl").len() == 1, "{packed:?}");
    assert_eq!(verdicts(&trail, None), [0; 3]);

    // An older checkpoint is found again in the packed part.
    let outside = tempfile::tempdir().unwrap();
    let older = outside.path().join("older");
    fs::copy(trail.path(CHECKPOINT), &older).unwrap();
    trail.append_with(40, Retention { segment_bytes: 20_000, ..Retention::default() }).await;
    assert_eq!(verdicts(&trail, Some(&older)), [0; 3]);

    let middle = &packed[1];
    let whole = fs::read(middle).unwrap();
    for at in (24..whole.len()).step_by(whole.len() / 7) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        for bytes in [&changed[..], &whole[..at]] {
            fs::write(middle, bytes).unwrap();
            let said = verdicts(&trail, None);
            assert!(said.iter().all(|code| matches!(code, 1 | 2)), "byte {at}: {said:?}");
        }
    }
    fs::remove_file(middle).unwrap();
    assert_eq!(verdicts(&trail, None), [2; 3]);
    fs::write(middle, &whole).unwrap();
    // A beginning that is gone without a word.
    let first = fs::read(&packed[0]).unwrap();
    fs::remove_file(&packed[0]).unwrap();
    assert_eq!(verdicts(&trail, None), [1; 3]);
    fs::write(&packed[0], first).unwrap();
    assert_eq!(verdicts(&trail, None), [0; 3]);
    // Packed again by others.
    let plain = Command::new("gzip").arg("-dk").arg(middle).status().unwrap();
    assert!(plain.success());
    assert_eq!(verdicts(&trail, None), [0; 3], "both forms");
    fs::remove_file(middle).unwrap();
    assert!(Command::new("gzip").arg("-9").arg(middle.with_extension("")).status().unwrap().success());
    assert_eq!(verdicts(&trail, None), [0; 3]);
}

#[tokio::test]
async fn all_three_readers_agree_on_a_pruned_trail() {
    let trail = packed().await;
    let outside = tempfile::tempdir().unwrap();
    let (older, later) = (outside.path().join("older"), outside.path().join("later"));
    fs::copy(trail.path(CHECKPOINT), &older).unwrap();
    let retention = || Retention { segment_bytes: 20_000, ..Retention::default() };
    trail.append_with(60, retention()).await;
    let before = Some(Timestamp::now() + SignedDuration::from_secs(60));
    let removal = trail.prune(Pruning { before, ..Pruning::default() }).await;
    assert!(removal.to > 100 && removal.files > 3, "{removal:?}");
    assert_eq!(verdicts(&trail, None), [0; 3]);
    assert_eq!(verdicts(&trail, Some(&older)), [2; 3], "nothing is left to compare it with");
    fs::copy(trail.path(CHECKPOINT), &later).unwrap();
    trail.append_with(60, retention()).await;
    assert_eq!(verdicts(&trail, Some(&later)), [0; 3]);

    // Further files gone than was said, and the first record of what is left changed.
    let mut left = files(&trail, ".jsonl.gz");
    left.sort();
    let first = fs::read(&left[0]).unwrap();
    fs::remove_file(&left[0]).unwrap();
    assert_eq!(verdicts(&trail, None), [1; 3]);
    fs::write(&left[0], &first).unwrap();
    assert!(Command::new("gzip").arg("-d").arg(&left[0]).status().unwrap().success());
    let plain = left[0].with_extension("");
    let text = fs::read_to_string(&plain).unwrap();
    let begins = |name: &str| text.find(&format!("\"{name}\":")).unwrap() + name.len() + 3;
    // A link, a peak, the number of calls that wait, the note.
    for (name, at) in [("prev", 5), ("peaks", 5), ("open_count", 0), ("note", 100)] {
        let mut bytes = text.clone().into_bytes();
        let byte = &mut bytes[begins(name) + at];
        *byte = if *byte == b'1' { b'2' } else { b'1' };
        fs::write(&plain, bytes).unwrap();
        assert_eq!(verdicts(&trail, None), [1; 3], "{name}");
    }
    fs::write(&plain, text).unwrap();
    assert_eq!(verdicts(&trail, None), [0; 3]);
}
