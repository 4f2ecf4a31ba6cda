//! A key's time is over: the trail goes on with another, wherever the guard dies meanwhile.

use std::fs;
use std::path::Path;

use super::faults::Faulty;
use super::pruning::{all, pruned};
use super::recovery::copy;
use super::rotation::{calls, files, key, small};
use super::*;
use crate::audit::{CHECKPOINT_FILE, Claim, Export, Format, KEY_FILE, KEYS_FILE, NEXT_KEY_FILE, prove};

const SEGMENT: &str = "00000000000000000000.jsonl";

fn with_epoch(lasts: Duration, options: Options) -> Options {
    let retention = Retention { key_epoch: lasts, ..options.retention };
    Options { retention, ..options }
}

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    for _ in 0..4_000 {
        if is_so() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}

/// Has the key replaced once, and ends without another record of the guard's own.
async fn hand_over(dir: &Path) {
    let log = AuditLog::open(with_epoch(Duration::from_millis(300), options(dir))).unwrap();
    until("a hand-over", || log.keys().epoch() > 0).await;
    log.leave().await;
}

fn holds(dir: &Path, secret: &[u8]) -> bool {
    let files = fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path());
    let mut files = files.filter(|path| path.is_file());
    files.any(|path| memchr::memmem::find(&fs::read(path).unwrap(), secret).is_some())
}

#[tokio::test]
async fn a_key_signs_for_its_time_and_is_destroyed_then() {
    let dir = tempdir();
    let log = AuditLog::open(with_epoch(Duration::from_millis(100), small(dir.path(), false))).unwrap();
    let first = fs::read(dir.path().join("audit").join(KEY_FILE)).unwrap();
    let mut export =
        Export::open(&dir.path().join("audit"), &key(dir.path()), None, (Format::Json, false)).unwrap();
    let mut exported = 0;
    while log.keys().epoch() < 4 {
        calls(&log, 20).await;
        while let Some(batch) = export.batch().unwrap() {
            exported += batch.lines.len() as u64;
        }
    }
    let epoch = log.keys().epoch();
    log.close().await;
    let report = sound(dir.path());
    // Ages are counted on over a restart; the last record may be one, too.
    assert!(report.keys >= epoch && report.segments > 1, "{report:?}");
    assert!(!holds(dir.path(), &first));
    while let Some(batch) = export.batch().unwrap() {
        exported += batch.lines.len() as u64;
    }
    assert_eq!(exported, report.records);
    for seq in [0, 5, report.records / 2, report.records - 1] {
        prove(&dir.path().join("audit"), &key(dir.path()), Claim::Record(seq)).unwrap();
    }
    let told: Vec<_> = records(dir.path()).into_iter().filter(|record| record["kind"] == "key").collect();
    assert!(told.iter().zip(1..).all(|(record, epoch)| record["epoch"] == epoch), "{told:?}");
    assert_eq!(told.len() as u64, report.keys);
}

#[tokio::test]
async fn the_rest_of_a_pruned_trail_is_vouched_for_by_its_first_key() {
    let dir = tempdir();
    let log = AuditLog::open(with_epoch(Duration::from_millis(60), small(dir.path(), false))).unwrap();
    while log.keys().epoch() < 3 || files(dir.path()).len() < 4 {
        calls(&log, 20).await;
    }
    let removal = pruned(&log, all()).await;
    calls(&log, 5).await;
    log.close().await;
    let report = sound(dir.path());
    assert_eq!(report.first, removal.to);
    assert!(report.keys >= 3);
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 5).await;
    log.close().await;
    assert_eq!(sound(dir.path()).first, removal.to);
    // What the file of keys alone has now cannot be left out.
    let keys = dir.path().join("audit").join(KEYS_FILE);
    let text = fs::read_to_string(&keys).unwrap();
    fs::write(&keys, text.split_inclusive('\n').skip(1).collect::<String>()).unwrap();
    assert_eq!(check(dir.path()).verdict, Verdict::Tampered);
    assert!(AuditLog::open(small(dir.path(), false)).is_err());
}

