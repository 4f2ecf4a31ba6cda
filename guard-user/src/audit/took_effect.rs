//! What judges calls from a record on: policy, credentials, the keys of those who vouch, and the guard's own certificate.
#![expect(clippy::ref_option_ref, reason = "serde's derive passes fields by reference")]

use serde::Serialize;

use super::text;
use crate::rules::Digests;

/// All of it was read, and takes effect with this record.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct TookEffect<'a> {
    /// Of the policy.
    #[serde(serialize_with = "text::name")]
    pub digest: &'a str,
    /// Servers whose rules bind nobody.
    #[serde(serialize_with = "text::sentence_opt")]
    pub text: Option<&'a str>,
    #[serde(flatten)]
    pub cause: Cause,
    pub digests: &'a Digests,
}

/// Why it was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum Cause {
    Start,
    /// An operator, who is this user, asked for it.
    Operator {
        uid: u32,
    },
    /// SIGHUP.
    Signal,
    /// The files changed (`reload: on_change`).
    Changed,
    /// The certificate of the local CA got old.
    Renewal,
    /// The record before was written too late for that to take effect: this was and is in force.
    Stays,
}
