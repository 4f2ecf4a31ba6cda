//! Random trees: the guard, the offline verifier and an implementation of others (`tlog_tiles`) must agree on each.

use super::*;

/// The offline verifier's own code.
#[path = "../../../../tests/written/verifier.rs"]
#[allow(dead_code, reason = "the tree and the proofs are a part")]
mod verifier;

use verifier::note::Checkpoint;
use verifier::proof::{grows, root_of};
use verifier::tree;

/// `GUARD_FAULTS_TREES` takes the place of the number, as `cargo xtask faults` does.
const TREES: u64 = 4_000;

/// `SplitMix64`: a tree is known by its number.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

/// One log, as each of the three has it.
struct Log {
    records: Vec<Vec<u8>>,
    /// The other implementation's hashes.
    store: Stored,
}

impl Log {
    /// Of records of any length and content, short and empty ones among them.
    fn random(random: &mut Random) -> Self {
        // Mostly small, where the shapes are; one in sixteen is larger.
        let most = if random.below(16) == 0 { 600 } else { 40 };
        let size = 1 + random.below(most);
        let (mut records, mut store) = (Vec::new(), Stored(Vec::new()));
        for index in 0..size {
            let mut record = Vec::new();
            for _ in 0..random.below(4) {
                let some = usize::try_from(random.below(8)).unwrap();
                record.extend_from_slice(&random.next().to_le_bytes()[..some]);
            }
            let more = tlog::stored_hashes(index, &record, &store).unwrap();
            store.0.extend(more);
            records.push(record);
        }
        Self { records, store }
    }

    fn size(&self) -> u64 {
        u64::try_from(self.records.len()).unwrap()
    }

    fn record(&self, index: u64) -> &[u8] {
        &self.records[usize::try_from(index).unwrap()]
    }

    fn gathered(&self, mut gathering: Gathering) -> Vec<Hash> {
        for (index, record) in (0..).zip(&self.records) {
            gathering.leaf(index, leaf_hash(record));
        }
        gathering.hashes()
    }

    /// Of the first `size` records, by all three.
    fn root(&self, size: u64) -> Hash {
        let (mut ours, mut theirs) = (Tree::default(), tree::Tree::default());
        for record in &self.records[..usize::try_from(size).unwrap()] {
            ours.push(leaf_hash(record));
            theirs.add(tree::leaf(record));
        }
        let root = tree_hash(size, &self.store).unwrap().0;
        assert_eq!((ours.root(), theirs.root()), (root, root), "the root of {size}");
        // A reader who begins here has only these.
        assert_eq!(Tree::from_peaks(size, ours.peaks().to_vec()), Some(ours.clone()));
        assert_eq!(tree::Tree::of(size, ours.peaks()), Some(theirs));
        root
    }
}

fn others(hashes: &[Hash]) -> tlog::RecordProof {
    hashes.iter().map(|hash| tlog::Hash(*hash)).collect()
}

/// What must not pass: a hash changed, left out or too many.
fn spoiled(proof: &[Hash], random: &mut Random) -> Vec<Vec<Hash>> {
    let mut all = vec![[proof, &[[7; 32]]].concat()];
    if !proof.is_empty() {
        let at = usize::try_from(random.below(u64::try_from(proof.len()).unwrap())).unwrap();
        let mut changed = proof.to_vec();
        changed[at][usize::try_from(random.below(32)).unwrap()] ^= 1 << random.below(8);
        let mut shorter = proof.to_vec();
        shorter.remove(at);
        all.extend([changed, shorter]);
    }
    all
}

fn inclusion(log: &Log, index: u64, random: &mut Random) {
    let (size, record) = (log.size(), log.record(index));
    let root = log.root(size);
    let proof = log.gathered(Gathering::inclusion(index, size).unwrap());
    assert_eq!(proof, plain(prove_record(size, index, &log.store).unwrap()), "record {index} of {size}");
    let others_take = |proof: &[Hash], index| {
        check_record(&others(proof), size, tlog::Hash(root), index, tlog::record_hash(record)).is_ok()
    };
    let verifier_takes =
        |proof: &[Hash], index| root_of(index, size, tree::leaf(record), proof) == Some(root);
    assert!(others_take(&proof, index) && verifier_takes(&proof, index), "record {index} of {size}");
    for wrong in spoiled(&proof, random) {
        assert!(!others_take(&wrong, index) && !verifier_takes(&wrong, index), "record {index} of {size}");
    }
    // A record stands in one place, unless the same one stands in others.
    let elsewhere = random.below(size);
    if log.record(elsewhere) != record {
        assert!(
            !others_take(&proof, elsewhere) && !verifier_takes(&proof, elsewhere),
            "{index}: {elsewhere}"
        );
    }
    assert!(!verifier_takes(&proof, size), "behind the last record");
}

fn consistency(log: &Log, old: u64, random: &mut Random) {
    let size = log.size();
    let (older, latest) = (log.root(old), log.root(size));
    let proof = log.gathered(Gathering::consistency(old, size).unwrap());
    assert_eq!(proof, plain(prove_tree(size, old, &log.store).unwrap()), "{old} of {size}");
    let checkpoint = |size, root| Checkpoint { origin: String::new(), size, root, more: None };
    let others_take = |proof: &[Hash], older| {
        check_tree(&others(proof), size, tlog::Hash(latest), old, tlog::Hash(older)).is_ok()
    };
    let verifier_takes =
        |proof: &[Hash], older| grows(&checkpoint(old, older), &checkpoint(size, latest), proof);
    assert!(others_take(&proof, older) && verifier_takes(&proof, older), "{old} of {size}");
    for wrong in spoiled(&proof, random) {
        assert!(!others_take(&wrong, older) && !verifier_takes(&wrong, older), "{old} of {size}");
    }
    let mut another = older;
    another[0] ^= 1;
    assert!(!others_take(&proof, another) && !verifier_takes(&proof, another), "{old} of {size}");
}

/// The formats' own vectors stand in `note.rs` and `merkle.rs`.
#[test]
fn note_vectors() {
    let trees = std::env::var("GUARD_FAULTS_TREES").map_or(TREES, |trees| trees.parse().unwrap());
    for number in 0..trees {
        let mut random = Random(number);
        let log = Log::random(&mut random);
        let index = random.below(log.size());
        inclusion(&log, index, &mut random);
        consistency(&log, index + 1, &mut random);
    }
    println!("{trees} random trees: the guard, the offline verifier and tlog_tiles agree");
}
