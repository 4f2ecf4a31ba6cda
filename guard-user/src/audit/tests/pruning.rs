//! A trail that loses its beginning, by rule and otherwise.

use std::fs;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;

use jiff::{SignedDuration, Timestamp};

use super::rotation::{calls, files, key, small, until_packed};
use super::*;
use crate::audit::export::Cursor;
use crate::audit::record::tests::call;
use crate::audit::{
    CHECKPOINT_FILE, Claim, Export, FeedError, Format, Index, Order, Outcomes, ProveError, PruneError,
    Pruner, Pruning, Query, Removal, prove, prune, search,
};

/// All but the last file.
pub(super) fn all() -> Pruning {
    Pruning { before: Some(Timestamp::now() + SignedDuration::from_secs(60)), ..Pruning::default() }
}

fn by_operator(pruning: Pruning, force: Option<&str>) -> Pruning {
    Pruning { who: Pruner::Operator { uid: 7, force: force.map(str::to_owned) }, ..pruning }
}

pub(super) async fn pruned(log: &AuditLog, pruning: Pruning) -> Removal {
    log.prune(pruning).await.unwrap().expect("something goes")
}

fn export(dir: &Path, cursor: Option<Cursor>) -> Result<(u64, Option<Cursor>), FeedError> {
    let mut export = Export::open(&dir.join("audit"), &key(dir), cursor, (Format::Json, false))?;
    let (mut count, mut cursor) = (0, None);
    while let Some(batch) = export.batch()? {
        count += batch.lines.len() as u64;
        cursor = Some(batch.cursor);
    }
    Ok((count, cursor))
}

#[tokio::test]
async fn what_remains_of_a_pruned_trail_is_verified_searched_exported_proved_and_continued() {
    for (compress, durability) in [(false, Durability::Durable), (true, Durability::Os)] {
        let dir = tempdir();
        let audit = dir.path().join("audit");
        let log = AuditLog::open(Options { durability, ..small(dir.path(), compress) }).unwrap();
        let under_way = log.intend(&call(200)).await.unwrap();
        calls(&log, 100).await;
        if compress {
            until_packed(dir.path());
        }
        let older = audit.join("older");
        fs::copy(audit.join(CHECKPOINT_FILE), &older).unwrap();
        let removal = pruned(&log, by_operator(all(), None)).await;
        // Outcomes of the last calls may have begun another one since.
        assert_eq!(files(dir.path())[0].0, removal.to);
        assert!(removal.files >= 4 && removal.to == removal.records && removal.bytes > 0, "{removal:?}");
        // Its call is gone; its outcome has none any more.
        under_way.conclude(&ok());
        calls(&log, 60).await;
        log.close().await;

        let report = sound(dir.path());
        assert_eq!((report.first, report.pruned.unwrap().to), (removal.to, removal.to));
        assert_eq!((report.open_calls, report.unsigned_records), (0, 0));
        let said = verify(&audit, None, Some(&older));
        let covered = key(dir.path()).open_checkpoint(&fs::read_to_string(&older).unwrap()).unwrap().size;
        let expected = if covered < removal.to { Verdict::Incomplete } else { Verdict::Sound };
        assert_eq!(said.verdict, expected, "{:?}", said.fault);

        let index = Index::open(&audit, |_, _| {}).unwrap();
        assert_eq!(index.records(), report.records);
        let mut told = Vec::new();
        let query = Query { kind: Some("pruned".into()), ..Query::default() };
        search(&index, &query, (Order::Oldest, Outcomes::LeftOut), |one| {
            told.push(serde_json::from_str::<serde_json::Value>(&one.line).unwrap());
            std::ops::ControlFlow::Continue(())
        })
        .unwrap();
        assert_eq!((told.len(), &told[0]["cause"], &told[0]["uid"]), (1, &"operator".into(), &7.into()));
        assert_eq!(
            (told[0]["to"].as_u64(), told[0]["records"].as_u64()),
            (Some(removal.to), Some(removal.records))
        );

        assert_eq!(export(dir.path(), None).unwrap().0, report.records);
        let last = report.first + report.records - 1;
        for seq in [report.first, last - 7, last] {
            prove(&audit, &key(dir.path()), Claim::Record(seq)).unwrap();
        }
        let gone = prove(&audit, &key(dir.path()), Claim::Record(report.first - 1));
        assert!(matches!(gone, Err(ProveError::Pruned { .. })), "{gone:?}");

        // Twice, over a restart.
        let log = AuditLog::open(small(dir.path(), compress)).unwrap();
        calls(&log, 60).await;
        let again = pruned(&log, all()).await;
        assert!(again.to > removal.to && again.records < again.to);
        log.close().await;
        assert_eq!(sound(dir.path()).first, again.to);
        // And a third time, whatever has become full meanwhile.
        let log = AuditLog::open(small(dir.path(), compress)).unwrap();
        let third = log.prune(all()).await.unwrap();
        log.close().await;
        assert_eq!(sound(dir.path()).first, third.map_or(again.to, |third| third.to));
    }
}

