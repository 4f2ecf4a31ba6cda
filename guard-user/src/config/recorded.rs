//! What the reader accepts, noted in tests, so that the schemas can be held against it.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

/// What one thread has read.
#[derive(Debug, Default)]
pub(crate) struct Recorded {
    /// By what the mapping is, such as "a policy": the keys that it may have, and those that were there.
    pub mappings: BTreeMap<String, (BTreeSet<String>, BTreeSet<String>)>,
    /// By what is chosen, such as "decision": each list of words to choose from.
    pub choices: BTreeMap<String, BTreeSet<BTreeSet<String>>>,
}

thread_local! {
    static READ: RefCell<Recorded> = RefCell::default();
}

pub(super) fn mapping<'n>(what: &str, keys: &[&str], present: impl Iterator<Item = &'n str>) {
    READ.with_borrow_mut(|read| {
        let (known, there) = read.mappings.entry(what.to_owned()).or_default();
        known.extend(keys.iter().copied().map(str::to_owned));
        there.extend(present.map(str::to_owned));
    });
}

pub(super) fn choice<'w>(what: &str, words: impl Iterator<Item = &'w str>) {
    READ.with_borrow_mut(|read| {
        let lists = read.choices.entry(what.to_owned()).or_default();
        lists.insert(words.map(str::to_owned).collect());
    });
}

/// All that this thread has read since it was last asked.
pub(crate) fn take() -> Recorded {
    READ.take()
}
