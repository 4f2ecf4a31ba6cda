//! What a guard that was killed, or a disk that failed, left in the directory is gone on from, and does not stay.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::faults::Faulty;
use super::rotation::{calls, files, small, unpacked};
use super::*;
use crate::audit::record::tests::call;
use crate::audit::walk::segment_name;
use crate::audit::{AuditError, packed};

/// A copy of a trail.
fn copied(from: &Path) -> tempfile::TempDir {
    let dir = tempdir();
    fs::create_dir(dir.path().join("audit")).unwrap();
    for entry in fs::read_dir(from.join("audit")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, dir.path().join("audit").join(path.file_name().unwrap())).unwrap();
        }
    }
    dir
}

/// Packs the last file of a trail, and gives both names. The plain one is still there.
fn pack_last(dir: &Path) -> (PathBuf, PathBuf) {
    let plain = files(dir).pop().unwrap().1;
    let (mut to, name) = (Vec::new(), packed::name(&plain));
    packed::pack(&mut fs::File::open(&plain).unwrap(), &mut to, || false).unwrap();
    fs::write(&name, to).unwrap();
    (plain, name)
}

#[tokio::test]
async fn a_trail_whose_last_file_is_packed_is_gone_on_with() {
    let made = tempdir();
    let log = AuditLog::open(small(made.path(), false)).unwrap();
    calls(&log, 30).await;
    log.close().await;
    let records = sound(made.path()).records;
    // Nothing was done yet; it was unpacked in part, by whoever died then; all of it; and it got its name.
    for left in [None, Some(1), Some(2), Some(3)] {
        let dir = copied(made.path());
        let (plain, packed) = pack_last(dir.path());
        let whole = fs::read(&plain).unwrap();
        let next = PathBuf::from(format!("{}.next", plain.display()));
        match left {
            Some(1) => fs::write(&next, &whole[..whole.len() / 2]).unwrap(),
            Some(2) => fs::write(&next, [&whole[..], b"and what another guard wrote"].concat()).unwrap(),
            _ => {}
        }
        if left != Some(3) {
            fs::remove_file(&plain).unwrap();
        }
        assert_eq!(sound(dir.path()).records, records, "{left:?}");
        let log = AuditLog::open(small(dir.path(), false)).unwrap();
        assert!(fs::read(&plain).unwrap().starts_with(&whole), "{left:?}");
        assert_eq!(plain.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(!next.exists(), "{left:?}");
        calls(&log, 3).await;
        log.close().await;
        let report = sound(dir.path());
        assert_eq!((report.records, report.counts.calls), (records + 7, 33), "{left:?}");
        assert_eq!(packed.exists(), left == Some(3), "the plain one counts, until it is packed itself");
    }
}

#[tokio::test]
async fn a_packed_last_file_that_was_changed_is_not_gone_on_with() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 30).await;
    log.close().await;
    let (plain, packed) = pack_last(dir.path());
    let (records, whole) = (fs::read(&plain).unwrap(), fs::read(&packed).unwrap());
    fs::remove_file(&plain).unwrap();
    for at in (24..whole.len()).step_by(97) {
        let mut changed = whole.clone();
        changed[at] ^= 4;
        for bytes in [&changed[..], &whole[..at]] {
            fs::write(&packed, bytes).unwrap();
            if unpacked(&packed).is_some_and(|same| same == records) {
                // Bytes that repeat can be packed in more ways than one.
                continue;
            }
            assert!(AuditLog::open(small(dir.path(), false)).is_err(), "byte {at}");
            assert!(!plain.exists(), "what was refused stays as it was");
        }
    }
    fs::write(&packed, whole).unwrap();
    AuditLog::open(small(dir.path(), false)).unwrap().close().await;
    sound(dir.path());
}

#[tokio::test]
async fn what_an_attempt_to_begin_a_file_left_does_not_stop_the_next_one() {
    for left in [&b""[..], b"{\"seq\":2,\"prev\":\"", b"a whole line\n"] {
        let dir = tempdir();
        let disk = Faulty::default();
        let log = open_on(options(dir.path()), disk.clone());
        let under_way = log.intend(&call(1)).await.unwrap();
        // Behind the genesis record and the call.
        let next = dir.path().join("audit").join(segment_name(2));
        // Put there before the disk fails: the first attempt to go on meets it.
        fs::write(&next, left).unwrap();
        disk.set(|mood| mood.sync_fails = true);
        assert!(matches!(log.intend(&call(2)).await, Err(AuditError::Failed(_))));
        disk.set(|mood| mood.sync_fails = false);
        let by = std::time::Instant::now() + Duration::from_secs(20);
        while log.intend(&call(3)).await.is_err() {
            assert!(std::time::Instant::now() < by, "{:?}", log.failure());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        under_way.conclude(&ok());
        log.close().await;
        assert_eq!(files(dir.path()).pop().unwrap().1, next);
        let report = sound(dir.path());
        assert_eq!((report.counts.gaps, report.open_calls), (1, 0));
    }
}

#[tokio::test]
async fn a_file_that_was_begun_and_has_no_record_is_removed_by_the_next_start() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 5).await;
    log.close().await;
    let records = sound(dir.path()).records;
    let begun = dir.path().join("audit").join(segment_name(records));
    fs::write(&begun, b"").unwrap();
    AuditLog::open(small(dir.path(), false)).unwrap().close().await;
    assert!(!begun.exists());
    assert_eq!(sound(dir.path()).records, records + 1);
}
