//! A trail in several segments, plain and packed.

use std::fs;
use std::io::Read;
use std::ops::ControlFlow;
use std::path::PathBuf;

use super::faults::Faulty;
use super::*;
use crate::audit::merkle::leaf_hash;
use crate::audit::record::tests::call;
use crate::audit::walk::{Found, Lines, Walk, segments};
use crate::audit::{
    Claim, Export, Format, Index, Keys, Order, Outcomes, Query, VERIFIER_KEY_FILE, VerifierKey, packed,
    prove, search,
};

/// Segments of about twenty calls.
pub(super) fn small(dir: &Path, compress: bool) -> Options {
    let retention = Retention { segment_bytes: 20_000, compress, ..Retention::default() };
    Options { retention, ..options(dir) }
}

pub(super) fn key(dir: &Path) -> VerifierKey {
    VerifierKey::parse(&fs::read_to_string(dir.join("audit").join(VERIFIER_KEY_FILE)).unwrap()).unwrap()
}

pub(super) fn files(dir: &Path) -> Vec<(u64, PathBuf)> {
    segments(&dir.join("audit")).unwrap()
}

pub(super) async fn calls(log: &AuditLog, count: u8) {
    for number in 1..=count {
        log.intend(&call(number)).await.unwrap().conclude(&ok());
    }
}

