//! The record of a loss that an operator accepts, so that the trail goes on without what is gone.

use std::sync::atomic::Ordering;

use serde::Serialize;

use super::super::{AuditLog, text};

/// A `gap` of its own kind: verifiers count it apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename = "gap")]
pub(in crate::audit) struct Loss {
    pub(super) reason: Reason,
    /// What the guard found.
    #[serde(serialize_with = "sentence")]
    pub(super) cause: String,
    /// What the operator said.
    #[serde(serialize_with = "sentence")]
    pub(super) text: String,
    pub(super) uid: u32,
    /// The records that a signed checkpoint covers and that are gone; where others stand in their place, nobody knows the first.
    pub(super) lost_from: Option<u64>,
    pub(super) lost_to: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reason {
    LossAccepted,
}

fn sentence<S: serde::Serializer>(sentence: &str, to: S) -> Result<S::Ok, S::Error> {
    text::sentence(sentence, to)
}

impl AuditLog {
    /// How many losses of records operators have accepted, by the records that were there when it was opened.
    pub fn losses(&self) -> u64 {
        self.health().losses.load(Ordering::Relaxed)
    }
}

impl Loss {
    /// The record's body.
    pub(in crate::audit) fn body(&self) -> Result<Vec<u8>, serde_json::Error> {
        text::encode(self)
    }
}
