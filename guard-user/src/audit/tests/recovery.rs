//! What a guard makes of the trail that the last one left.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::audit::record::tests::call;
use crate::audit::{CHECKPOINT_FILE, KEY_FILE};

fn segment(dir: &Path) -> PathBuf {
    dir.join("audit/00000000000000000000.jsonl")
}

/// A closed trail of genesis, call, outcome, stop.
async fn closed(dir: &Path) {
    let log = open(dir).unwrap();
    log.intend(&call(1)).await.unwrap().conclude(&ok());
    log.close().await;
}

pub(super) fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("audit")).unwrap();
    for entry in fs::read_dir(from.join("audit")).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, to.join("audit").join(path.file_name().unwrap())).unwrap();
    }
}

#[tokio::test]
async fn a_changed_byte_in_checkpointed_records_is_not_continued() {
    let made = tempdir();
    closed(made.path()).await;
    let whole = fs::read(segment(made.path())).unwrap();
    for at in (0..whole.len()).step_by(7) {
        let mut changed = whole.clone();
        changed[at] ^= 1;
        let dir = tempdir();
        copy(made.path(), dir.path());
        fs::write(segment(dir.path()), changed).unwrap();
        assert!(open(dir.path()).is_err(), "byte {at}");
    }
}

#[tokio::test]
async fn a_trail_without_its_checkpoint_or_key_is_not_continued() {
    for name in [CHECKPOINT_FILE, KEY_FILE, "verifier-key", "00000000000000000000.jsonl"] {
        let dir = tempdir();
        closed(dir.path()).await;
        fs::remove_file(dir.path().join("audit").join(name)).unwrap();
        assert!(open(dir.path()).is_err(), "without {name}");
    }
}

#[tokio::test]
async fn a_start_that_died_before_its_first_record_is_begun_again() {
    let dir = tempdir();
    closed(dir.path()).await;
    fs::remove_file(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    let whole = fs::read(segment(dir.path())).unwrap();
    let genesis = whole.iter().position(|&byte| byte == b'\n').unwrap();
    for end in [0, 100, genesis, genesis + 1] {
        let again = tempdir();
        copy(dir.path(), again.path());
        fs::write(segment(again.path()), &whole[..end]).unwrap();
        closed(again.path()).await;
        assert_eq!(sound(again.path()).records, 4);
    }
}

#[tokio::test]
async fn what_starts_before_put_aside_and_told_nobody_of_stays() {
    let dir = tempdir();
    closed(dir.path()).await;
    let whole = fs::read(segment(dir.path())).unwrap();
    let checkpoint = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    let aside = |name: &str| dir.path().join("audit").join(format!("torn-{:020}{name}", 4));
    fs::write(aside(""), "of a start before").unwrap();
    for (name, torn) in [("-2", "{\"seq\":"), ("-3", "{\"seq\":4"), ("-3", "{\"seq\":4")] {
        // It is cut, and nothing came after: what a start does that dies then.
        fs::write(segment(dir.path()), [&whole, torn.as_bytes()].concat()).unwrap();
        fs::write(dir.path().join("audit").join(CHECKPOINT_FILE), &checkpoint).unwrap();
        open(dir.path()).unwrap().close().await;
        assert_eq!(fs::read_to_string(aside(name)).unwrap(), torn);
    }
    assert_eq!(fs::read_to_string(aside("")).unwrap(), "of a start before");
    assert_eq!(fs::read_to_string(aside("-2")).unwrap(), "{\"seq\":");
    assert!(!aside("-4").exists());
}

#[tokio::test]
async fn a_key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempdir();
    closed(dir.path()).await;
    let key = dir.path().join("audit").join(KEY_FILE);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(matches!(open(dir.path()), Err(OpenError::KeyMode(_))));
}
