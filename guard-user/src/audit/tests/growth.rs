//! What a witness is shown, over a trail in several segments.

use std::fs;

use tlog_tiles::tlog::{self, check_tree};

use super::rotation::{calls, files, key, small, until_packed};
use super::*;
use crate::audit::keys::Keys;
use crate::audit::merkle::{Tree, leaf_hash};
use crate::audit::note::Checkpoint;
use crate::audit::packed;
use crate::audit::prove::{ProveError, growth};
use crate::audit::walk::{Found, Lines};
use crate::audit::{CHECKPOINT_FILE, Pruning};

/// The tree after each record.
fn trees(dir: &Path) -> Vec<Tree> {
    let mut trees = vec![Tree::default()];
    for (_, path) in files(dir) {
        let mut lines = Lines::open(&path).unwrap();
        while let Some(Found::Line(line)) = lines.next().unwrap() {
            let mut tree = trees.last().unwrap().clone();
            tree.push(leaf_hash(line));
            trees.push(tree);
        }
    }
    trees
}

fn latest(dir: &Path) -> (Keys, Checkpoint) {
    let keys = Keys::beside(&dir.join("audit"), key(dir)).unwrap();
    let note = fs::read_to_string(dir.join("audit").join(CHECKPOINT_FILE)).unwrap();
    let latest = keys.open_checkpoint(&note).unwrap();
    (keys, latest)
}

/// The hashes of the proof from `old` records on.
fn proof(dir: &Path, old: u64) -> Result<Vec<tlog::Hash>, ProveError> {
    let (keys, latest) = latest(dir);
    let text = growth((&dir.join("audit"), &keys), &latest, old)?.consistency_file(old, "");
    let lines = text.strip_prefix(&format!("old {old}\n")).unwrap().trim_end().lines();
    Ok(lines.map(|line| tlog::Hash::parse_hash(line).unwrap()).collect())
}

#[tokio::test]
async fn growth_is_proved_from_every_size_over_plain_and_packed_segments() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), true)).unwrap();
    calls(&log, 90).await;
    until_packed(dir.path());
    log.close().await;
    assert!(files(dir.path()).len() > 3);
    let (_, latest) = latest(dir.path());
    let trees = trees(dir.path());
    assert_eq!(u64::try_from(trees.len()).unwrap(), latest.size + 1);
    for (old, tree) in (0..).zip(&trees) {
        let proof = proof(dir.path(), old).unwrap();
        if old == 0 || old == latest.size {
            assert!(proof.is_empty(), "{old}");
        } else {
            check_tree(&proof, latest.size, tlog::Hash(latest.root), old, tlog::Hash(tree.root())).unwrap();
        }
    }
    let more = proof(dir.path(), latest.size + 1);
    assert!(matches!(more, Err(ProveError::Shrunk { .. })), "{more:?}");
}

#[tokio::test]
async fn growth_needs_no_segment_that_ends_before_it_and_says_if_the_rest_is_not_what_was_signed() {
    let dir = tempdir();
    let log = AuditLog::open(small(dir.path(), false)).unwrap();
    calls(&log, 90).await;
    log.close().await;
    let files = files(dir.path());
    let whole: Vec<_> = files.iter().map(|(_, path)| fs::read(path).unwrap()).collect();
    for (_, path) in &files[..2] {
        fs::write(path, "not read\n").unwrap();
    }
    for old in [files[2].0, files[2].0 + 1, files[3].0] {
        proof(dir.path(), old).unwrap();
    }
    assert!(matches!(
        proof(dir.path(), files[2].0 - 1),
        Err(ProveError::Differs { .. } | ProveError::Read { .. })
    ));
    for ((_, path), bytes) in files.iter().zip(&whole) {
        fs::write(path, bytes).unwrap();
    }
    let text = String::from_utf8(whole[3].clone()).unwrap();
    fs::write(&files[3].1, text.replacen("\"kind\":\"outcome\"", "\"kind\":\"outcomf\"", 1)).unwrap();
    assert!(matches!(proof(dir.path(), files[2].0), Err(ProveError::Differs { .. })));
    fs::write(&files[3].1, &whole[3]).unwrap();
    assert!(!packed::is_packed(&files[0].1));

    // What was pruned cannot be proved of any more.
    let mut options = small(dir.path(), false);
    options.retention.keep_bytes = Some(1);
    let pruning = Pruning::by_operator(&options.retention, None, (0, None)).unwrap();
    let log = AuditLog::open(options).unwrap();
    log.prune(pruning).await.unwrap().unwrap();
    log.close().await;
    let first = rotation::files(dir.path())[0].0;
    assert!(first > 0);
    proof(dir.path(), first).unwrap();
    let gone = proof(dir.path(), first - 1);
    assert!(matches!(gone, Err(ProveError::OlderThanTheRest { .. })), "{gone:?}");
}