#[tokio::test]
async fn a_beginning_that_is_gone_without_a_signed_record_is_tampering() {
    let dir = tempdir();
    let audit = dir.path().join("audit");
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 100).await;
    log.close().await;
    let all_of_it = files(dir.path());
    let first = fs::read(&all_of_it[0].1).unwrap();
    fs::remove_file(&all_of_it[0].1).unwrap();
    assert_eq!(check(dir.path()).verdict, Verdict::Tampered);
    assert!(matches!(AuditLog::open(small(dir.path(), false)), Err(OpenError::Tampered { .. })));
    assert!(matches!(export(dir.path(), None), Err(FeedError::NoBeginning { .. })));

    // A record that says so, behind what is signed: anybody who may write there could have written it.
    let (_, last) = all_of_it.last().unwrap();
    let lines = fs::read_to_string(last).unwrap();
    let prev = crate::audit::merkle::leaf_hash(lines.lines().next_back().unwrap().as_bytes());
    let seq = all_of_it.last().unwrap().0 + lines.lines().count() as u64;
    let forged = format!(
        r#"{{"seq":{seq},"prev":"{}","time":"2026-11-22T00:00:00.000000Z","kind":"pruned","to":{},"cause":"policy"}}"#,
        hex::encode(prev),
        all_of_it[1].0
    );
    fs::write(last, format!("{lines}{forged}\n")).unwrap();
    assert_eq!(check(dir.path()).verdict, Verdict::Tampered);
    assert!(matches!(AuditLog::open(small(dir.path(), false)), Err(OpenError::Tampered { .. })));
    fs::write(last, &lines).unwrap();
    fs::write(&all_of_it[0].1, first).unwrap();
    assert_eq!(sound(dir.path()).first, 0);

    // More than was said.
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    let second = crate::audit::rotate::began(&all_of_it[1].1).unwrap();
    let removal = pruned(&log, Pruning { before: Some(second), ..Pruning::default() }).await;
    log.close().await;
    assert_eq!(removal.to, all_of_it[1].0);
    assert_eq!(sound(dir.path()).first, removal.to);
    fs::remove_file(&all_of_it[1].1).unwrap();
    assert_eq!(check(dir.path()).verdict, Verdict::Tampered);
    assert!(audit.join(CHECKPOINT_FILE).exists());
}

