//! The guard's readers of outside bytes, compiled from its own files.
//!
//! Not as a dependency: the whole guard with its TLS and kernel parts takes minutes to build, and these modules are all
//! that a fuzzer feeds.
#![allow(dead_code, unreachable_pub, reason = "the rest of the guard uses what is not used here")]

#[path = "../../../guard-user/src/http"]
pub mod http {
    pub mod framing;
}
#[path = "../../../guard-user/src/rpc/mod.rs"]
pub mod rpc;
#[path = "../../../guard-user/src"]
mod guard {
    pub mod types;
}
pub use guard::types;
#[path = "../../../guard-user/src/config"]
pub mod config {
    mod issuer;
    mod jwks_url;
    mod scope;

    pub use issuer::{Algorithm, UserDemand};
    pub use jwks_url::JwksUrl;
    pub use scope::{Scope, ScopeError};
}
#[path = "../../../guard-user/src/identity"]
pub mod identity {
    pub mod secret;

    pub mod certificate {
        mod fault;
        mod names;
        mod spiffe;
        mod subject;

        pub use fault::CertificateFault;
        pub use names::CertificateName;
        pub use spiffe::{NotAnId, SpiffeId};
        pub use subject::{NotASubject, Subject};

        /// Whom a certificate names, in DER.
        pub fn names(own: &[u8]) -> Result<Vec<CertificateName>, CertificateFault> {
            names::read(own)
        }
    }

    pub mod token {
        mod claims;
        mod fault;
        mod header;
        mod jwks;
        mod keys;
        mod scopes;
        mod text;

        use std::sync::Arc;

        pub use fault::TokenFault;

        use crate::config::{Algorithm, Scope, UserDemand};
        use crate::types::UserName;

        /// What a token says, before anybody looks whether it is signed.
        #[derive(Debug)]
        pub struct Said {
            pub algorithm: Algorithm,
            pub kid: Option<String>,
            pub subject: Arc<str>,
            pub scopes: Vec<Scope>,
            pub user: Option<UserName>,
            pub is_for_us: bool,
        }

        /// Reads a token as the guard does; `audience` is its own.
        pub fn read(token: &str, audience: &str) -> Result<Said, TokenFault> {
            let parts = text::Parts::of(token)?;
            let (head, said) = (text::object(parts.header)?, text::object(parts.claims)?);
            text::bytes(parts.signature)?;
            let (algorithm, kid) = header::read(&head)?;
            Ok(Said {
                algorithm,
                kid: kid.map(str::to_owned),
                subject: claims::Claims::read(&said)?.subject,
                scopes: scopes::read(&said)?,
                user: claims::user(&said, "email", UserDemand::Optional)?,
                is_for_us: claims::is_for(&said, audience),
            })
        }

        /// Whom a token is for that cannot be read as a whole, too.
        pub fn is_for(token: &str, audience: &str) -> bool {
            let claims = text::Parts::of(token).and_then(|parts| text::object(parts.claims));
            claims.is_ok_and(|claims| claims::is_for(&claims, audience))
        }

        /// What looks like a token in a header.
        pub fn bearer(value: &[u8]) -> Option<&str> {
            text::bearer(value)
        }

        /// Whether a header holds a token that goes to no server.
        pub fn is_for_any(value: &[u8], audiences: &[&str]) -> bool {
            text::is_for_any(value, audiences)
        }

        /// The names and digests of the keys of a set, and what is said of the others.
        pub fn keys(set: &[u8]) -> Result<(Vec<Named>, Vec<String>), String> {
            let (keys, notes) = jwks::read(set, &Algorithm::ALL)?;
            Ok((keys.iter().map(name).collect(), notes))
        }

        /// The same of every key that a set names, whatever else is wrong with it.
        pub fn named(set: &[u8]) -> Option<Vec<Named>> {
            Some(jwks::named(set, &Algorithm::ALL)?.iter().map(name).collect())
        }

        pub type Named = (Option<String>, Algorithm, [u8; 32]);

        fn name(key: &keys::PublicKey) -> Named {
            (key.kid.clone(), key.algorithm, *key.digest.bytes())
        }

        pub use jwks::{JWKS_BYTES_MAX, JWKS_KEYS_MAX};
        pub use text::TOKEN_BYTES_MAX;
    }

    /// The guard's secret in a header: whether it has the form of one. `None`: there is none.
    pub fn secret_of(value: &[u8]) -> Option<bool> {
        secret::bearer(value).map(|secret| secret.is_ok())
    }
}

/// The guard's reader of the trail, and where a trail is that has one record.
#[path = "../../../guard-user/src/audit"]
pub mod audit {
    mod keys;
    mod merkle;
    mod note;
    mod packed;
    mod spelling;
    mod walk;

    pub const KEYS_FILE: &str = "keys";
    pub const FORMAT: u32 = 1;
    pub const LINE_BYTES_MAX: usize = 65_535;

    /// What packing needs, which no line does.
    mod disk {
        use std::path::{Path, PathBuf};

        pub(super) fn beside(path: &Path, _ending: &str) -> PathBuf {
            path.to_owned()
        }

        pub(super) fn sync_dir(_dir: &Path) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// Whether `line` can be the second record of the trail of `key` that begins with `first`.
    pub fn is_second(key: &str, first: &str, line: &[u8]) -> Result<(), String> {
        let key = note::VerifierKey::parse(key).map_err(|error| error.to_string())?;
        let mut walk = walk::Walk::from(0, 0, keys::Keys::new(key));
        walk.line(first.as_bytes()).expect("a first record");
        walk.line(line)
    }
}
#[path = "../../../guard-user/src/bin/mcp-guard-verify"]
pub mod verifier {
    mod note;
    mod record;
    mod spelling;
    mod tree;

    /// What a record says goes on from the records before it, or not.
    #[derive(Debug, PartialEq, Eq)]
    pub enum Said {
        Alone,
        OfOthers,
    }

    /// The offline verifier's reading of `line` behind `first`.
    pub fn second(first: &str, line: &[u8]) -> Result<Said, String> {
        use record::Meaning::{Call, Gap, Other, Refusal};

        let record = record::read(line)?;
        if record.seq != 1 || record.prev != tree::leaf(first.as_bytes()) {
            return Err("it belongs elsewhere".into());
        }
        Ok(match record.meaning {
            Call(_) | Refusal | Other | Gap { restart: None | Some(0), .. } => Said::Alone,
            _ => Said::OfOthers,
        })
    }

    /// The `prev` of the record behind `first`.
    pub fn prev(first: &str) -> String {
        note::hex(&tree::leaf(first.as_bytes()))
    }
}

/// The bytes in pieces whose lengths the first byte of the input makes.
pub fn pieces(bytes: &[u8], seed: u8) -> Vec<&[u8]> {
    let mut state = u32::from(seed).wrapping_mul(2_654_435_761) | 1;
    let mut rest = bytes;
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let most = if state & 0x100 == 0 { 4 } else { 64 };
        let length = 1 + usize::try_from(state >> 16).unwrap_or(0) % most;
        let (piece, next) = rest.split_at(length.min(rest.len()));
        pieces.push(piece);
        rest = next;
    }
    pieces
}
