//! What an export makes of a real trail, also of one that is not what it was.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use super::*;
use crate::audit::record::tests::call;
use crate::audit::{
    CHECKPOINT_FILE, Cursor, CursorError, Export, FeedError, Format, VERIFIER_KEY_FILE, VerifierKey,
};

fn key(dir: &Path) -> VerifierKey {
    VerifierKey::parse(&fs::read_to_string(dir.join("audit").join(VERIFIER_KEY_FILE)).unwrap()).unwrap()
}

pub(super) fn exporting(dir: &Path, cursor: Option<Cursor>, format: Format) -> Result<Export, FeedError> {
    Export::open(&dir.join("audit"), &key(dir), cursor, (format, false))
}

/// All that is there now.
pub(super) fn exported(
    dir: &Path,
    cursor: Option<Cursor>,
    format: Format,
) -> Result<(Vec<Value>, Option<Cursor>), FeedError> {
    let mut export = exporting(dir, cursor.clone(), format)?;
    let (mut all, mut cursor) = (Vec::new(), cursor);
    while let Some(batch) = export.batch()? {
        all.extend(batch.lines.iter().map(|line| serde_json::from_str(line).unwrap()));
        cursor = Some(batch.cursor);
    }
    assert_eq!(export.lag().unwrap(), 0);
    Ok((all, cursor))
}

/// `count` calls with their outcomes.
async fn calls(dir: &Path, count: u8) {
    let log = open(dir).unwrap();
    for number in 1..=count {
        log.intend(&call(number)).await.unwrap().conclude(&ok());
    }
    log.close().await;
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to.join("audit")).unwrap();
    for entry in fs::read_dir(from.join("audit")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, to.join("audit").join(path.file_name().unwrap())).unwrap();
        }
    }
}

