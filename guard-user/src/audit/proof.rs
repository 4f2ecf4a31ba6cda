//! Merkle proofs over the lines of a trail (RFC 6962, section 2.1): that a record is in it, and that it only grew.
//!
//! Each hash of a proof is the root of some subtree. Which ones follows from two numbers, so a trail is read once, line by
//! line, and only those subtrees are kept: a hash for each of them and its peaks.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;

use super::merkle::{Hash, Tree};

/// First line of an inclusion proof (C2SP tlog-proof).
const INCLUSION_HEAD: &str = "c2sp.org/tlog-proof@v1";

/// A proof that is being put together: its subtrees, in the order of the proof.
pub(super) struct Gathering(Vec<(Range<u64>, Tree)>);

impl Gathering {
    /// For the record `index` among the first `size`. `None`: it is not among them.
    pub(super) fn inclusion(index: u64, size: u64) -> Option<Self> {
        if index >= size {
            return None;
        }
        let mut path = Vec::new();
        let mut tree = 0..size;
        while tree.end - tree.start > 1 {
            let (left, right) = halves(&tree);
            let (inner, sibling) = if index < right.start { (left, right) } else { (right, left) };
            path.push(sibling);
            tree = inner;
        }
        path.reverse();
        Some(Self::of(path))
    }

    /// That the first `old` records are the beginning of the first `size`. Empty for none and for all of them. `None`: there
    /// are fewer than `old`.
    pub(super) fn consistency(old: u64, size: u64) -> Option<Self> {
        if old > size {
            return None;
        }
        let mut path = Vec::new();
        let mut tree = 0..size;
        while old != 0 && tree.end != old {
            let (left, right) = halves(&tree);
            let (inner, sibling) = if old <= right.start { (left, right) } else { (right, left) };
            path.push(sibling);
            tree = inner;
        }
        // The old tree's own root is known to whoever asks; a part of it is not.
        if tree.start > 0 {
            path.push(tree);
        }
        path.reverse();
        Some(Self::of(path))
    }

    fn of(path: Vec<Range<u64>>) -> Self {
        Self(path.into_iter().map(|range| (range, Tree::default())).collect())
    }

    /// Takes what is known of the first records in place of their leaf hashes. `false`: it is not enough.
    pub(super) fn begin(&mut self, known: &Tree) -> bool {
        self.0.iter_mut().filter(|(range, _)| range.start < known.size()).all(|(range, tree)| {
            match known.part(&(range.start..range.end.min(known.size()))) {
                Some(part) => {
                    *tree = part;
                    true
                }
                None => false,
            }
        })
    }

    /// Takes the leaf hash of record `index`. They come in order.
    pub(super) fn leaf(&mut self, index: u64, leaf: Hash) {
        if let Some((_, tree)) = self.0.iter_mut().find(|(range, _)| range.contains(&index)) {
            tree.push(leaf);
        }
    }

    /// The hashes, in base64, one a line.
    fn lines(&self) -> String {
        self.0.iter().map(|(_, tree)| BASE64.encode(tree.root()) + "\n").collect()
    }

    /// Of an inclusion proof: the file (C2SP tlog-proof). It carries the record itself as its extra data.
    pub(super) fn inclusion_file(&self, index: u64, record: &[u8], checkpoint: &str) -> String {
        let record = BASE64.encode(record);
        format!("{INCLUSION_HEAD}\nextra {record}\nindex {index}\n{}\n{checkpoint}", self.lines())
    }

    /// Of a consistency proof: the file, which is also what a witness wants to have posted (C2SP tlog-witness).
    pub(super) fn consistency_file(&self, old: u64, checkpoint: &str) -> String {
        format!("old {old}\n{}\n{checkpoint}", self.lines())
    }

    #[cfg(test)]
    fn hashes(&self) -> Vec<Hash> {
        self.0.iter().map(|(_, tree)| tree.root()).collect()
    }
}

/// A tree of two leaves or more splits at the largest power of two below its size.
fn halves(tree: &Range<u64>) -> (Range<u64>, Range<u64>) {
    let size = tree.end - tree.start;
    let half = 1_u64 << (size - 1).ilog2();
    let middle = tree.start + half;
    (tree.start..middle, middle..tree.end)
}

#[cfg(test)]
mod tests;