/// Until all segments but the last are packed.
pub(super) fn until_packed(dir: &Path) {
    let is_plain = |(_, path): &(u64, PathBuf)| !packed::is_packed(path);
    for _ in 0..2_000 {
        if files(dir).iter().filter(|file| is_plain(file)).count() == 1 {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("never packed: {:?}", files(dir));
}

fn lines(path: &Path) -> Vec<Vec<u8>> {
    let (mut lines, mut all) = (Lines::open(path).unwrap(), Vec::new());
    while let Some(Found::Line(line)) = lines.next().unwrap() {
        all.push(line.to_vec());
    }
    all
}

/// The leaf hash of each line, and the root that a reader of the segments from `from` on comes to.
fn read(dir: &Path, from: usize) -> (Vec<[u8; 32]>, [u8; 32]) {
    let (files, keys) = (files(dir), Keys::new(key(dir)));
    let mut walk = Walk::from(files[from].0, u64::MAX, keys);
    let mut hashes = Vec::new();
    for (_, path) in &files[from..] {
        for line in lines(path) {
            walk.line(&line).unwrap();
            hashes.push(leaf_hash(&line));
        }
    }
    (hashes, walk.tree.root())
}

#[tokio::test]
async fn a_reader_can_begin_with_each_segment_and_comes_to_the_same_root() {
    for durability in [Durability::Durable, Durability::Os] {
        let dir = tempdir();
        let log = AuditLog::open(Options { durability, ..small(dir.path(), false) }).unwrap();
        let under_way = log.intend(&call(200)).await.unwrap();
        calls(&log, 60).await;
        under_way.conclude(&ok());
        calls(&log, 20).await;
        log.close().await;

        let report = sound(dir.path());
        assert!(report.segments >= 4, "{report:?}");
        let (all, root) = read(dir.path(), 0);
        for from in 1..report.segments {
            let (rest, same) = read(dir.path(), from);
            assert_eq!(same, root);
            assert!(all.ends_with(&rest));
        }
        let first: serde_json::Value = serde_json::from_slice(&lines(&files(dir.path())[1].1)[0]).unwrap();
        assert_eq!((&first["kind"], &first["format"]), (&"checkpoint".into(), &1.into()));
        assert!(first["open_count"].as_u64().unwrap() >= 1, "{first}");
        let bytes = fs::metadata(&files(dir.path())[1].1).unwrap().len();
        assert!((20_000..20_000 + 64 * 2_000).contains(&bytes), "{bytes}");
    }
}

#[tokio::test]
async fn a_segment_is_full_for_its_age_also_over_a_restart() {
    let dir = tempdir();
    let retention =
        Retention { segment_age: Duration::from_secs(3), compress: false, ..Retention::default() };
    let aging = || Options { retention: retention.clone(), ..options(dir.path()) };
    let log = AuditLog::open(aging()).unwrap();
    calls(&log, 1).await;
    assert_eq!(files(dir.path()).len(), 1);
    log.close().await;
    std::thread::sleep(Duration::from_secs(3));
    let log = AuditLog::open(aging()).unwrap();
    calls(&log, 1).await;
    log.close().await;
    assert!(files(dir.path()).len() >= 2);
    sound(dir.path());
}

#[tokio::test]
async fn packed_segments_are_verified_searched_exported_proved_and_continued() {
    let dir = tempdir();
    let audit = dir.path().join("audit");
    let plain = tempdir();
    for (dir, compress) in [(&dir, true), (&plain, false)] {
        let log = AuditLog::open(small(dir.path(), compress)).unwrap();
        calls(&log, 100).await;
        if compress {
            until_packed(dir.path());
        }
        log.close().await;
    }
    let (report, other) = (sound(dir.path()), sound(plain.path()));
    assert_eq!((report.records, report.counts.calls), (other.records, 100));
    assert!(report.segments >= 5);

    for _ in 0..2 {
        let index = Index::open(&audit, |_, _| {}).unwrap();
        assert_eq!(index.records(), report.records);
        let mut found = Vec::new();
        let query = Query { kind: Some("call".into()), ..Query::default() };
        search(&index, &query, (Order::Oldest, Outcomes::Shown), |one| {
            assert!(one.outcome.is_some());
            found.push(one.seq);
            ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!(found.len(), 100);
    }

    let mut export = Export::open(&audit, &key(dir.path()), None, (Format::Json, false)).unwrap();
    let mut exported = 0;
    while let Some(batch) = export.batch().unwrap() {
        exported += batch.lines.len() as u64;
    }
    assert_eq!(exported, report.records);
    for seq in [0, 1, report.records / 2, report.records - 1] {
        prove(&audit, &key(dir.path()), Claim::Record(seq)).unwrap();
    }

    let log = AuditLog::open(small(dir.path(), true)).unwrap();
    calls(&log, 40).await;
    log.close().await;
    assert_eq!(sound(dir.path()).counts.calls, 140);
}

#[tokio::test]
async fn whatever_packing_left_behind_when_it_was_killed_is_sound_and_is_gone_on_from() {
    let made = tempdir();
    let log = AuditLog::open(small(made.path(), false)).unwrap();
    calls(&log, 50).await;
    log.close().await;
    let records = sound(made.path()).records;
    let first = files(made.path())[0].1.clone();
    let (packed, next) =
        (packed::name(&first), PathBuf::from(format!("{}.next", packed::name(&first).display())));
    let whole = {
        let mut to = Vec::new();
        packed::pack(&mut fs::File::open(&first).unwrap(), &mut to, || false).unwrap();
        to
    };
    // Before the rename, in the middle of a write; behind it; a torn one that a power cut left under the last name.
    for (path, bytes) in [(&next, &whole[..100]), (&packed, &whole[..]), (&packed, &whole[..whole.len() / 2])]
    {
        let dir = tempdir();
        fs::create_dir_all(dir.path().join("audit")).unwrap();
        for entry in fs::read_dir(made.path().join("audit")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, dir.path().join("audit").join(path.file_name().unwrap())).unwrap();
            }
        }
        fs::write(dir.path().join("audit").join(path.file_name().unwrap()), bytes).unwrap();
        assert_eq!(sound(dir.path()).records, records);
        let log = AuditLog::open(small(dir.path(), true)).unwrap();
        until_packed(dir.path());
        log.close().await;
        assert_eq!(sound(dir.path()).records, records + 1);
        assert!(!dir.path().join("audit").join(next.file_name().unwrap()).exists());
    }
}

pub(super) fn unpacked(path: &Path) -> Option<Vec<u8>> {
    let mut bytes = Vec::new();
    packed::open(path, 0).ok()?.read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[tokio::test]
async fn a_packed_segment_that_was_changed_or_cut_is_found() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), true)).unwrap();
    calls(&log, 50).await;
    until_packed(dir.path());
    log.close().await;
    let path = files(dir.path())[0].1.clone();
    let whole = fs::read(&path).unwrap();
    let plain = lines(&path).join(&b'\n');
    for at in (24..whole.len()).step_by(31) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        fs::write(&path, &changed).unwrap();
        if unpacked(&path).is_some_and(|same| same.trim_ascii_end() == plain) {
            // Bytes that repeat can be packed in more ways than one.
            sound(dir.path());
            continue;
        }
        assert!(matches!(check(dir.path()).verdict, Verdict::Tampered | Verdict::Incomplete), "byte {at}");
        assert!(open(dir.path()).is_err(), "byte {at}");
        fs::write(&path, &whole[..at]).unwrap();
        assert!(matches!(check(dir.path()).verdict, Verdict::Tampered | Verdict::Incomplete), "cut at {at}");
        assert!(open(dir.path()).is_err(), "cut at {at}");
    }
    // What unpacks to gibibytes takes their time at most, and no memory.
    let mut bomb = Vec::new();
    packed::pack(&mut std::io::repeat(b'x').take(256 << 20), &mut bomb, || false).unwrap();
    fs::write(&path, bomb).unwrap();
    assert_ne!(check(dir.path()).verdict, Verdict::Sound);
}

#[tokio::test]
async fn a_segment_that_cannot_be_begun_refuses_no_call() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 5).await;
    log.close().await;
    let disk = Faulty::default();
    let log = open_on(small(dir.path(), false), disk.clone());
    disk.set(|mood| mood.create_fails = true);
    calls(&log, 60).await;
    assert_eq!((log.failure(), files(dir.path()).len()), (None, 1));
    disk.set(|mood| mood.create_fails = false);
    tokio::time::sleep(Duration::from_millis(1100)).await;
    calls(&log, 1).await;
    log.close().await;
    assert!(files(dir.path()).len() >= 2);
    assert_eq!(sound(dir.path()).counts.gaps, 0);
}