#[tokio::test]
async fn every_record_arrives_in_order_wherever_the_export_was_interrupted() {
    let dir = tempdir();
    calls(dir.path(), 3).await;
    let (whole, _) = exported(dir.path(), None, Format::Json).unwrap();
    assert_eq!(whole, records(dir.path()));
    // Ended and begun again behind each record, with the cursor as it was on disk.
    let (mut all, mut at) = (Vec::new(), None);
    for _ in 0..whole.len() {
        let mut export = exporting(dir.path(), at.clone(), Format::Ocsf).unwrap();
        let batch = export.batch_of(1).unwrap().unwrap();
        let file = dir.path().join("cursor");
        batch.cursor.write(&file).unwrap();
        at = Cursor::read(&file, &key(dir.path()), Format::Ocsf).unwrap();
        assert_eq!(at.as_ref(), Some(&batch.cursor));
        all.extend(batch.lines.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()));
    }
    let numbers: Vec<_> = all.iter().map(|event| event["metadata"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(numbers, (0..whole.len() as u64).collect::<Vec<_>>());
    let named = |event: &Value| event["attestation_list"][0]["prev_event"]["uid"].clone();
    assert!(all.windows(2).all(|two| named(&two[1]) == two[0]["metadata"]["uid"]), "one chain");
    let (at_once, _) = exported(dir.path(), None, Format::Ocsf).unwrap();
    let (none, _) = exported(dir.path(), at, Format::Ocsf).unwrap();
    assert!(none.is_empty());
    assert_eq!(all, at_once, "also the outcomes, with what their calls say");
}

#[tokio::test]
async fn nothing_is_exported_that_is_not_signed() {
    let dir = tempdir();
    calls(dir.path(), 1).await;
    let signed = records(dir.path()).len();
    let checkpoint = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    calls(dir.path(), 1).await;
    fs::write(dir.path().join("audit").join(CHECKPOINT_FILE), checkpoint).unwrap();
    let (all, _) = exported(dir.path(), None, Format::Json).unwrap();
    assert_eq!(all.len(), signed);
    assert!(records(dir.path()).len() > signed);
}

#[tokio::test]
async fn a_trail_that_was_put_back_is_noticed() {
    let (dir, older) = (tempdir(), tempdir());
    calls(dir.path(), 2).await;
    copy(dir.path(), older.path());
    calls(dir.path(), 2).await;
    let (_, at) = exported(dir.path(), None, Format::Json).unwrap();

    let put_back = exported(older.path(), at.clone(), Format::Json);
    assert!(matches!(put_back, Err(FeedError::Shrunk { .. })), "{put_back:?}");
    // It goes on beyond where it was, with other records.
    calls(older.path(), 9).await;
    let forked = exported(older.path(), at, Format::Json);
    assert!(matches!(forked, Err(FeedError::Forked { .. })), "{forked:?}");
}

#[tokio::test]
async fn a_record_that_is_gone_or_is_none_ends_the_export() {
    let dir = tempdir();
    calls(dir.path(), 2).await;
    let segment = dir.path().join("audit/00000000000000000000.jsonl");
    let whole = fs::read_to_string(&segment).unwrap();
    let without_the_last: String = whole.split_inclusive('\n').take(4).collect();
    fs::write(&segment, &without_the_last).unwrap();
    assert!(matches!(exported(dir.path(), None, Format::Json), Err(FeedError::Missing { seq: 4 })));
    fs::write(&segment, whole.replacen(r#""kind":"stop""#, r#""kinds":"stop""#, 1)).unwrap();
    // Signed or not, what is no record is none.
    assert!(matches!(exported(dir.path(), None, Format::Json), Err(FeedError::Changed { .. })));
}

#[tokio::test]
async fn a_trail_of_several_files_is_one() {
    let dir = tempdir();
    let disk = faults::Faulty::default();
    let log = open_on(options(dir.path()), disk.clone());
    for number in 1..=3 {
        log.intend(&call(number)).await.unwrap().conclude(&ok());
        disk.set(|mood| mood.full = true);
        assert!(log.intend(&call(number + 10)).await.is_err());
        disk.set(|mood| mood.full = false);
        while log.failure().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
    log.close().await;
    assert!(crate::audit::walk::segments(&dir.path().join("audit")).unwrap().len() > 3);
    let (all, _) = exported(dir.path(), None, Format::Json).unwrap();
    assert_eq!(all, records(dir.path()));
}

#[test]
fn a_cursor_is_for_one_trail_one_format_and_one_export() {
    let dir = tempdir();
    let path = dir.path().join("cursor");
    // Two with one name are two.
    let fresh = || crate::audit::key::make(tempdir().path(), "host/mcp-guard/00").unwrap().verifier().clone();
    let keys = [fresh(), fresh()];
    let read = |key: usize, format| Cursor::read(&path, &keys[key], format);
    assert_eq!(read(0, Format::Csv).unwrap(), None);
    let zeros = "00".repeat(32);
    let cursor = |key: usize, records: u64, peaks: &[&str]| {
        let key = keys[key].to_string();
        json!({"key": key, "format": "csv", "records": records, "hash": zeros, "peaks": peaks}).to_string()
    };
    let more = cursor(0, 1, &[&zeros]).replace('}', r#","more":1}"#);
    let wrong = [
        String::new(),
        "{}".into(),
        cursor(0, 2, &[&zeros, &zeros]),
        cursor(0, 1, &["zz"]),
        cursor(0, 1, &[]),
        more,
    ];
    for wrong in wrong {
        fs::write(&path, &wrong).unwrap();
        assert!(matches!(read(0, Format::Csv), Err(CursorError::Wrong { .. })), "{wrong}");
    }
    fs::write(&path, cursor(1, 3, &[&zeros, &zeros])).unwrap();
    assert!(matches!(read(0, Format::Csv), Err(CursorError::Other { .. })));
    assert!(matches!(read(1, Format::Cef), Err(CursorError::OtherFormat { .. })));
    assert!(read(1, Format::Csv).unwrap().is_some());
    let held = Cursor::lock(&path).unwrap();
    assert!(matches!(Cursor::lock(&path), Err(CursorError::Taken { .. })));
    Cursor::lock(&dir.path().join("cursor.other")).unwrap();
    drop(held);
    Cursor::lock(&path).unwrap();
    // Whoever may write there could put a link in the way of root.
    fs::set_permissions(dir.path(), Permissions::from_mode(0o777)).unwrap();
    assert!(matches!(Cursor::lock(&path), Err(CursorError::Exposed { .. })));
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    // A link in the place of the next cursor is not followed.
    let (other, next) = (dir.path().join("other"), dir.path().join("cursor.next"));
    fs::write(&other, "mine").unwrap();
    std::os::unix::fs::symlink(&other, &next).unwrap();
    let cursor = read(1, Format::Csv).unwrap().unwrap();
    assert!(matches!(cursor.write(&path), Err(CursorError::Io { .. })));
    assert_eq!(fs::read_to_string(&other).unwrap(), "mine");
    fs::remove_file(&next).unwrap();
    cursor.write(&path).unwrap();
    assert_eq!(read(1, Format::Csv).unwrap(), Some(cursor));
}

#[tokio::test]
async fn an_export_that_goes_on_notices_a_trail_that_is_put_back_meanwhile() {
    let dir = tempdir();
    calls(dir.path(), 1).await;
    let checkpoint = fs::read(dir.path().join("audit").join(CHECKPOINT_FILE)).unwrap();
    calls(dir.path(), 1).await;
    let mut export = exporting(dir.path(), None, Format::Json).unwrap();
    while export.batch().unwrap().is_some() {}
    fs::write(dir.path().join("audit").join(CHECKPOINT_FILE), checkpoint).unwrap();
    assert!(matches!(export.batch(), Err(FeedError::Shrunk { .. })));
}

/// Each record's `prev` made to fit the one before, as somebody would who has no key.
fn linked_anew(text: &str) -> String {
    let mut prev = "0".repeat(64);
    let lines = text.lines().map(|line| {
        let mut record: serde_json::Map<String, Value> = serde_json::from_str(line).unwrap();
        record["prev"] = prev.clone().into();
        let line = String::from_utf8(crate::audit::text::encode(&record).unwrap()).unwrap();
        prev = hex::encode(crate::audit::merkle::leaf_hash(line.as_bytes()));
        line + "\n"
    });
    lines.collect()
}

#[tokio::test]
async fn a_history_that_was_written_anew_without_the_key_is_not_exported() {
    let dir = tempdir();
    // Long enough for checkpoints among the records.
    let log = AuditLog::open(Options { durability: Durability::Os, ..options(dir.path()) }).unwrap();
    for number in 0..1_300_u32 {
        log.intend(&call(u8::try_from(number % 250).unwrap())).await.unwrap().conclude(&ok());
    }
    log.close().await;
    let segment = dir.path().join("audit/00000000000000000000.jsonl");
    let whole = fs::read_to_string(&segment).unwrap();
    assert_eq!(linked_anew(&whole), whole);
    let (all, _) = exported(dir.path(), None, Format::Json).unwrap();
    assert_eq!(all.len(), whole.lines().count());
    let lines: Vec<&str> = whole.lines().collect();
    assert!(lines.iter().filter(|line| line.contains(r#""kind":"checkpoint""#)).count() >= 2);
    for at in [1, 500, 1_100, lines.len() - 2] {
        let mut forged = lines.clone();
        let line = lines[at]
            .replace("support-agent", "nobody")
            .replace(r#""result":"ok""#, r#""result":"rpc_error""#);
        assert_ne!(line, lines[at]);
        forged[at] = &line;
        fs::write(&segment, linked_anew(&(forged.join("\n") + "\n"))).unwrap();
        let mut export = exporting(dir.path(), None, Format::Json).unwrap();
        let mut records = 0;
        let error = loop {
            match export.batch() {
                Ok(batch) => records += batch.expect("it ends with an error").lines.len(),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, FeedError::Changed { .. }), "record {at}: {error:?}");
        assert!(records <= at, "record {at} was among {records} that were exported");
        assert!(error.is_of_the_trail());
    }
}
