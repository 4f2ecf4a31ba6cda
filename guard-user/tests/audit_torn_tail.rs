//! A trail whose last file was cut, at every byte: what a guard that goes on with it makes of it.

mod written;

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use mcp_guard::audit::{self, OpenError, Retention, VerifierKey};
use written::verifier::trail;
use written::{CHECKPOINT, Trail, VERIFIER_KEY};

/// By name.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// The documented verifier takes longer: it looks at one cut in so many.
const DOCUMENTED_EVERY: usize = 257;

/// In memory where there is such a place.
fn tempdir() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory).unwrap() } else { tempfile::tempdir().unwrap() }
}

fn files(dir: &Path) -> Files {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().into(), fs::read(path).unwrap())).collect()
}

fn put(dir: &Path, files: &Files) {
    for (name, bytes) in files {
        fs::write(dir.join(name), bytes).unwrap();
        // The guard takes no key that others may read.
        fs::set_permissions(dir.join(name), Permissions::from_mode(0o600)).unwrap();
    }
}

/// The bytes of its lines that a checkpoint of `size` records covers, if the file begins with record `first`.
fn covered(first: u64, bytes: &[u8], size: u64) -> usize {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.take(usize::try_from(size.saturating_sub(first)).unwrap()).map(<[u8]>::len).sum()
}

fn size(checkpoint: &[u8]) -> u64 {
    std::str::from_utf8(checkpoint).unwrap().lines().nth(1).unwrap().parse().unwrap()
}

/// Both verifiers, and now and then the documented one, call it sound.
fn is_sound(dir: &Path, cut: usize) {
    let key = fs::read_to_string(dir.join(VERIFIER_KEY)).unwrap();
    let ours = audit::verify(dir, Some(&VerifierKey::parse(&key).unwrap()), None);
    assert_eq!(ours.verdict, audit::Verdict::Sound, "cut at {cut}: {:?}", ours.fault);
    let theirs = trail::verify(&trail::Wanted { dir, key: Some(&key), keys: None, since: None }, |_, _| {});
    assert_eq!(theirs.verdict(), trail::Verdict::Sound, "cut at {cut}: {:?}", theirs.fault);
    if cut.is_multiple_of(DOCUMENTED_EVERY) {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/verify_trail.py");
        let said = Command::new("python3").arg(script).arg(dir).output().unwrap();
        assert!(said.status.success(), "cut at {cut}: {said:?}");
    }
}

/// Cuts the last file of `whole` at each byte, with this checkpoint. Returns how many cuts were refused, and how many went on.
async fn cut(whole: &Files, checkpoint: &[u8]) -> (usize, usize) {
    let is_segment = |name: &&PathBuf| name.to_str().is_some_and(|name| name.contains(".jsonl"));
    let last = whole.keys().rfind(is_segment).unwrap();
    let (bytes, digits) = (&whole[last], &last.to_str().unwrap()[..20]);
    let safe = covered(digits.parse().unwrap(), bytes, size(checkpoint));
    let (mut refused, mut went_on) = (0, 0);
    for end in 0..=bytes.len() {
        let trail = Trail { dir: tempdir() };
        let mut left = whole.clone();
        left.insert(CHECKPOINT.into(), checkpoint.to_vec());
        left.insert(last.clone(), bytes[..end].to_vec());
        put(trail.dir.path(), &left);
        let opened = trail.try_open(Retention { compress: false, ..Retention::default() });
        if end < safe {
            assert!(matches!(opened, Err(OpenError::Rollback { .. })), "cut at {end}, {safe} are signed");
            // What is left stays as it is, for whoever looks into it.
            assert_eq!(files(trail.dir.path()), left, "cut at {end}");
            refused += 1;
            continue;
        }
        opened.unwrap().close().await;
        let whole_lines = bytes[..end].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let now = files(trail.dir.path());
        let torn: Vec<_> = now.iter().filter(|(name, _)| name.starts_with_torn()).collect();
        if whole_lines == 0 {
            // Nothing of it was ever answered for: the file before it goes on, unpacked.
            let plain = now.keys().rfind(is_segment).unwrap();
            assert!(plain < last && !plain.ends_with_packed(), "cut at {end}: {}", plain.display());
        }
        let kept = now.get(last).map_or(&[][..], Vec::as_slice);
        assert!(kept.starts_with(&bytes[..whole_lines]), "cut at {end}");
        match torn.as_slice() {
            [] => assert_eq!(end, whole_lines, "cut at {end}"),
            [(_, torn)] => assert_eq!(**torn, bytes[whole_lines..end], "cut at {end}"),
            _ => panic!("cut at {end}: {torn:?}"),
        }
        // And it is told.
        let told: usize = gaps(&now).iter().map(|gap| told(gap, "torn_bytes")).sum();
        assert_eq!(told, end - whole_lines, "cut at {end}");
        is_sound(trail.dir.path(), end);
        went_on += 1;
    }
    (refused, went_on)
}

/// The records of gaps in plain files.
fn gaps(files: &Files) -> Vec<serde_json::Value> {
    let plain = files.iter().filter(|(name, _)| name.extension().is_some_and(|ending| ending == "jsonl"));
    let lines = plain.flat_map(|(_, bytes)| bytes.split(|byte| *byte == b'\n'));
    let records = lines.filter(|line| !line.is_empty()).map(|line| serde_json::from_slice(line).unwrap());
    records.filter(|record: &serde_json::Value| record["kind"] == "gap").collect()
}

fn told(gap: &serde_json::Value, name: &str) -> usize {
    gap[name].as_u64().map_or(0, |number| usize::try_from(number).unwrap())
}

trait Name {
    fn starts_with_torn(&self) -> bool;
    fn ends_with_packed(&self) -> bool;
}

impl Name for PathBuf {
    fn starts_with_torn(&self) -> bool {
        self.to_str().is_some_and(|name| name.starts_with("torn-"))
    }

    fn ends_with_packed(&self) -> bool {
        self.extension().is_some_and(|ending| ending == "gz")
    }
}

#[tokio::test]
async fn audit_torn_tail() {
    // The checkpoint covers a part of the last file.
    let trail = Trail { dir: tempdir() };
    trail.append(0).await;
    let checkpoint = fs::read(trail.path(CHECKPOINT)).unwrap();
    trail.append(1).await;
    let (refused, went_on) = cut(&files(trail.dir.path()), &checkpoint).await;
    assert!(refused > 500 && went_on > 1_000, "{refused} {went_on}");

    // It ends before the last file: what was packed is gone on with.
    let trail = Trail { dir: tempdir() };
    trail.append(0).await;
    trail.append_with(0, Retention { segment_bytes: 1, ..Retention::default() }).await;
    let whole = files(trail.dir.path());
    let last = whole.keys().rfind(|name| name.extension().is_some_and(|ending| ending == "jsonl")).unwrap();
    let begins = whole[last].split(|byte| *byte == b'\n').next().unwrap();
    let begins: serde_json::Value = serde_json::from_slice(begins).unwrap();
    let checkpoint = begins["note"].as_str().unwrap();
    assert!(begins["seq"].as_u64().unwrap() > 2 && whole.keys().any(Name::ends_with_packed));
    let (refused, went_on) = cut(&whole, checkpoint.as_bytes()).await;
    assert!(refused == 0 && went_on > 500, "{refused} {went_on}");
}
