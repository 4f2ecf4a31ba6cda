//! What an operator is shown of the copies.

use std::fs;
use std::path::PathBuf;

use super::copies::{config, copy_in};
use super::rotation::{calls, files, small};
use super::*;
use crate::audit::{Agreement, CHECKPOINT_FILE, Pruning, survey};

fn own(dir: &Path) -> PathBuf {
    dir.join("audit").join(CHECKPOINT_FILE)
}

/// Of the trail's own checkpoint, and of the copies in state, run and the second path, in this order.
fn standings(dir: &Path) -> [Agreement; 4] {
    let found = survey(&config(dir)).unwrap();
    let of = |name: &str| {
        let place = if name.is_empty() { own(dir) } else { copy_in(dir, name) };
        let place = place.display().to_string();
        found.copies.iter().find(|copy| copy.place == place).unwrap().standing
    };
    ["", "state", "run", "other"].map(of)
}

#[tokio::test]
async fn each_copy_is_told_apart_over_segments_and_after_pruning() {
    let dir = tempdir();
    let config = config(dir.path());
    let none = survey(&config).unwrap_err();
    assert_eq!(none.kind(), std::io::ErrorKind::NotFound);
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 5).await;
    log.close().await;
    let early = fs::read(own(dir.path())).unwrap();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 90).await;
    log.close().await;
    assert!(files(dir.path()).len() > 3);
    let late = fs::read(own(dir.path())).unwrap();
    fs::write(copy_in(dir.path(), "state"), &early).unwrap();
    fs::write(copy_in(dir.path(), "run"), "no checkpoint\n").unwrap();
    let found = survey(&config).unwrap();
    assert_eq!(found.records, u64::try_from(records(dir.path()).len()).unwrap());
    assert!(!found.agrees());
    let expected = [Agreement::Agrees, Agreement::Agrees, Agreement::Foreign, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);

    // Fewer records than a copy covers: the last segment is gone.
    fs::write(copy_in(dir.path(), "run"), &late).unwrap();
    let (_, path) = files(dir.path()).pop().unwrap();
    let last = fs::read(&path).unwrap();
    fs::remove_file(&path).unwrap();
    let expected = [Agreement::Fewer, Agreement::Agrees, Agreement::Fewer, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);
    // Others: one byte of it. What was before is as it was.
    let mut changed = last.clone();
    let at = changed.len() - 3;
    changed[at] ^= 1;
    fs::write(&path, changed).unwrap();
    let expected = [Agreement::Other, Agreement::Agrees, Agreement::Other, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);
    fs::write(&path, last).unwrap();

    // It names this trail, and no key of it has signed it.
    let unsigned = String::from_utf8(late.clone()).unwrap().replacen("\n\n", "\n\n\u{2014} x AAAA\n", 1);
    let unsigned: Vec<_> = unsigned.lines().take(5).collect();
    fs::write(copy_in(dir.path(), "run"), unsigned.join("\n") + "\n").unwrap();
    let expected = [Agreement::Agrees, Agreement::Agrees, Agreement::LaterKey, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);
    assert!(!survey(&config).unwrap().agrees());
    fs::write(copy_in(dir.path(), "run"), &late).unwrap();

    let mut options = small(dir.path(), false);
    options.retention.keep_bytes = Some(1);
    let pruning = Pruning::by_operator(&options.retention, None, (0, None)).unwrap();
    let log = AuditLog::open(options).unwrap();
    log.prune(pruning).await.unwrap().unwrap();
    log.close().await;
    let expected = [Agreement::Agrees, Agreement::Pruned, Agreement::Agrees, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);
    assert!(survey(&config).unwrap().agrees());
    // A place that does not answer holds nobody up for long.
    let other = copy_in(dir.path(), "other");
    nix::unistd::mkfifo(&other, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let expected = [Agreement::Agrees, Agreement::Pruned, Agreement::Agrees, Agreement::Unreadable];
    assert_eq!(standings(dir.path()), expected);
    fs::remove_file(&other).unwrap();
    // Copies of a trail that is gone deny that there is none.
    fs::remove_dir_all(dir.path().join("audit")).unwrap();
    let expected = [Agreement::Missing, Agreement::Fewer, Agreement::Fewer, Agreement::Missing];
    assert_eq!(standings(dir.path()), expected);
}
