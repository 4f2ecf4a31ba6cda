//! What some records that follow each other have in common: enough to say that what is wanted is not among them.

use super::Query;
use super::terms::{Fields, Term};
use crate::audit::merkle::{Hash, leaf_hash, sha256};

/// Bytes of records in a block, about. One is read in a few milliseconds.
pub(super) const BLOCK_BYTES: u64 = 1 << 20;
/// Bits that say which terms may be there. With a thousand records, one in ten looks is for nothing.
const BITS: usize = 16 * 1024;
const WORDS: usize = BITS / 64;
/// Bytes of a block on disk.
pub(super) const ENCODED_BYTES: usize = 8 * 7 + WORDS * 8 + CHECK_BYTES;
/// Of a digest over the others, for what was not written to its end.
const CHECK_BYTES: usize = 8;

/// Some whole lines of one segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Block {
    /// Where its first line begins in the segment, and how long all are, newlines included.
    pub(super) offset: u64,
    pub(super) bytes: u64,
    /// The first record's number, and how many there are.
    pub(super) first: u64,
    pub(super) count: u64,
    /// Microseconds since 1970, of the earliest and the latest record; the order of records need not be that of their times.
    earliest: i64,
    latest: i64,
    /// Highest risk of a call, in the lowest byte, and 7 bytes of the last line's leaf hash.
    mixed: u64,
    terms: Box<[u64; WORDS]>,
}

impl Block {
    pub(super) fn at(offset: u64, first: u64) -> Self {
        let terms = Box::new([0; WORDS]);
        Self { offset, bytes: 0, first, count: 0, earliest: i64::MAX, latest: i64::MIN, mixed: 0, terms }
    }

    /// Takes the next line, without its newline.
    pub(super) fn add(&mut self, line: &[u8]) {
        self.bytes += u64::try_from(line.len()).unwrap_or(u64::MAX).saturating_add(1);
        self.count += 1;
        let risk = self.risk();
        self.mixed = tail(&leaf_hash(line)) << 8 | u64::from(risk);
        let Some(record) = Fields::of(line) else {
            // Nothing is known of it, so it may be anything.
            (self.earliest, self.latest) = (i64::MIN, i64::MAX);
            self.mixed |= 0xff;
            self.terms.fill(u64::MAX);
            return;
        };
        record.terms(|term| {
            for bit in places(term) {
                if let Some(word) = self.terms.get_mut(bit / 64) {
                    *word |= 1 << (bit % 64);
                }
            }
        });
        if let Some(moment) = record.moment() {
            self.earliest = self.earliest.min(moment.as_microsecond());
            self.latest = self.latest.max(moment.as_microsecond());
        } else {
            (self.earliest, self.latest) = (i64::MIN, i64::MAX);
        }
        self.mixed = self.mixed & !0xff | u64::from(risk.max(record.score().unwrap_or(0)));
    }

    /// Where the block behind it begins.
    pub(super) fn end(&self) -> u64 {
        self.offset.saturating_add(self.bytes)
    }

    /// Whether its last line is this one.
    pub(super) fn ends_with(&self, line: &[u8]) -> bool {
        self.mixed >> 8 == tail(&leaf_hash(line))
    }

    /// Whether a record that is wanted may be here.
    pub(super) fn may_have(&self, query: &Query, terms: &[Term]) -> bool {
        query.from.is_none_or(|from| self.latest >= from.as_microsecond())
            && query.to.is_none_or(|to| self.earliest < to.as_microsecond())
            && query.min_risk.is_none_or(|least| self.risk() >= least)
            && terms.iter().all(|term| self.may_have_term(*term))
    }

    pub(super) fn may_have_term(&self, term: Term) -> bool {
        places(term)
            .iter()
            .all(|bit| self.terms.get(bit / 64).is_some_and(|word| word >> (bit % 64) & 1 == 1))
    }

    #[cfg(test)]
    pub(super) fn without_terms(mut self) -> Self {
        self.terms.fill(0);
        self
    }

    fn risk(&self) -> u8 {
        self.mixed.to_le_bytes()[0]
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(ENCODED_BYTES);
        for number in [self.offset, self.bytes, self.first, self.count, self.mixed] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        for time in [self.earliest, self.latest] {
            bytes.extend_from_slice(&time.to_le_bytes());
        }
        bytes.extend(self.terms.iter().flat_map(|word| word.to_le_bytes()));
        let check = sha256(&[&bytes]);
        bytes.extend_from_slice(check.first_chunk::<CHECK_BYTES>().unwrap_or(&[0; CHECK_BYTES]));
        bytes
    }

    /// `None`: this was not written by [`encode`](Self::encode), or not to its end.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let (content, check) = bytes.split_last_chunk::<CHECK_BYTES>()?;
        if sha256(&[content]).first_chunk() != Some(check) {
            return None;
        }
        let (words, rest) = content.as_chunks::<8>();
        if !rest.is_empty() {
            return None;
        }
        let number = |at: usize| words.get(at).map(|word| u64::from_le_bytes(*word));
        let time = |at: usize| words.get(at).map(|word| i64::from_le_bytes(*word));
        let mut terms = Box::new([0; WORDS]);
        let stored = words.get(7..).filter(|stored| stored.len() == WORDS)?;
        for (word, stored) in terms.iter_mut().zip(stored) {
            *word = u64::from_le_bytes(*stored);
        }
        Some(Self {
            offset: number(0)?,
            bytes: number(1)?,
            first: number(2)?,
            count: number(3)?,
            mixed: number(4)?,
            earliest: time(5)?,
            latest: time(6)?,
            terms,
        })
    }
}

/// Enough of a hash to tell a line from the one that stood there before.
fn tail(hash: &Hash) -> u64 {
    hash.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes) >> 8)
}

/// The bits of a term.
fn places(term: Term) -> [usize; 2] {
    let mask = BITS - 1;
    let (low, high) = (term.0 ^ term.0 >> 17, term.0 >> 32 ^ term.0 >> 47);
    [usize::try_from(low & 0xffff_ffff).unwrap_or(0) & mask, usize::try_from(high).unwrap_or(0) & mask]
}
