//! What an export says of outcomes whose calls were exported before it began, and of files that are not as they were written.

use std::fs;
use std::path::PathBuf;

use serde_json::Value;

use super::export::{exported, exporting};
use super::*;
use crate::audit::record::tests::call;
use crate::audit::walk::segments;
use crate::audit::{CHECKPOINT_FILE, Cursor, FeedError, Format, packed};

/// Four calls that overlap, in several files.
async fn overlapping(dir: &Path) {
    let disk = faults::Faulty::default();
    let log = open_on(options(dir), disk.clone());
    let mut open = Vec::new();
    for number in 1..=4 {
        open.push(log.intend(&call(number)).await.unwrap());
        disk.set(|mood| mood.full = true);
        assert!(log.intend(&call(number + 10)).await.is_err());
        disk.set(|mood| mood.full = false);
        while log.failure().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if number % 2 == 0 {
            open.remove(0).conclude(&ok());
        }
    }
    for permit in open.into_iter().rev() {
        permit.conclude(&ok());
    }
    log.close().await;
    assert!(files(dir).len() > 3);
}

fn files(dir: &Path) -> Vec<PathBuf> {
    segments(&dir.join("audit")).unwrap().into_iter().map(|(_, path)| path).collect()
}

/// What was exported when it ended behind so many records and began again, and where it ended then.
fn interrupted(dir: &Path, after: usize) -> (Vec<Value>, Cursor) {
    let mut export = exporting(dir, None, Format::Ocsf).unwrap();
    let mut batches = std::iter::repeat_with(|| export.batch_of(1).unwrap().unwrap()).take(after);
    let (mut lines, mut cursor) = (Vec::new(), None);
    for batch in &mut batches {
        lines.extend(batch.lines.iter().map(|line| serde_json::from_str(line).unwrap()));
        cursor = Some(batch.cursor);
    }
    (lines, cursor.unwrap())
}

fn agents_of_outcomes(events: &[Value]) -> Vec<Option<&str>> {
    let outcomes = events.iter().filter(|event| event["metadata"]["event_code"] == "outcome:ok");
    outcomes.map(|event| event["ai_agent"]["uid"].as_str()).collect()
}

#[tokio::test]
async fn an_outcome_has_what_its_call_says_wherever_the_export_began_again() {
    let dir = tempdir();
    overlapping(dir.path()).await;
    let (whole, _) = exported(dir.path(), None, Format::Ocsf).unwrap();
    assert_eq!(agents_of_outcomes(&whole), [Some("support-agent"); 4]);
    for after in 1..whole.len() {
        let (mut all, cursor) = interrupted(dir.path(), after);
        all.extend(exported(dir.path(), Some(cursor), Format::Ocsf).unwrap().0);
        assert_eq!(all, whole, "behind record {after}");
    }
}

#[tokio::test]
async fn a_call_that_was_changed_after_it_was_exported_is_noticed() {
    let dir = tempdir();
    overlapping(dir.path()).await;
    let first = files(dir.path()).remove(0);
    let text = fs::read_to_string(&first).unwrap();
    let last_of_the_first = text.lines().count();
    let (_, cursor) = interrupted(dir.path(), last_of_the_first + 1);
    for changed in [
        text.replace("support-agent", "another-agent"),
        text.replace(r#""kind":"call""#, r#""kind":"call "#),
        text.split_inclusive('\n').take(last_of_the_first - 1).collect(),
    ] {
        assert_ne!(changed, text);
        fs::write(&first, changed).unwrap();
        let error = exported(dir.path(), Some(cursor.clone()), Format::Ocsf).unwrap_err();
        assert!(matches!(error, FeedError::Behind { .. } | FeedError::Damaged { .. }), "{error}");
        assert!(error.is_of_the_trail());
    }
    // What was pruned says nothing any more.
    fs::remove_file(&first).unwrap();
    let (rest, _) = exported(dir.path(), Some(cursor), Format::Ocsf).unwrap();
    let agents = agents_of_outcomes(&rest);
    assert!(agents.contains(&None) && agents.contains(&Some("support-agent")), "{agents:?}");
}

#[tokio::test]
async fn a_file_that_is_not_as_it_was_written_is_no_fault_of_the_disk() {
    let dir = tempdir();
    overlapping(dir.path()).await;
    let ended = |what: &str| {
        let error = exported(dir.path(), None, Format::Json).unwrap_err();
        assert!(error.is_of_the_trail(), "{what}: {error:?}");
        error
    };
    let file = files(dir.path()).remove(0);
    let good = fs::read(&file).unwrap();
    let mut wrong = good.clone();
    let length = wrong.len();
    wrong[length / 2] = 0xff;
    fs::write(&file, &wrong).unwrap();
    assert!(matches!(ended("no text"), FeedError::Changed { .. }));

    let mut bytes = Vec::new();
    packed::pack(&mut good.as_slice(), &mut bytes, || false).unwrap().unwrap();
    let gz = packed::name(&file);
    fs::remove_file(&file).unwrap();
    fs::write(&gz, &bytes).unwrap();
    assert_eq!(exported(dir.path(), None, Format::Json).unwrap().0, records(dir.path()));
    for at in [0, 3, bytes.len() / 2, bytes.len() - 5] {
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x55;
        fs::write(&gz, wrong).unwrap();
        ended("another byte");
        fs::write(&gz, &bytes[..at]).unwrap();
        ended("too short");
    }
    fs::write(&gz, &bytes).unwrap();
    let checkpoint = dir.path().join("audit").join(CHECKPOINT_FILE);
    let signed = fs::read(&checkpoint).unwrap();
    fs::write(&checkpoint, [&[0xff], &signed[..]].concat()).unwrap();
    ended("a checkpoint that is no text");
    fs::write(&checkpoint, signed).unwrap();
    // What cannot be read is no word about the trail.
    fs::remove_file(&gz).unwrap();
    fs::create_dir(&file).unwrap();
    let error = exported(dir.path(), None, Format::Json).unwrap_err();
    assert!(!error.is_of_the_trail(), "{error:?}");
}