/// Where a guard can die: what stands in the directory then.
#[tokio::test]
async fn a_guard_that_dies_at_any_step_of_a_hand_over_goes_on_with_the_right_key() {
    let before = tempdir();
    open(before.path()).unwrap().close().await;
    let after = tempdir();
    copy(before.path(), after.path());
    hand_over(after.path()).await;
    let at = |dir: &Path, name: &str| dir.join("audit").join(name);
    let of = |dir: &tempfile::TempDir, name: &str| fs::read(at(dir.path(), name)).unwrap();
    let (old, new) = (of(&before, KEY_FILE), of(&after, KEY_FILE));
    let whole = of(&after, SEGMENT);
    let start = memchr::memmem::find(&whole, br#""kind":"key""#).unwrap();
    let end = start + whole[start..].iter().position(|&byte| byte == b'\n').unwrap() + 1;
    let (record, torn) = (whole[..end].to_vec(), whole[..end - 20].to_vec());
    let unwritten = of(&before, SEGMENT);
    let (no_keys, keys) = (of(&before, KEYS_FILE), of(&after, KEYS_FILE));
    let zeros = vec![0; old.len()];
    let states = [
        ("the next key is made", &unwritten, &old, Some(&new), &no_keys, 0),
        ("its record is torn", &torn, &old, Some(&new), &no_keys, 0),
        ("its record is written", &record, &old, Some(&new), &no_keys, 1),
        ("the file of keys has it", &record, &old, Some(&new), &keys, 1),
        ("the old key is overwritten", &record, &zeros, Some(&new), &keys, 1),
        ("the new key has its name", &record, &new, None, &keys, 1),
    ];
    for (what, segment, key, next, keys, epoch) in states {
        let dir = tempdir();
        copy(before.path(), dir.path());
        for (name, bytes) in [(SEGMENT, segment), (KEY_FILE, key), (KEYS_FILE, keys)] {
            fs::write(at(dir.path(), name), bytes).unwrap();
        }
        if let Some(next) = next {
            fs::write(at(dir.path(), NEXT_KEY_FILE), next).unwrap();
            secret(&at(dir.path(), NEXT_KEY_FILE));
        }
        let log = open(dir.path()).unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(log.keys().epoch(), epoch, "{what}");
        calls(&log, 1).await;
        log.close().await;
        assert_eq!(sound(dir.path()).keys, epoch, "{what}");
        assert!(!at(dir.path(), NEXT_KEY_FILE).exists(), "{what}");
        assert!(!holds(dir.path(), if epoch == 0 { &new } else { &old }), "{what}: a key too many");
    }
    // Without it nobody can go on, and none may take another.
    for next in [None, Some(&old)] {
        let dir = tempdir();
        copy(before.path(), dir.path());
        fs::write(at(dir.path(), SEGMENT), &record).unwrap();
        if let Some(next) = next {
            fs::write(at(dir.path(), NEXT_KEY_FILE), next).unwrap();
            secret(&at(dir.path(), NEXT_KEY_FILE));
        }
        assert!(matches!(open(dir.path()), Err(OpenError::Key { .. })));
        assert!(holds(dir.path(), &old), "nothing is destroyed by a start that is refused");
    }
}

#[tokio::test]
async fn a_disk_that_fails_during_a_hand_over_leaves_one_key_and_the_next_attempt_another() {
    let dir = tempdir();
    let disk = Faulty::default();
    let log = open_on(with_epoch(Duration::from_secs(2), options(dir.path())), disk.clone());
    disk.set(|mood| mood.full = true);
    until("a failed write", || log.failure().is_some()).await;
    assert_eq!(log.keys().epoch(), 0);
    disk.set(|mood| mood.full = false);
    until("a hand-over", || log.keys().epoch() > 0).await;
    calls(&log, 3).await;
    log.close().await;
    let report = sound(dir.path());
    assert!(report.keys >= 1 && report.counts.gaps >= 1, "{report:?}");
}

#[tokio::test]
async fn calls_go_on_while_the_file_of_keys_cannot_be_written_and_nothing_is_signed_that_nobody_can_check() {
    let dir = tempdir();
    let log = AuditLog::open(with_epoch(Duration::from_secs(2), options(dir.path()))).unwrap();
    // Whatever a full disk would do to a file beside the segments.
    let block = dir.path().join("audit").join(format!("{KEYS_FILE}.next"));
    fs::create_dir(&block).unwrap();
    until("a hand-over", || log.keys().epoch() > 0).await;
    let signed = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    calls(&log, 3).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap(), signed);
    assert_eq!((log.keys().epoch(), log.failure()), (1, None));
    assert!(
        log.unsigned().is_some_and(|why| why.contains("the old key cannot be replaced")),
        "{:?}",
        log.unsigned()
    );
    fs::remove_dir(&block).unwrap();
    until("a checkpoint of the new key", || {
        fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap() != signed
    })
    .await;
    until("an end of it", || log.unsigned().is_none()).await;
    log.close().await;
    sound(dir.path());
}

#[tokio::test]
async fn a_checkpoint_that_cannot_be_written_is_told_while_calls_go_on() {
    let dir = tempdir();
    let log = open(dir.path()).unwrap();
    let block = dir.path().join("audit").join(format!("{CHECKPOINT_FILE}.next"));
    until("the first checkpoint", || log.signed() == log.records()).await;
    fs::create_dir(&block).unwrap();
    calls(&log, 3).await;
    until("why not", || log.unsigned().is_some_and(|why| why.contains(CHECKPOINT_FILE))).await;
    assert_eq!(log.failure(), None);
    fs::remove_dir(&block).unwrap();
    calls(&log, 1).await;
    until("an end of it", || log.unsigned().is_none() && log.signed() == log.records()).await;
    log.close().await;
    sound(dir.path());
}

#[tokio::test]
async fn the_first_key_is_as_old_as_its_trail_however_often_the_guard_starts() {
    let dir = tempdir();
    let started = std::time::Instant::now();
    loop {
        let log = AuditLog::open(with_epoch(Duration::from_millis(400), options(dir.path()))).unwrap();
        // Shorter than the key lasts.
        tokio::time::sleep(Duration::from_millis(50)).await;
        let epoch = log.keys().epoch();
        log.close().await;
        if epoch > 0 {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(30), "one key for ever");
    }
    sound(dir.path());
}

fn secret(path: &Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
}
