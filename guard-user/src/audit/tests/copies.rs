//! What copies of the checkpoint say when a guard starts, and what it takes to go on without what they cover.

use std::fs;
use std::path::PathBuf;

use super::*;
use crate::audit::copies::COPY_FILE;
use crate::audit::record::tests::call;
use crate::audit::{Acceptance, CHECKPOINT_FILE, Copies, Disagreement};
use crate::config::{Config, Overrides};

/// State, runtime and second path below `dir`; the trail is in `dir/audit`.
pub(super) fn config(dir: &Path) -> Config {
    for name in ["state", "run", "other"] {
        fs::create_dir_all(dir.join(name)).unwrap();
    }
    let text = "{servers: [{name: a, port: 1}], state_dir: state, runtime_dir: run, \
                audit: {dir: audit, checkpoints: {copy_to: other, journal: false}}}";
    Overrides::default().load_text(&dir.join("guard.yaml"), text).unwrap()
}

fn open_with(dir: &Path, accepts: Option<&str>) -> Result<AuditLog, OpenError> {
    let accepts = accepts.map(|reason| Acceptance { reason: reason.into(), uid: 7 });
    AuditLog::open_known(options(dir), &Start::new(&config(dir), accepts))
}

pub(super) fn copy_in(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).join(COPY_FILE)
}

/// Some calls, and a stop with copies everywhere.
async fn lived(dir: &Path, calls: std::ops::Range<u8>) {
    let log = open_with(dir, None).unwrap();
    let copies = Copies::begin(&config(dir), false).unwrap();
    for number in calls {
        log.intend(&call(number)).await.unwrap().conclude(&ok());
    }
    log.close().await;
    copies.finish();
    for standing in copies.standing() {
        assert_eq!((standing.error, standing.failures), (None, 0), "{}", standing.place);
    }
}

