//! The RFC 6962 Merkle tree over the lines, kept as the roots of its complete subtrees: at most 64 hashes.

use std::ops::Range;

use aws_lc_rs::digest::{Context, SHA256};

pub(super) type Hash = [u8; 32];

/// SHA-256(0x00 || line): the line's leaf in the tree, and `prev` in the line after it.
pub(super) fn leaf_hash(line: &[u8]) -> Hash {
    sha256(&[&[0], line])
}

/// A tree that only grows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tree {
    size: u64,
    /// Roots of the complete subtrees, largest first: one for each bit set in `size`.
    peaks: Vec<Hash>,
}

impl Tree {
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn peaks(&self) -> &[Hash] {
        &self.peaks
    }

    /// `None`: a tree of this size has another number of peaks.
    pub(super) fn from_peaks(size: u64, peaks: Vec<Hash>) -> Option<Self> {
        (usize::try_from(size.count_ones()) == Ok(peaks.len())).then_some(Self { size, peaks })
    }

    /// The leaves of `range` as a tree, if whole subtrees make it up.
    pub(super) fn part(&self, range: &Range<u64>) -> Option<Self> {
        let (mut at, mut peaks) = (0, Vec::new());
        for (bit, peak) in (0..u64::BITS).rev().filter(|bit| self.size >> bit & 1 == 1).zip(&self.peaks) {
            let start = at;
            at += 1 << bit;
            if range.start <= start && at <= range.end {
                peaks.push(*peak);
            }
        }
        Self::from_peaks(range.end.checked_sub(range.start)?, peaks)
    }

    pub(super) fn push(&mut self, leaf: Hash) {
        let mut node = leaf;
        // Each trailing one in the old size is a complete subtree as large as the one just made: join them.
        for _ in 0..self.size.trailing_ones() {
            if let Some(left) = self.peaks.pop() {
                node = node_hash(&left, &node);
            }
        }
        self.peaks.push(node);
        self.size += 1;
    }

    pub(super) fn root(&self) -> Hash {
        let mut from_right = self.peaks.iter().rev();
        let Some(&last) = from_right.next() else { return sha256(&[]) };
        from_right.fold(last, |right, left| node_hash(left, &right))
    }
}

pub(super) fn sha256(parts: &[&[u8]]) -> Hash {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(part);
    }
    let mut hash = [0; 32];
    hash.copy_from_slice(context.finish().as_ref());
    hash
}

fn node_hash(left: &Hash, right: &Hash) -> Hash {
    sha256(&[&[1], left, right])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The recursive definition of RFC 6962, section 2.1.
    fn defined(leaves: &[Vec<u8>]) -> Hash {
        match leaves {
            [] => sha256(&[]),
            [leaf] => leaf_hash(leaf),
            _ => {
                let (left, right) = leaves.split_at(leaves.len().next_power_of_two() / 2);
                node_hash(&defined(left), &defined(right))
            }
        }
    }

    fn grown(leaves: &[Vec<u8>]) -> Hash {
        let mut tree = Tree::default();
        for leaf in leaves {
            tree.push(leaf_hash(leaf));
        }
        tree.root()
    }

    #[test]
    fn roots_are_those_of_the_certificate_transparency_vectors() {
        let leaves = [
            "",
            "00",
            "10",
            "2021",
            "3031",
            "40414243",
            "5051525354555657",
            "606162636465666768696a6b6c6d6e6f",
        ]
        .map(|text| hex::decode(text).unwrap());
        let roots = [
            "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
            "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
            "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
            "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
            "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
            "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
            "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
            "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
            "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
        ];
        for (size, root) in roots.iter().enumerate() {
            assert_eq!(hex::encode(grown(&leaves[..size])), *root, "of {size} leaves");
        }
    }

    proptest! {
        #[test]
        fn a_grown_tree_has_the_defined_root(leaves in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..4), 0..200)) {
            prop_assert_eq!(grown(&leaves), defined(&leaves));
        }
    }
}
