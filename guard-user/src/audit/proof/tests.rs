//! Against an implementation of others (`tlog_tiles`).

use proptest::prelude::*;
use tlog_tiles::tlog::{self, HashReader, check_record, check_tree, prove_record, prove_tree, tree_hash};

use super::*;
use crate::audit::merkle::leaf_hash;

mod vectors;

/// Trees larger than this are tried by chance only.
const EVERY_SIZE: u64 = 70;
const LARGEST: u64 = 3_000;

/// The other implementation's store of one log.
struct Stored(Vec<tlog::Hash>);

impl HashReader for Stored {
    fn read_hashes(&self, indexes: &[u64]) -> Result<Vec<tlog::Hash>, tlog::Error> {
        Ok(indexes.iter().map(|index| self.0[usize::try_from(*index).unwrap()]).collect())
    }
}

fn line(index: u64) -> Vec<u8> {
    format!("record {index}").into_bytes()
}

fn stored(size: u64) -> Stored {
    let mut store = Stored(Vec::new());
    for index in 0..size {
        let more = tlog::stored_hashes(index, &line(index), &store).unwrap();
        store.0.extend(more);
    }
    store
}

fn gathered(mut gathering: Gathering, size: u64) -> Vec<Hash> {
    for index in 0..size {
        gathering.leaf(index, leaf_hash(&line(index)));
    }
    gathering.hashes()
}

fn plain(proof: Vec<tlog::Hash>) -> Vec<Hash> {
    proof.into_iter().map(|hash| hash.0).collect()
}

fn check_inclusion(store: &Stored, index: u64, size: u64) {
    let proof = gathered(Gathering::inclusion(index, size).unwrap(), size);
    let theirs = prove_record(size, index, store).unwrap();
    let root = tree_hash(size, store).unwrap();
    check_record(
        &proof.iter().map(|hash| tlog::Hash(*hash)).collect(),
        size,
        root,
        index,
        tlog::record_hash(&line(index)),
    )
    .unwrap();
    assert_eq!(proof, plain(theirs), "record {index} of {size}");
}

fn check_consistency(store: &Stored, old: u64, size: u64) {
    let proof = gathered(Gathering::consistency(old, size).unwrap(), size);
    let theirs = prove_tree(size, old, store).unwrap();
    let (root, old_root) = (tree_hash(size, store).unwrap(), tree_hash(old, store).unwrap());
    check_tree(&proof.iter().map(|hash| tlog::Hash(*hash)).collect(), size, root, old, old_root).unwrap();
    assert_eq!(proof, plain(theirs), "{old} of {size}");
}

#[test]
fn proofs_of_all_small_trees_are_those_of_another_implementation() {
    let store = stored(EVERY_SIZE);
    for size in 1..=EVERY_SIZE {
        for index in 0..size {
            check_inclusion(&store, index, size);
            check_consistency(&store, index + 1, size);
        }
    }
}

#[test]
fn nothing_proves_what_is_not_in_the_tree() {
    assert!(Gathering::inclusion(0, 0).is_none());
    assert!(Gathering::inclusion(7, 7).is_none());
    assert!(Gathering::consistency(8, 7).is_none());
    assert_eq!(gathered(Gathering::consistency(0, 7).unwrap(), 7), Vec::<Hash>::new());
    assert_eq!(gathered(Gathering::consistency(7, 7).unwrap(), 7), Vec::<Hash>::new());
}

#[test]
fn no_proof_is_longer_than_a_witness_takes() {
    const LARGEST_TREE: u64 = 1 << 62;
    assert_eq!(Gathering::inclusion(0, LARGEST_TREE).unwrap().0.len(), 62);
    for old in [1, LARGEST_TREE / 2 - 1, LARGEST_TREE / 2 + 1, LARGEST_TREE - 1] {
        assert!(Gathering::consistency(old, LARGEST_TREE).unwrap().0.len() <= 63, "{old}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn proofs_of_larger_trees_are_those_of_another_implementation(size in 1..=LARGEST, at in any::<prop::sample::Index>()) {
        let store = stored(size);
        let index = u64::try_from(at.index(usize::try_from(size).unwrap())).unwrap();
        check_inclusion(&store, index, size);
        check_consistency(&store, index + 1, size);
    }
}

proptest! {
    #[test]
    fn what_is_proved_of_the_rest_of_a_pruned_trail_is_what_the_whole_proves(
        (size, first, index) in (1..2_000_u64).prop_flat_map(|size| (Just(size), 0..=size, 0..=size)),
    ) {
        let (mut known, mut whole) = (Tree::default(), Tree::default());
        for at in 0..size {
            if at == first {
                known = whole.clone();
            }
            whole.push(leaf_hash(&line(at)));
        }
        if first == size {
            known = whole.clone();
        }
        let rest = |mut gathering: Gathering| {
            let is_enough = gathering.begin(&known);
            for at in first..size {
                gathering.leaf(at, leaf_hash(&line(at)));
            }
            is_enough.then(|| gathering.hashes())
        };
        if index < size && index >= first {
            let gathering = || Gathering::inclusion(index, size).unwrap();
            prop_assert_eq!(rest(gathering()), Some(gathered(gathering(), size)));
        }
        if index >= first {
            let gathering = || Gathering::consistency(index, size).unwrap();
            prop_assert_eq!(rest(gathering()), Some(gathered(gathering(), size)));
        }
        let mut again = known.clone();
        for at in first..size {
            again.push(leaf_hash(&line(at)));
        }
        prop_assert_eq!(again.root(), whole.root());
        // Below the cut there is either a right proof or none.
        if index < first {
            let gathering = || Gathering::consistency(index, size).unwrap();
            let proof = rest(gathering());
            prop_assert!(proof.is_none() || proof == Some(gathered(gathering(), size)));
        }
    }
}