fn saved(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let files = fs::read_dir(dir.join("audit")).unwrap().map(|entry| entry.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

/// The directory as it was, and nothing else in it.
fn put_back(dir: &Path, saved: &[(PathBuf, Vec<u8>)]) {
    fs::remove_dir_all(dir.join("audit")).unwrap();
    fs::create_dir(dir.join("audit")).unwrap();
    for (path, bytes) in saved {
        fs::write(path, bytes).unwrap();
        fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    }
}

#[tokio::test]
async fn every_place_has_the_last_checkpoint_when_the_guard_has_stopped() {
    let dir = tempdir();
    lived(dir.path(), 0..2).await;
    let own = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    for name in ["state", "run", "other"] {
        assert_eq!(fs::read(copy_in(dir.path(), name)).unwrap(), own, "{name}");
    }
}

#[tokio::test]
async fn a_trail_that_was_put_back_does_not_start_while_any_copy_covers_more() {
    let dir = tempdir();
    lived(dir.path(), 0..1).await;
    let older = saved(dir.path());
    lived(dir.path(), 1..3).await;
    let copies = ["state", "run", "other"].map(|name| copy_in(dir.path(), name));
    let latest = fs::read(&copies[0]).unwrap();
    for kept in &copies {
        put_back(dir.path(), &older);
        for copy in &copies {
            drop(fs::remove_file(copy));
        }
        fs::write(kept, &latest).unwrap();
        let Err(OpenError::Rollback(Disagreement::Fewer { have, known, place, .. })) =
            open_with(dir.path(), None)
        else {
            panic!("it started with a copy in {}", kept.display());
        };
        assert!(have < known && place == kept.display().to_string(), "{have} {known} {place}");
        // Nothing was changed by the attempt.
        for (path, bytes) in &older {
            assert_eq!(&fs::read(path).unwrap(), bytes, "{}", path.display());
        }
    }
    fs::remove_file(&copies[2]).unwrap();
    open_with(dir.path(), None).unwrap().close().await;
}

#[tokio::test]
async fn a_loss_that_an_operator_accepts_is_recorded_once_and_the_trail_goes_on() {
    let dir = tempdir();
    lived(dir.path(), 0..1).await;
    let older = saved(dir.path());
    lived(dir.path(), 1..3).await;
    let most = records(dir.path()).len();
    put_back(dir.path(), &older);
    let have = records(dir.path()).len();
    let log = open_with(dir.path(), Some("the disk died")).unwrap();
    let copies = Copies::begin(&config(dir.path()), true).unwrap();
    log.close().await;
    copies.finish();
    let gap = records(dir.path())[have].clone();
    assert_eq!(
        (&gap["kind"], &gap["reason"], &gap["text"]),
        (&"gap".into(), &"loss_accepted".into(), &"the disk died".into())
    );
    assert_eq!(
        (&gap["uid"], &gap["lost_from"], &gap["lost_to"]),
        (&7.into(), &have.into(), &(most - 1).into())
    );
    assert!(gap["cause"].as_str().unwrap().contains("audit-checkpoint"), "{gap}");
    assert_eq!(sound(dir.path()).counts.losses, 1);
    // The copies say now what is there, and nobody needs to accept it again.
    lived(dir.path(), 3..4).await;
    open_with(dir.path(), Some("not needed")).unwrap().close().await;
    assert_eq!(sound(dir.path()).counts.losses, 1);
}

#[tokio::test]
async fn a_tail_that_only_a_copy_covers_is_not_cut_without_a_word() {
    let dir = tempdir();
    lived(dir.path(), 0..1).await;
    let own = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    lived(dir.path(), 1..2).await;
    fs::write(dir.path().join("audit").join(CHECKPOINT_FILE), own).unwrap();
    let segment = dir.path().join("audit/00000000000000000000.jsonl");
    let whole = fs::read(&segment).unwrap();
    let torn = &whole[..whole.len() - 5];
    fs::write(&segment, torn).unwrap();
    let refused = open_with(dir.path(), None);
    assert!(matches!(refused, Err(OpenError::Rollback(Disagreement::Fewer { .. }))));
    assert_eq!(fs::read(&segment).unwrap(), torn);
    let seq = records_in(torn);
    open_with(dir.path(), Some("power cut")).unwrap().close().await;
    let gaps: Vec<_> = records(dir.path())[seq..].iter().map(|record| record["reason"].clone()).collect();
    assert_eq!(gaps[..2], ["restart", "loss_accepted"]);
    assert!(dir.path().join(format!("audit/torn-{seq:020}")).is_file());
    sound(dir.path());
}

fn records_in(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == b'\n').count() - 1
}

#[tokio::test]
async fn a_trail_with_other_records_or_in_another_ones_place_does_not_start() {
    let dir = tempdir();
    lived(dir.path(), 0..1).await;
    let older = saved(dir.path());
    lived(dir.path(), 1..2).await;
    let first = fs::read(copy_in(dir.path(), "other")).unwrap();
    let clear = || {
        for name in ["state", "run", "other"] {
            drop(fs::remove_file(copy_in(dir.path(), name)));
        }
    };
    // Put back, and written on by a guard that knew of no copy.
    put_back(dir.path(), &older);
    clear();
    lived(dir.path(), 10..14).await;
    clear();
    fs::write(copy_in(dir.path(), "other"), &first).unwrap();
    let other = open_with(dir.path(), None);
    assert!(matches!(other, Err(OpenError::Rollback(Disagreement::Other { .. }))), "{:?}", other.err());
    open_with(dir.path(), Some("known")).unwrap().close().await;
    assert_eq!(sound(dir.path()).counts.losses, 1);

    // Gone, and a new one begun.
    fs::remove_dir_all(dir.path().join("audit")).unwrap();
    let gone = open_with(dir.path(), None);
    assert!(matches!(gone, Err(OpenError::Rollback(Disagreement::Gone { .. }))), "{:?}", gone.err());
    assert_eq!(fs::read_dir(dir.path().join("audit")).unwrap().count(), 0, "nothing was begun");
    open(dir.path()).unwrap().close().await;
    let foreign = open_with(dir.path(), None);
    assert!(matches!(foreign, Err(OpenError::Rollback(Disagreement::Foreign { .. }))), "{:?}", foreign.err());
    for garbage in [&b"\xff\xfe"[..], b"", b"a\n1\nb\n\n"] {
        fs::write(copy_in(dir.path(), "other"), garbage).unwrap();
        let refused = open_with(dir.path(), None);
        assert!(matches!(refused, Err(OpenError::Rollback(Disagreement::Foreign { .. }))), "{garbage:?}");
    }
    open_with(dir.path(), Some("moved away")).unwrap().close().await;
}

#[tokio::test]
async fn a_later_checkpoint_that_comes_after_the_start_is_not_overwritten() {
    let dir = tempdir();
    lived(dir.path(), 0..2).await;
    let trail = saved(dir.path());
    lived(dir.path(), 2..4).await;
    let copy = copy_in(dir.path(), "other");
    let later = fs::read(&copy).unwrap();
    // All is put back, and the second disk is not mounted when the guard starts.
    put_back(dir.path(), &trail);
    fs::remove_file(copy_in(dir.path(), "state")).unwrap();
    fs::remove_file(copy_in(dir.path(), "run")).unwrap();
    fs::remove_file(&copy).unwrap();
    let log = open_with(dir.path(), None).unwrap();
    fs::write(&copy, &later).unwrap();
    let copies = Copies::begin(&config(dir.path()), false).unwrap();
    log.close().await;
    copies.finish();
    assert_eq!(fs::read(&copy).unwrap(), later);
    let told = copies.standing();
    let told = told.iter().find(|one| one.place.contains("other")).unwrap();
    assert!(told.error.as_deref().is_some_and(|why| why.contains("a later checkpoint is there")), "{told:?}");
    // The next start compares them, and one that accepts the loss has it written anew.
    assert!(matches!(open_with(dir.path(), None), Err(OpenError::Rollback(_))));
    let log = open_with(dir.path(), Some("put back on purpose")).unwrap();
    let copies = Copies::begin(&config(dir.path()), true).unwrap();
    log.close().await;
    copies.finish();
    assert_ne!(fs::read(&copy).unwrap(), later);
}
