//! The Merkle tree of RFC 6962, counted up like a binary number: slot `n` holds the root of 2^n leaves or nothing.

use sha2::{Digest, Sha256};

pub(crate) type Hash = [u8; 32];

#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Tree {
    slots: Vec<Option<Hash>>,
}

/// SHA-256(0x00 || line).
pub(crate) fn leaf(line: &[u8]) -> Hash {
    Sha256::new().chain_update([0]).chain_update(line).finalize().into()
}

impl Tree {
    /// Of so many leaves, from the roots of its complete subtrees, the largest first.
    pub(crate) fn of(size: u64, peaks: &[Hash]) -> Option<Self> {
        let mut peaks = peaks.iter().rev();
        let height = u64::BITS - size.leading_zeros();
        let slots: Vec<_> =
            (0..height).map(|bit| (size >> bit & 1 == 1).then(|| peaks.next().copied())).collect();
        let is_whole = peaks.next().is_none() && slots.iter().all(|slot| *slot != Some(None));
        is_whole.then(|| Self { slots: slots.into_iter().map(Option::flatten).collect() })
    }

    pub(crate) fn add(&mut self, leaf: Hash) {
        let mut carry = leaf;
        for slot in &mut self.slots {
            let Some(left) = slot.take() else {
                *slot = Some(carry);
                return;
            };
            carry = node(&left, &carry);
        }
        self.slots.push(Some(carry));
    }

    pub(crate) fn root(&self) -> Hash {
        let mut root = None;
        for slot in self.slots.iter().flatten() {
            root = Some(match root {
                Some(right) => node(slot, &right),
                None => *slot,
            });
        }
        root.unwrap_or_else(|| Sha256::digest([]).into())
    }
}

/// SHA-256(0x01 || left || right).
pub(crate) fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}