#[tokio::test]
async fn what_is_not_exported_stays_unless_an_operator_says_why() {
    let dir = tempdir();
    let cursor = dir.path().join("cursor");
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 100).await;
    let with = || Pruning { cursors: vec![cursor.clone()], ..all() };
    assert!(matches!(log.prune(with()).await, Err(PruneError::NoCursor(_))));
    fs::write(&cursor, "{}").unwrap();
    assert!(matches!(log.prune(with()).await, Err(PruneError::Cursor(_))));
    fs::remove_file(&cursor).unwrap();

    // Some way into the third file.
    let third = files(dir.path())[2].0;
    let mut export =
        Export::open(&dir.path().join("audit"), &key(dir.path()), None, (Format::Json, false)).unwrap();
    let mut reached = 0;
    while reached <= third {
        // What was written last is not signed yet.
        let Some(batch) = export.batch_of(5).unwrap() else {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        reached += batch.lines.len() as u64;
        batch.cursor.write(&cursor).unwrap();
    }
    let removal = pruned(&log, with()).await;
    assert_eq!((removal.to, removal.unexported), (third, 0));
    assert!(removal.held > 0);
    // No file is left that is exported as a whole.
    let rest = log.prune(with()).await.unwrap().unwrap();
    assert_eq!((rest.files, rest.seq), (0, None));
    assert_eq!(files(dir.path())[0].0, third);

    let removal = pruned(&log, by_operator(with(), Some("the receiver is gone"))).await;
    assert!(removal.unexported > 0 && removal.held == 0, "{removal:?}");
    log.close().await;
    let told = records(dir.path()).into_iter().rfind(|record| record["kind"] == "pruned").unwrap();
    assert_eq!(told["reason"], "the receiver is gone");
    assert_eq!(told["unexported"].as_u64(), Some(removal.unexported));
    sound(dir.path());
    // What was exported before goes on behind the gap by an operator's word only.
    let behind = Cursor::read(&cursor, &key(dir.path()), Format::Json).unwrap();
    assert!(matches!(export_of(dir.path(), behind), Err(FeedError::Pruned { .. })));
}

fn export_of(dir: &Path, cursor: Option<Cursor>) -> Result<u64, FeedError> {
    export(dir, cursor).map(|(count, _)| count)
}

#[tokio::test]
async fn a_pruning_that_was_cut_off_is_sound_and_the_next_start_ends_it() {
    let made = tempdir();
    let log = AuditLog::open(small(made.path(), false)).unwrap();
    calls(&log, 100).await;
    let whole = tempdir();
    fs::create_dir_all(whole.path().join("audit")).unwrap();
    for (_, path) in files(made.path()) {
        fs::copy(&path, whole.path().join("audit").join(path.file_name().unwrap())).unwrap();
    }
    let before = files(whole.path());
    let removal = pruned(&log, all()).await;
    log.close().await;
    for gone in 0..removal.files {
        // The trail with its record, and those files that had not gone yet.
        let dir = tempdir();
        fs::create_dir_all(dir.path().join("audit")).unwrap();
        for entry in fs::read_dir(made.path().join("audit")).unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                fs::copy(&path, dir.path().join("audit").join(path.file_name().unwrap())).unwrap();
            }
        }
        for (_, path) in &before[gone..removal.files] {
            fs::copy(path, dir.path().join("audit").join(path.file_name().unwrap())).unwrap();
        }
        assert_eq!(sound(dir.path()).first, before[gone].0, "after {gone}");
        AuditLog::open(small(dir.path(), false)).unwrap().close().await;
        assert_eq!(sound(dir.path()).first, removal.to);
    }
}

#[tokio::test]
async fn nothing_goes_from_a_trail_that_is_closed_or_up_to_a_record_that_begins_none() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 60).await;
    log.close().await;
    let (audit, before) = (dir.path().join("audit"), files(dir.path()));
    let (alone, to) = (Mutex::default(), before[2].0);
    prune::remove(&audit, to, &alone, &AtomicBool::new(true)).unwrap();
    prune::remove(&audit, to + 1, &alone, &AtomicBool::new(false)).unwrap();
    assert_eq!(files(dir.path()), before);
    prune::remove(&audit, to, &alone, &AtomicBool::new(false)).unwrap();
    assert_eq!(files(dir.path()), before[2..]);
}
