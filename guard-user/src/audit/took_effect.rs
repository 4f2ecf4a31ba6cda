//! What judges calls from a record on: policy, credentials, the keys of those who vouch, and the guard's own certificate.
#![expect(clippy::ref_option_ref, reason = "serde's derive passes fields by reference")]

use serde::Serialize;

use super::text;

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
}

/// What is beside the policy, each as SHA-256 in hex; `None`: there is none of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Digests {
    /// Of the file. It holds hashes of secrets of 256 random bits, so that nobody gets one by trying.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<String>,
    /// Of the certificates (DER), one after the other, in the order of `guard.yaml`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_ca: Option<String>,
    /// The same of lists of what is revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_crl: Option<String>,
    /// Of the issuers' keys that come from files; those that are asked for have records of their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub issuer_keys: Option<String>,
    /// Of the guard's own certificate (DER).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<String>,
}
