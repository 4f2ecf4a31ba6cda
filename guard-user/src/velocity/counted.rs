//! What a call's record says of the windows that counted it, so that a later guard can count it again.

use std::ops::Range;

use serde::{Deserialize, Serialize, Serializer};

use super::key;
use crate::policy::ScopeId;

/// The windows that counted one request. Windows are few, and their keys are short and plain, whoever made them up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    number: u64,
    at: u64,
    /// Keys, one after the other.
    keys: Vec<u8>,
    windows: Vec<Part>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    key: Range<usize>,
    length_milliseconds: u64,
    weight: u32,
}

/// The same, read from a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recounted {
    /// Admissions are numbered; whoever has counted up to a number passes over what is not above it.
    pub number: u64,
    /// When, on the clock of the windows.
    pub at: u64,
    windows: Vec<Window>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    /// A digest of what its rule counts.
    id: String,
    seconds: u64,
    key: Vec<String>,
    #[serde(default = "one", skip_serializing_if = "is_one")]
    cost: u32,
}

/// Windows that one record names. One call has at most [`VELOCITY_METERS_MAX`](crate::policy::VELOCITY_METERS_MAX).
pub const RECORDED_WINDOWS_MAX: usize = 48;

impl Counted {
    pub(super) fn push(&mut self, key: Range<usize>, length_milliseconds: u64, weight: u32) {
        self.windows.push(Part { key, length_milliseconds, weight });
    }

    pub(super) fn seal(&mut self, number: u64, at: u64, keys: Vec<u8>) {
        if !self.windows.is_empty() {
            (self.number, self.at, self.keys) = (number, at, keys);
        }
    }

    /// What a request that names several things counts altogether, as of the last of them. `false`: no record has room for all
    /// of it.
    #[must_use]
    pub fn merge(&mut self, other: Self) -> bool {
        self.number = self.number.max(other.number);
        self.at = self.at.max(other.at);
        for part in other.windows {
            let key = other.keys.get(part.key.clone()).unwrap_or_default();
            let own = &self.keys;
            if let Some(same) = self.windows.iter_mut().find(|one| own.get(one.key.clone()) == Some(key)) {
                same.weight = same.weight.saturating_add(part.weight);
                continue;
            }
            if self.windows.len() >= RECORDED_WINDOWS_MAX {
                return false;
            }
            let from = self.keys.len();
            self.keys.extend_from_slice(key);
            self.windows.push(Part { key: from..self.keys.len(), ..part });
        }
        true
    }

    /// As long as any.
    #[cfg(test)]
    pub(crate) fn longest_for_tests() -> Self {
        let mut counted = Self { number: u64::MAX, at: u64::MAX, ..Self::default() };
        for n in 0..RECORDED_WINDOWS_MAX {
            let from = counted.keys.len();
            let part = format!("~none:{n:064}");
            counted.keys.extend(key::join(ScopeId([0xff; 8]), [part.as_str(), &part]).unwrap_or_default());
            counted.push(from..counted.keys.len(), crate::policy::WINDOW_SECONDS_MAX * 1000, u32::MAX);
        }
        counted
    }

    pub fn is_empty(&self) -> bool {
        self.windows.is_empty()
    }
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        let window = |part: &Part| {
            let (scope, key) = key::read(self.keys.get(part.key.clone())?)?;
            let key = key.into_iter().map(str::to_owned).collect();
            let seconds = part.length_milliseconds / 1000;
            Some(Window { id: scope.to_string(), seconds, key, cost: part.weight })
        };
        Recounted {
            number: self.number,
            at: self.at,
            windows: self.windows.iter().filter_map(window).collect(),
        }
        .serialize(to)
    }
}

impl Recounted {
    /// Each key with its window's length in milliseconds and its weight. What is no key is left out.
    pub(super) fn keys(&self) -> impl Iterator<Item = (Vec<u8>, u32, u32)> {
        self.windows.iter().filter_map(|window| {
            let key = key::join(ScopeId::parse(&window.id)?, window.key.iter().map(String::as_str))?;
            let length =
                u32::try_from(window.seconds.checked_mul(1000)?).ok().filter(|length| *length > 0)?;
            Some((key, length, window.cost))
        })
    }
}

fn one() -> u32 {
    1
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes fields by reference")]
fn is_one(cost: &u32) -> bool {
    *cost == 1
}
