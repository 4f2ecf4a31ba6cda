//! Whatever is done to a trail after it was written, both verifiers notice, and say where.

mod written;

use std::fs;
use std::path::Path;
use std::process::Command;

use mcp_guard::audit;
use written::verifier::{note, trail, tree};
use written::{CHECKPOINT, SEGMENT, Trail, VERIFIER_KEY};

/// What both verifiers must say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Says {
    Sound,
    Tampered,
    Incomplete,
    Unreadable,
}

/// What both say; they must agree.
fn verdict(trail: &Trail) -> Says {
    verdict_with(trail, None)
}

fn verdict_with(trail: &Trail, key: Option<&str>) -> Says {
    let theirs = verified(trail, key);
    let lib_key = key.map(|key| audit::VerifierKey::parse(key).unwrap());
    let ours = audit::verify(trail.dir.path(), lib_key.as_ref(), None);
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

fn verified(trail: &Trail, key: Option<&str>) -> trail::Report {
    trail::verify(&trail::Wanted { dir: trail.dir.path(), key, keys: None, since: None }, |_, _| {})
}

/// File and line of the first fault.
fn place(trail: &Trail) -> (String, u64) {
    let fault = verified(trail, None).fault.unwrap();
    (fault.file.file_name().unwrap().to_string_lossy().into_owned(), fault.line)
}

#[tokio::test]
async fn an_untouched_trail_is_sound_across_restarts() {
    let trail = Trail::write().await;
    assert_eq!(verdict(&trail), Says::Sound);
    trail.append(1).await;
    assert_eq!(verdict(&trail), Says::Sound);
}

/// Long enough for several blocks, which several cores read.
#[tokio::test]
async fn a_long_trail_is_read_in_order_to_its_first_fault() {
    let trail = Trail::write().await;
    while trail.segment().len() < 4 << 20 {
        trail.append(u8::MAX).await;
    }
    assert_eq!(verdict(&trail), Says::Sound);
    assert_eq!(verified(&trail, None).records(), trail.lines().len() as u64);
    let whole = trail.segment();
    for at in [10, 1 << 20, (1 << 20) + 70_000, 3 << 20, whole.len() - 10] {
        let mut changed = whole.clone();
        // A second fault behind it must not be told in its place.
        for place in [at, whole.len() - 5] {
            changed[place] ^= 1;
        }
        trail.put(SEGMENT, &changed);
        assert_eq!(verdict(&trail), Says::Tampered, "byte {at}");
        let line = 1 + memchr::memchr_iter(b'\n', &whole[..at]).count() as u64;
        assert!(
            (line..=line + 1).contains(&place(&trail).1),
            "byte {at} of line {line}: {:?}",
            place(&trail)
        );
    }
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
            let says = verdict(&trail);
            let incomplete_is_right = at + 1 == whole.len();
            assert!(
                says == Says::Tampered || (incomplete_is_right && says == Says::Incomplete),
                "byte {at}: {says:?}"
            );
            let (file, found) = place(&trail);
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
            assert_eq!(verdict(&trail), Says::Tampered, "bit {bit} of byte {at}");
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
        assert_eq!(verdict(&trail), expected, "line {gone}");
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
            assert_eq!(verdict(&trail), Says::Tampered, "{first} and {second}");
        }
        for at in 0..=lines.len() {
            let mut repeated = lines.clone();
            repeated.insert(at, lines[first].clone());
            trail.put_lines(&repeated);
            assert_eq!(verdict(&trail), Says::Tampered, "{first} again at {at}");
        }
    }
}

#[tokio::test]
async fn a_trail_cut_at_any_byte_is_incomplete() {
    let trail = Trail::write().await;
    let whole = trail.segment();
    for end in 0..whole.len() {
        trail.put(SEGMENT, &whole[..end]);
        assert_eq!(verdict(&trail), Says::Incomplete, "cut at {end}");
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
    assert_eq!(verdict(&trail), Says::Tampered);
    assert_eq!(place(&trail), (SEGMENT.to_owned(), lines.len() as u64));
}

#[tokio::test]
async fn an_older_directory_put_back_is_noticed_with_any_later_checkpoint() {
    let trail = Trail::write().await;
    let old = trail.segment();
    trail.append(1).await;
    trail.put(SEGMENT, &old);
    assert_eq!(verdict(&trail), Says::Incomplete);
}

#[tokio::test]
async fn another_trails_checkpoint_key_or_segment_does_not_pass() {
    let (trail, other) = (Trail::write().await, Trail::write().await);
    let key = fs::read_to_string(trail.path(VERIFIER_KEY)).unwrap();
    for name in [CHECKPOINT, VERIFIER_KEY, SEGMENT] {
        let own = fs::read(trail.path(name)).unwrap();
        trail.put(name, &fs::read(other.path(name)).unwrap());
        assert_eq!(verdict(&trail), Says::Tampered, "{name}");
        trail.put(name, &own);
    }
    // A whole trail put in place of another passes by its own key, and only by that.
    for name in [CHECKPOINT, VERIFIER_KEY, SEGMENT] {
        trail.put(name, &fs::read(other.path(name)).unwrap());
    }
    assert_eq!(verdict(&trail), Says::Sound);
    assert!(verified(&trail, None).key_from_trail);
    assert_eq!(verdict_with(&trail, Some(&key)), Says::Tampered);
}

#[tokio::test]
async fn renamed_and_missing_files_are_noticed() {
    let trail = Trail::write().await;
    let (lines, whole) = (trail.lines(), trail.segment());
    // Two segments, as after an error of the disk.
    let second = format!("{:020}.jsonl", 3);
    trail.put(SEGMENT, &lines[..3].concat());
    trail.put(&second, &lines[3..].concat());
    assert_eq!(verdict(&trail), Says::Sound);

    trail.put(SEGMENT, &lines[3..].concat());
    trail.put(&second, &lines[..3].concat());
    assert_eq!(verdict(&trail), Says::Tampered, "swapped");
    fs::remove_file(trail.path(&second)).unwrap();
    trail.put(SEGMENT, &lines[..3].concat());
    assert_eq!(verdict(&trail), Says::Incomplete, "second gone");
    trail.put(&second, &lines[3..].concat());
    fs::remove_file(trail.path(SEGMENT)).unwrap();
    assert_eq!(verdict(&trail), Says::Tampered, "first gone");
    fs::remove_file(trail.path(&second)).unwrap();
    assert_eq!(verdict(&trail), Says::Incomplete, "both gone");

    trail.put(SEGMENT, &whole);
    let checkpoint = fs::read(trail.path(CHECKPOINT)).unwrap();
    fs::remove_file(trail.path(CHECKPOINT)).unwrap();
    assert_eq!(verdict(&trail), Says::Incomplete, "checkpoint gone");
    trail.put(CHECKPOINT, &checkpoint);
    fs::remove_file(trail.path(VERIFIER_KEY)).unwrap();
    assert_eq!(verdict(&trail), Says::Unreadable, "key gone");
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
