//! `guard.yaml`: what is protected, and how the guard itself runs. What agents may do is in the policy files.

mod authorize;
mod checkpoints;
mod credential;
pub mod decisions;
mod egress;
mod file;
#[cfg(test)]
pub(crate) mod golden;
mod issuer;
mod jwks_url;
mod limits;
mod load;
mod oauth;
mod owner;
mod place;
pub mod problem;
pub mod reader;
#[cfg(test)]
pub(crate) mod recorded;
mod scope;
mod witness;
pub mod yaml;

pub use authorize::{Authorize, METADATA_PATH};
pub use checkpoints::Checkpoints;
pub use credential::Credential;
pub use egress::{Answer, Destination, DestinationError, Egress, Host, OtherPorts};
pub use file::{
    Audit, Batches, Config, Cosmetic, Durability, FirstSight, Kernel, Plaintext, Reload, Server, Tls,
    ToolRules, WallMode,
};
pub use issuer::{Algorithm, Issuer, KeySource, LEEWAY_SECONDS_MAX, PemKey, UserDemand};
pub use jwks_url::{HttpsUrl, JwksUrl, REFRESH_SECONDS_MIN, STALE_SECONDS_MAX, UrlError};
pub use limits::Limits;
pub use load::Overrides;
pub use owner::{others_may_write, who_else_may_write};
pub use place::{ContainerId, Place, PlaceError, UnitName};
pub use problem::{Problem, Problems};
pub use scope::{SCOPE_BYTES_MAX, Scope, ScopeError};
pub use witness::{Witness, WitnessError, WitnessKey, WitnessUrl};

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// The content of `path`; an error if it is not a regular file or has more than `bytes_max`.
pub fn read_bounded(path: &Path, bytes_max: usize) -> io::Result<Vec<u8>> {
    let file = File::open(path)?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(bytes_max).unwrap_or(u64::MAX).saturating_add(1);
    file.take(limit).read_to_end(&mut bytes)?;
    if bytes.len() > bytes_max {
        return Err(io::Error::other(format!("it has more than {bytes_max} bytes")));
    }
    Ok(bytes)
}
